"""Stage synthesize: the cheap baselines' pairs, copy-paste and Perlin, as many as are generated."""

from collections.abc import Sequence

from prefect import task

from tasks.config import RunConfig
from tasks.data.split import ShotChoice, choice_key, choice_label, chosen_shots
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.stage import OPTIONS, run_stage
from tasks.store.artifacts import Artifact, Staged
from tasks.tables.baselines import BaselineName
from tasks.tables.object_masks import object_masks_in
from tasks.tables.prepared import read_samples

SYNTHESIZE = Stage(
    "synthesize", version=2, time_by=("pairs",), bytes_by=("pairs",), sections=("generate", "finetune")
)


def plan_synthesize(
    config: RunConfig,
    prepared: Artifact,
    name: BaselineName,
    defects: Sequence[str],
    objects: Artifact | None = None,
    choice: ShotChoice | None = None,
) -> Call:
    """Name a baseline's pairs for these defect types.

    `objects`: the masks of the parts, for defects to lie on. `choice`: of the split's shots, where not all are pasted.
    """
    pastes = name == "copy-paste"
    read = choice if pastes else None  # Perlin's are made without shots
    out = SYNTHESIZE.plan(
        config.store,
        prepared.category,
        label=f"{prepared.category}/{name}{choice_label(read)}",
        source=name,
        samples=prepared,
        defects=sorted(defects),
        num_pairs=config.generate.num_pairs * len(defects),
        seed=config.seed,
        **({"objects": objects} if pastes else {"size_px": config.finetune.size_px}),
        **choice_key(read),
    )
    inputs = {"prepared": prepared, "name": name, "defects": list(defects), "objects": objects if pastes else None,
              "choice": read}  # fmt: skip
    return Call(SYNTHESIZE, synthesize, config, out, inputs)


@task(name="synthesize", **OPTIONS)
def synthesize(
    out: Artifact,
    prepared: Artifact,
    name: BaselineName,
    defects: list[str],
    config: RunConfig,
    objects: Artifact | None = None,
    choice: ShotChoice | None = None,
) -> StageResult:
    """Make a baseline's pairs out of the shots and the normals of the training side."""

    def make(staged: Staged, _: str) -> None:
        from downstream.synthesis import copy_paste_pairs, perlin_pairs

        samples = chosen_shots(read_samples(prepared, config.data), choice)
        samples = samples[(samples["label_index"] == 0) | samples["label"].isin(defects)]
        count = config.generate.num_pairs * len(defects)
        match name:
            case "copy-paste":
                copy_paste_pairs(
                    samples, staged.out, count, seed=config.seed, part_of=object_masks_in(objects)
                )
            case "perlin":
                perlin_pairs(samples, staged.out, count, size_px=config.finetune.size_px, seed=config.seed)

    return run_stage(SYNTHESIZE, out, config, make)
