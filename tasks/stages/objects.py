"""Stage objects: which pixels of one category's training pictures are object, and which mirrorings they bear."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from prefect import task

from dual_anodiff.config import ObjectsConfig
from dual_anodiff.image_encoder import SHA256 as ENCODER
from dual_anodiff.object_card import read_card
from dual_anodiff.pictures import picture_size
from tasks.config import RunConfig
from tasks.data.pictures import load_image, load_mask
from tasks.data.sheets import GAP_PX, PAPER, fit, overlay
from tasks.errors import DataError
from tasks.runtime.stage import STAGE, StageResult, run_stage
from tasks.stages.prepare import read_samples
from tasks.store.artifacts import Artifact, Staged, folder_digest, plan
from tasks.tables.symmetries import build_symmetries

if TYPE_CHECKING:
    from dual_anodiff.images import Background

log = logging.getLogger("anodiff")

# Path of a normal picture or a shot → its part's mask (h, w), None where there is none.
ObjectMask = Callable[[Path], NDArray[np.bool_] | None]

VERSION = 3
MASKS, SHEET = "masks", "objects.png"
COLUMNS, ON_SHEET, CELL_PX = 6, 12, 160


@dataclass(frozen=True)
class ObjectMasks:
    """The finished stage: kind "aligned", "placed", "texture" or "given", why, and a mask of each training picture."""

    kind: str
    reason: str
    folder: Path

    @property
    def has_background(self) -> bool:
        """Whether there is a background to compensate."""
        return self.kind != "texture"

    def of(self, image_path: str | Path) -> Path:
        """The mask of a training normal or shot: masks/train/good/000.png for CATEGORY/train/good/000.jpg."""
        return self.folder / _mask_name(str(image_path))


def plan_objects(config: RunConfig, prepared: Artifact) -> Artifact:
    """Name the category's object masks. Raises: DataError if the folder of given masks is missing."""
    given = _for_category(config.objects, prepared.category).masks
    if given is not None and not given.is_dir():
        raise DataError(
            f"objects.masks: {given} is no folder; correct the path, or leave it out to find the objects"
        )
    return plan(
        config.store,
        "objects",
        VERSION,
        prepared.category,
        samples=prepared,
        masks=None if given is None else folder_digest(given),
        encoder=ENCODER,
        size_px=config.finetune.size_px,
        seed=config.seed,
        **config.objects.model_dump(exclude={"masks"}),
    )


@task(name="objects", **STAGE)
def objects(out: Artifact, prepared: Artifact, config: RunConfig) -> StageResult:
    """Tell object from background in one category's training pictures, or find that it has no background."""

    def make(staged: Staged, _: str) -> None:
        samples = read_samples(prepared, config.data)
        named = _for_category(config.objects, prepared.category)
        build_objects(samples, named, staged.out, size_px=config.finetune.size_px, seed=config.seed)
        build_symmetries(samples, prepared.category, staged.out)

    return run_stage(out, config, make, heavy=False)


