"""Stage generate: image–mask pairs of one defect type, drawn with its adapter."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from prefect import task

from dual_anodiff.config import GenerateConfig, WhereConfig
from dual_anodiff.crops.native import CELL_PX, find_defects, thickness_px, working_size
from tasks.config import RunConfig
from tasks.data.pictures import load_mask
from tasks.data.split import chosen_shots
from tasks.errors import ConfigError
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.device import resolve_device
from tasks.runtime.retries import halved
from tasks.runtime.stage import OPTIONS, run_stage
from tasks.stages.redraw import ShotStarts, build_redraw, starts_key
from tasks.store.artifacts import Artifact, Staged, file_digest
from tasks.tables.crops import read_side_px
from tasks.tables.object_masks import normal_backgrounds, object_masks_in, read_object_masks
from tasks.tables.prepared import read_samples

if TYPE_CHECKING:
    from dual_anodiff.images import Background

GENERATE = Stage(
    "generate",
    version=3,
    heavy=True,
    resumable=True,
    time_by=("pairs", "num_inference_steps"),
    bytes_by=("pairs",),
)
# A pair depends on its own seed alone, not on the batch that it is drawn in.
# Where the defects are to be counts where it is wished, a file of it by what is in it.
NOT_IN_KEY = {"batch_size", "where", "start", "strength"}
WHERE_VERSION = 7  # of what a wish makes: pairs without one stay as they are

log = logging.getLogger("anodiff")


def plan_generate(
    config: RunConfig,
    adapter: Artifact,
    *,
    prepared: Artifact | None = None,
    first: int = 0,
    num_pairs: int | None = None,
    objects: Artifact | None = None,
    starts: ShotStarts | None = None,
) -> Call:
    """Name the pairs number `first` and after; None: as many as the config says.

    `prepared`: what the adapter was trained on, for its normals and shots. `objects`: masks of the objects in the
    normals, for an adapter with a background, else None. `starts`: None for pairs that start from noise.
    """
    count = config.generate.num_pairs if num_pairs is None else num_pairs
    out = GENERATE.plan(
        config.store,
        adapter.category,
        label=adapter.label + (f", from {first}" if first else ""),
        adapter=adapter,
        seed=config.seed,
        **({"first": first} if first else {}),
        **({} if objects is None else {"objects": objects}),
        **_where_key(config.generate),
        **({} if starts is None else starts_key(config, starts)),
        **(config.generate.model_dump(exclude=NOT_IN_KEY) | {"num_pairs": count}),
    )
    inputs = {"adapter": adapter, "prepared": prepared, "objects": objects, "starts": starts}
    return Call(GENERATE, generate, config, out, inputs)


def _where_key(config: GenerateConfig) -> dict[str, Any]:
    """What is wished as a part of the pairs' key; nothing without a wish. Raises: ConfigError without the file."""
    where = config.where
    if not where.on:
        return {}
    region: Any = where.region
    if isinstance(region, Path):
        if not region.is_file():
            raise ConfigError(
                f"generate.where.region: {region} is no file; give a mask, or a box x0,y0,x1,y1"
            )
        region = file_digest(region)
    # Previews go by the user's own threshold since version 8, and by the adapter's as ever.
    version = WHERE_VERSION + (config.mask.threshold != "auto")
    return {"where": {"region": region, "size": where.size, "version": version}}


@task(name="generate", **OPTIONS)
def generate(
    out: Artifact,
    adapter: Artifact,
    config: RunConfig,
    prepared: Artifact | None = None,
    objects: Artifact | None = None,
    starts: ShotStarts | None = None,
) -> StageResult:
    """Draw the pairs that `out` names; a killed run keeps those it has finished.

    With `objects` each pair gets a background: a normal of the training side of `prepared`. With `starts` each is a
    shot's defect drawn anew in a normal.
    """

    def make(staged: Staged, device: str) -> None:
        if starts is not None:
            samples = chosen_shots(read_samples(starts.prepared, config.data), starts.choice)
            build_redraw(
                samples,
                str(adapter.inputs["defect"]),
                adapter.path,
                _asked(config, out),
                staged.out,
                side_px=None if starts.crops is None else read_side_px(starts.crops.path),
                part_of=object_masks_in(starts.objects),
                device=device,
                seed=config.seed,
                first=out.inputs.get("first", 0),
            )
            return
        backgrounds: list[Background] = []
        if prepared is not None and objects is not None:
            backgrounds = normal_backgrounds(read_samples(prepared, config.data), read_object_masks(objects))
        if prepared is not None and config.generate.where.on:
            shots = read_samples(prepared, config.data).query("split == 'train' and label_index == 1")
            shots = shots[shots["label"] == adapter.inputs["defect"]]
            warn_of_thin_defects(out.label, shots, config.generate.where, config.finetune.size_px)
        build_generate(
            adapter.path,
            _asked(config, out),
            staged.out,
            device=device,
            seed=config.seed,
            first=out.inputs.get("first", 0),
            backgrounds=backgrounds,
        )

    return run_stage(GENERATE, out, config, make)


def _asked(config: RunConfig, out: Artifact) -> GenerateConfig:
    """As many pairs as this artifact names, in batches that fit the device's memory."""
    batch_size, _ = halved(config.generate.batch_size)
    return config.generate.model_copy(update={"num_pairs": out.inputs["num_pairs"], "batch_size": batch_size})


def build_generate(
    adapter: Path,
    config: GenerateConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    first: int = 0,
    backgrounds: Sequence["Background"] = (),
) -> None:
    """Draw pairs with an adapter's folder into `out`, which may hold some of them already."""
    from dual_anodiff.generation import generate_pairs

    generate_pairs(
        adapter,
        config,
        out,
        device=resolve_device(device),
        seed=seed,
        first=first,
        backgrounds=backgrounds,
    )


def warn_of_thin_defects(label: str, shots: pd.DataFrame, where: WhereConfig, size_px: int) -> None:
    """Say that boxes suit thin defects badly, where the shots' are so: strokes below half a latent cell."""
    if isinstance(where.region, Path) and where.size is None:
        return
    across, along = [], []
    for path in shots["mask_path"]:
        mask = load_mask(Path(path)) > 127
        for box in find_defects(mask, size_px):
            across.append(thickness_px(mask, box, size_px))
            along.append(max(working_size(box, mask.shape, size_px)))
    if across and np.median(across) < CELL_PX / 2 and np.median(along) > 2 * CELL_PX:
        log.warning(
            "%s: its defects are thin (%.1f px across at finetune.size_px): in a box they come out as a hatched patch; "
            "give a mask file with the line drawn in as generate.where.region",
            label,
            np.median(across),
        )
