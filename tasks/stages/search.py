"""Stage search: settings of sampling that suit one defect type's adapter, by the figures of a few pairs."""

import json
import logging

from prefect import task

from dual_anodiff.image_encoder import SHA256 as ENCODER
from tasks.config import RunConfig
from tasks.data.split import ShotChoice, choice_key, chosen_shots
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.stage import OPTIONS, run_stage
from tasks.store.artifacts import Artifact, Staged
from tasks.tables.known_side import known_side, side_px
from tasks.tables.object_masks import normal_backgrounds, read_object_masks
from tasks.tables.prepared import read_samples

SEARCH = Stage(
    "search",
    version=3,
    heavy=True,
    time_by=("search.num_pairs", "search.rounds"),
    sections=("generate", "quality"),
)
# As in generate; each candidate sets how many pairs are drawn.
NOT_IN_KEY = {"batch_size", "where", "start", "strength", "num_pairs"}
CANDIDATES, CHOSEN = "candidates.parquet", "chosen.json"

log = logging.getLogger("anodiff")


def plan_search(
    config: RunConfig,
    prepared: Artifact,
    adapter: Artifact,
    defect: str,
    choice: ShotChoice | None = None,
    objects: Artifact | None = None,
) -> Call:
    """Name the settings found for one defect type's adapter."""
    out = SEARCH.plan(
        config.store,
        adapter.category,
        label=adapter.label,
        defect=defect,
        samples=prepared,
        adapter=adapter,
        encoder=ENCODER,
        seed=config.seed,
        max_normals=config.quality.max_normals,
        search=config.search,
        **({} if objects is None else {"objects": objects}),
        **choice_key(choice),
        **config.generate.model_dump(exclude=NOT_IN_KEY),
    )
    inputs = {
        "prepared": prepared,
        "adapter": adapter,
        "defect": defect,
        "choice": choice,
        "objects": objects,
    }
    return Call(SEARCH, search, config, out, inputs)


@task(name="search", **OPTIONS)
def search(
    out: Artifact,
    prepared: Artifact,
    adapter: Artifact,
    defect: str,
    config: RunConfig,
    choice: ShotChoice | None = None,
    objects: Artifact | None = None,
) -> StageResult:
    """Draw a few pairs with each candidate and measure them against the shots."""

    def make(staged: Staged, device: str) -> None:
        from dual_anodiff.search import SETTINGS
        from dual_anodiff.search import search as find

        samples = read_samples(prepared, config.data)
        backgrounds = [] if objects is None else normal_backgrounds(samples, read_object_masks(objects))
        samples = chosen_shots(samples, choice)
        shots, normals, flips = known_side(samples, defect, config, side_px(config))
        table = find(
            adapter.path,
            config.generate,
            config.search,
            shots,
            normals,
            device=device,
            seed=config.seed,
            backgrounds=backgrounds,
            flips=flips,
        )
        table.to_parquet(staged.out / CANDIDATES, index=False)
        (best,) = json.loads(table.loc[table["chosen"], list(SETTINGS)].to_json(orient="records"))
        (staged.out / CHOSEN).write_text(json.dumps(best, indent=1) + "\n")

    return run_stage(SEARCH, out, config, make)


def tuned(config: RunConfig, found: Artifact) -> RunConfig:
    """The config with the settings that a finished search chose. Says which."""
    chosen = json.loads((found.path / CHOSEN).read_text())
    log.info(
        "%-9s %s: %s", "search", found.label, ", ".join(f"{name} {each}" for name, each in chosen.items())
    )
    generate = config.generate.model_validate(config.generate.model_dump() | chosen)
    return config.model_copy(update={"generate": generate})
