"""Which pixels of the training pictures are object, as the stage objects left it: masks, and backgrounds made of them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from dual_anodiff.objects.card import read_card
from dual_anodiff.pictures import picture_size
from tasks.config import RunConfig
from tasks.data.pictures import load_mask
from tasks.store.artifacts import Artifact

if TYPE_CHECKING:
    from dual_anodiff.images import Background

log = logging.getLogger("anodiff")

# Path of a normal picture or a shot → its part's mask (h, w), None where there is none.
ObjectMask = Callable[[Path], NDArray[np.bool_] | None]

MASKS = "masks"


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
        return self.folder / mask_name(str(image_path))


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


def mask_name(image_path: str) -> str:
    """A picture's place below its category's folder, below masks/; no two pictures of a folder share a stem."""
    below = Path(*Path(image_path).parts[1:][-3:])  # a folder of normals may lie at the disk's root
    return (Path(MASKS) / below.with_suffix(".png")).as_posix()


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
