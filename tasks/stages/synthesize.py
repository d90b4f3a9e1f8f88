"""Stage synthesize: the cheap baselines' pairs, copy-paste and Perlin, as many as are generated."""

from collections.abc import Sequence

from prefect import task

from tasks.config import RunConfig
from tasks.data.split import ShotChoice, choice_key, choice_label, chosen_shots
from tasks.runtime.stage import STAGE, StageResult, run_stage
from tasks.store.artifacts import Artifact, Staged, plan
from tasks.tables.baselines import BaselineName
from tasks.tables.object_masks import object_masks_in
from tasks.tables.prepared import read_samples

VERSION = 2


def plan_synthesize(
    config: RunConfig,
    prepared: Artifact,
    name: BaselineName,
    defects: Sequence[str],
    objects: Artifact | None = None,
    choice: ShotChoice | None = None,
) -> Artifact:
    """Name a baseline's pairs for these defect types.

    `objects`: the masks of the parts, for defects to lie on. `choice`: of the split's shots, where not all are pasted.
    """
    read = choice if name == "copy-paste" else None  # Perlin's are made without shots
    return plan(
        config.store,
        "synthesize",
        VERSION,
        prepared.category,
        label=f"{prepared.category}/{name}{choice_label(read)}",
        source=name,
        samples=prepared,
        defects=sorted(defects),
        num_pairs=config.generate.num_pairs * len(defects),
        seed=config.seed,
        **({"objects": objects} if name == "copy-paste" else {"size_px": config.finetune.size_px}),
        **choice_key(read),
    )


@task(name="synthesize", **STAGE)
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

    return run_stage(out, config, make, heavy=False)