def build_objects(
    samples: pd.DataFrame, config: ObjectsConfig, out: Path, *, size_px: int, seed: int = 0
) -> None:
    """Learn from the training side's normals alone; write objects.json, objects.npz, masks/ and objects.png.

    Raises: DataError without normals; InputError for a picture or a given mask that can't be used.
    """
    from dual_anodiff.images import Shot, load_shot, mask_to_pil
    from dual_anodiff.images import load_image as load_tensor
    from dual_anodiff.objects import find_objects, given_mask, object_mask, save_objects, square

    rows = samples[samples["split"] == "train"].sort_values("image_path")
    normals = [Path(path) for path in rows.loc[rows["label"] == "good", "image_path"]]
    shots = [Path(path) for path in rows.loc[rows["label"] != "good", "image_path"]]
    if not normals:
        raise DataError("objects: the split has no normal picture to learn from; add some to train/good")
    if config.masks is not None:
        _check_given(config.masks, [*normals, *shots])
    found = find_objects(normals, config, size_px=size_px, seed=seed)
    save_objects(found, out)
    defects = dict(zip(rows["image_path"], rows["mask_path"], strict=True))
    for picture in [*normals, *shots]:
        if config.masks is not None:
            mask = given_mask(config.masks, picture, size_px)
        elif defects[str(picture)]:
            image, defect = load_shot(Shot(picture, Path(defects[str(picture)])), size_px)
            mask = object_mask(found, image, defect[0] > 0.5)
        else:
            mask = object_mask(found, square(load_tensor(picture), size_px))
        path = out / _mask_name(str(picture))
        path.parent.mkdir(parents=True, exist_ok=True)
        mask_to_pil(mask).save(path)
    shown = [*_spread(normals, ON_SHEET - min(len(shots), ON_SHEET // 2)), *_spread(shots, ON_SHEET // 2)]
    draw_objects(shown, [out / _mask_name(str(picture)) for picture in shown]).save(out / SHEET)


def read_object_masks(artifact: Artifact) -> ObjectMasks:
    """What a finished stage found. Raises: InputError if its files are missing or broken."""
    card = read_card(artifact.path)
    return ObjectMasks(card["kind"], card["reason"], artifact.path)


def without_texture(config: RunConfig, category: str, masks: ObjectMasks) -> RunConfig:
    """The category's config: a texture has no background to compensate, so that is off, and said."""
    if config.finetune.adapter.background == "off" or masks.has_background:
        return config
    log.warning("%s: no background compensation (finetune.adapter.background): %s", category, masks.reason)
    return without_background(config)


def without_background(config: RunConfig) -> RunConfig:
    """The config with background compensation off."""
    adapter = config.finetune.adapter.model_copy(update={"background": "off"})
    return config.model_copy(update={"finetune": config.finetune.model_copy(update={"adapter": adapter})})


def normal_backgrounds(samples: pd.DataFrame, masks: ObjectMasks) -> list["Background"]:
    """The normals of the training side, each with its object's mask, sorted by path."""
    from dual_anodiff.images import Background

    normals = samples[(samples["split"] == "train") & (samples["label_index"] == 0)]
    return [Background(Path(path), masks.of(path)) for path in sorted(normals["image_path"])]


def draw_objects(pictures: list[Path], masks: list[Path]) -> Image.Image:
    """Lay pictures out in rows, the objects' insides tinted and their edges drawn; squashed as they are worked on."""
    num_rows = -(-len(pictures) // COLUMNS)
    step = CELL_PX + GAP_PX
    sheet = Image.new("RGB", (GAP_PX + COLUMNS * step, GAP_PX + num_rows * step), PAPER)
    for i, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
        with Image.open(mask) as opened:
            worked_on = load_image(picture).resize(opened.size, Image.Resampling.BILINEAR)
            drawn = fit(overlay(worked_on, opened), CELL_PX)
        sheet.paste(drawn, (GAP_PX + i % COLUMNS * step, GAP_PX + i // COLUMNS * step))
    return sheet


def _mask_name(image_path: str) -> str:
    """A picture's place below its category's folder, below masks/; no two pictures of a folder share a stem."""
    below = Path(*Path(image_path).parts[1:][-3:])  # a folder of normals may lie at the disk's root
    return (Path(MASKS) / below.with_suffix(".png")).as_posix()


def _for_category(config: ObjectsConfig, category: str) -> ObjectsConfig:
    """Fill {category} into the folder of masks."""
    if config.masks is None:
        return config
    return config.model_copy(update={"masks": Path(str(config.masks).replace("{category}", category))})


def _check_given(folder: Path, pictures: list[Path]) -> None:
    """Raises: DataError if one mask would serve two pictures, as one of a name that several folders have."""
    from dual_anodiff.objects import given_path

    serves: dict[Path, Path] = {}
    for picture in pictures:
        other = serves.setdefault(given_path(folder, picture), picture)
        if other != picture:
            raise DataError(
                f"objects.masks: {given_path(folder, picture)} would serve {other} and {picture}; put the masks into "
                f"sub-folders named like the pictures': {folder / picture.parent.name}"
            )


def _spread(pictures: list[Path], most: int) -> list[Path]:
    places = np.linspace(0, len(pictures) - 1, min(most, len(pictures))).round().astype(int)
    return [pictures[i] for i in places]


def object_masks_in(objects: Artifact | None) -> ObjectMask | None:
    """The parts' masks at their pictures' size; None for a texture, which is part all over."""
    masks = None if objects is None else read_object_masks(objects)
    if masks is None or not masks.has_background:
        return None

    def read(picture: Path) -> NDArray[np.bool_] | None:
        height, width = picture_size(picture)
        worked_on = Image.fromarray(load_mask(masks.of(picture)))
        return np.asarray(worked_on.resize((width, height), Image.Resampling.NEAREST)) > 127

    return read
