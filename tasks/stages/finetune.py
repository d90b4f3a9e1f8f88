"""Stage finetune: an adapter for one defect type, from its few shots."""

from pathlib import Path

import pandas as pd
from prefect import task

from dual_anodiff.config import FinetuneConfig
from dual_anodiff.initial import initial_adapter, initial_digest
from tasks.config import RunConfig
from tasks.data.split import ShotChoice, choice_key, choice_label, chosen_shots
from tasks.errors import DataError
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.retries import halved
from tasks.runtime.stage import OPTIONS, run_stage
from tasks.store.artifacts import Artifact, Staged
from tasks.tables.object_masks import ObjectMasks, read_object_masks
from tasks.tables.prepared import read_samples
from tasks.tables.weights import base_digest, revision_read

FINETUNE = Stage(
    "finetune",
    version=4,
    heavy=True,
    time_by=("train_steps", "batch_size", "gradient_accumulation_steps", "size_px", "size_px"),
)
# How often a checkpoint is written changes nothing in the adapter: resumed equals uninterrupted.
# The normals' settings count by the artifact that they made.
# The initial adapter counts by its weights.
NOT_IN_KEY = {"base", "revision", "checkpoint_every_steps", "adapt_to_normals", "normals", "initial_adapter"}


def plan_finetune(
    config: RunConfig,
    prepared: Artifact,
    defect: str,
    normals: Artifact | None = None,
    choice: ShotChoice | None = None,
    objects: Artifact | None = None,
) -> Call:
    """Name the adapter; `normals` is what the base learns first, None for the base as it is.

    `choice`: of the split's shots, where not all are learnt from. `objects`: masks of the objects in the shots, for an
    adapter with a background, else None. Raises: BaseModelError if the base is a folder without a pipeline.
    """
    initial = initial_adapter(config.finetune)
    # Crops are of the chosen shots, and say so.
    label = (
        prepared.label if prepared.stage == "crop" else f"{prepared.category}/{defect}{choice_label(choice)}"
    )
    out = FINETUNE.plan(
        config.store,
        prepared.category,
        label=label,
        defect=defect,
        samples=prepared,
        base=base_digest(config.finetune),
        normals=normals,
        seed=config.seed,
        **({} if objects is None else {"objects": objects}),
        **({} if initial is None else {"initial_adapter": initial_digest(initial)}),
        **choice_key(choice),
        revision=revision_read(config.finetune),
        **config.finetune.model_dump(exclude=NOT_IN_KEY),
    )
    inputs = {
        "prepared": prepared,
        "defect": defect,
        "normals": normals,
        "choice": choice,
        "objects": objects,
    }
    return Call(FINETUNE, finetune, config, out, inputs)


@task(name="finetune", **OPTIONS)
def finetune(
    out: Artifact,
    prepared: Artifact,
    defect: str,
    normals: Artifact | None,
    config: RunConfig,
    choice: ShotChoice | None = None,
    objects: Artifact | None = None,
) -> StageResult:
    """Fine-tune the generator on one defect type; a killed training resumes from its checkpoint."""

    def make(staged: Staged, device: str) -> None:
        samples = chosen_shots(read_samples(prepared, config.data), choice)
        batch_size, parts = halved(config.finetune.batch_size)
        steps = config.finetune.gradient_accumulation_steps * parts
        build_finetune(
            samples,
            defect,
            config.finetune.model_copy(
                update={"batch_size": batch_size, "gradient_accumulation_steps": steps}
            ),
            staged.out,
            device=device,
            seed=config.seed,
            normals=None if normals is None else normals.path,
            objects=None if objects is None else read_object_masks(objects),
            checkpoint=staged.checkpoint,
        )

    return run_stage(FINETUNE, out, config, make)


def build_finetune(
    samples: pd.DataFrame,
    defect: str,
    config: FinetuneConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    normals: Path | None = None,
    objects: ObjectMasks | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Train an adapter on the shots of `defect` and write it to `out`. Raises: DataError if there is none."""
    from dual_anodiff.images import Shot
    from dual_anodiff.training import train

    rows = samples[(samples["split"] == "train") & (samples["label"] == defect)]
    if rows.empty:
        raise DataError(f"defect type {defect!r}: the split gives it no shot to train on")
    files = zip(rows["image_path"], rows["mask_path"], strict=True)
    shots = [Shot(Path(image), Path(mask)) for image, mask in files]
    named = name_prompts(config, str(rows["category"].iloc[0]), defect)
    train(
        shots,
        named,
        out,
        device=device,
        seed=seed,
        objects=None if objects is None else [objects.of(shot.image) for shot in shots],
        normals=normals,
        checkpoint=checkpoint,
    )


def name_prompts(config: FinetuneConfig, category: str, defect: str) -> FinetuneConfig:
    """Fill {category} and {defect_type} into the prompts; any other brace stands as it is."""
    filled = {
        name: getattr(config, name).replace("{category}", category).replace("{defect_type}", defect)
        for name in ("image_prompt", "anomaly_prompt")
    }
    return config.model_copy(update=filled)


def export_adapter(adapter: Path, out: Path) -> None:
    """Write the image branch's LoRA for plain `StableDiffusionPipeline.load_lora_weights`."""
    from dual_anodiff.lora import export_lora

    export_lora(adapter, out)
