"""Stage adapt: the base made familiar with one category's normal pictures, once for all its defect types."""

from pathlib import Path

import pandas as pd
from prefect import task

from dual_anodiff.config import FinetuneConfig, adapts_to_normals
from tasks.config import RunConfig
from tasks.errors import DataError
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.retries import halved
from tasks.runtime.stage import OPTIONS, run_stage
from tasks.store.artifacts import Artifact, Staged
from tasks.tables.prepared import read_samples
from tasks.tables.weights import base_digest, revision_read

ADAPT = Stage(
    "adapt",
    version=1,
    heavy=True,
    time_by=("normals.train_steps", "normals.batch_size", "size_px", "size_px"),
    sections=("finetune",),
)
# Besides its own settings: what shapes the pictures that it sees, and how it computes.
READS = {"size_px", "horizontal_flip", "vertical_flip", "precision"}


def plan_adapt(config: RunConfig, prepared: Artifact) -> Call | None:
    """Name the category's normals; None where the run trains on the base as it is."""
    if not adapts_to_normals(config.finetune):
        return None
    out = ADAPT.plan(
        config.store,
        prepared.category,
        label=prepared.label,  # crops are of one defect type
        samples=prepared,
        base=base_digest(config.finetune),
        revision=revision_read(config.finetune),
        seed=config.seed,
        normals=config.finetune.normals,
        **config.finetune.model_dump(include=READS),
    )
    return Call(ADAPT, adapt, config, out, {"prepared": prepared})


@task(name="adapt", **OPTIONS)
def adapt(out: Artifact, prepared: Artifact, config: RunConfig) -> StageResult:
    """Train the base on one category's normals; a killed training resumes from its checkpoint."""

    def make(staged: Staged, device: str) -> None:
        samples = read_samples(prepared, config.data)
        build_adapt(
            samples,
            config.finetune,
            staged.out,
            device=device,
            seed=config.seed,
            checkpoint=staged.checkpoint,
            parts=halved(config.finetune.normals.batch_size)[1],
        )

    return run_stage(ADAPT, out, config, make)


def build_adapt(
    samples: pd.DataFrame,
    config: FinetuneConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    checkpoint: Path | None = None,
    parts: int = 1,
) -> None:
    """Train on the normals of the training side and write to `out`. Raises: DataError if there is none."""
    from dual_anodiff.normals import adapt as train_on_normals

    rows = samples[(samples["split"] == "train") & (samples["label"] == "good")]
    if rows.empty:
        raise DataError(
            "finetune.adapt_to_normals: the split has no normal picture to train on; set it to false"
        )
    category = str(rows["category"].iloc[0])
    prompt = config.normals.prompt.replace("{category}", category)
    named = config.model_copy(update={"normals": config.normals.model_copy(update={"prompt": prompt})})
    train_on_normals(
        [Path(path) for path in rows["image_path"]],
        named,
        out,
        device=device,
        seed=seed,
        checkpoint=checkpoint,
        parts=parts,
    )
