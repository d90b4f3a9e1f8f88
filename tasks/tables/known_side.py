"""What pairs are measured against: shots and normals of the training side, at the side that judges see."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from tasks.config import RunConfig
from tasks.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from dual_anodiff.quality.pairs import PairSet

# Neither the ImageNet encoder (128 px) nor LPIPS (256 px) sees more, and thousands of pairs are held at once.
MAX_SIDE_PX = 256


def side_px(config: RunConfig) -> int:
    """Side that all pictures are scaled to."""
    return min(config.finetune.size_px, MAX_SIDE_PX)


def known_side(
    samples: pd.DataFrame, defect: str, config: RunConfig, size_px: int
) -> tuple["PairSet", "Tensor", tuple[str, ...]]:
    """The shots of a defect type, the normals, and how the generator saw them mirrored; of the training side alone.

    Shape: normals (k, 3, size_px, size_px) uint8. Raises: DataError if there is no shot of this type, or no normal.
    """
    from dual_anodiff.images import Shot
    from dual_anodiff.normals import evenly_spaced
    from dual_anodiff.quality.pairs import flip_names, load_images, load_shots

    # Test pictures would make these figures a peek at the result.
    known = samples[samples["split"] == "train"]
    shots, good = known[known["label"] == defect], known[known["label"] == "good"]
    for label, rows in ((defect, shots), ("good", good)):
        if rows.empty:
            raise DataError(f"quality of {defect!r}: the split has no picture of {label!r} to train on")
    files = zip(shots["image_path"], shots["mask_path"], strict=True)
    few = load_shots([Shot(Path(image), Path(mask)) for image, mask in files], size_px)
    chosen = evenly_spaced([Path(path) for path in good["image_path"]], config.quality.max_normals)
    flips = flip_names(config.finetune.horizontal_flip, config.finetune.vertical_flip)
    return few, load_images(chosen, size_px), flips
