"""Defects that the generator would hardly see: smaller than a latent cell, or thinner than a pixel, at its size."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from dual_anodiff.config import NativeConfig
from dual_anodiff.crops.native import CELL_PX, below_one_cell, find_defects, thickness_px, working_size
from tasks.data.faults import Fault
from tasks.data.pictures import load_mask
from tasks.data.samples import category_folder

LARGEST_SIZE_PX = 1024  # of finetune.size_px


@dataclass(frozen=True)
class DefectScale:
    """How large the defects of one type are once their pictures are the working square, px."""

    category: str
    label: str
    folder: Path  # of its masks
    num_defects: int
    num_below_cell: int
    num_hairlines: int  # a cell long or longer, but thinner than a pixel
    median_height_px: float
    median_width_px: float


def small_defects(samples: pd.DataFrame, size_px: int) -> list[Fault]:
    """A warning for each defect type that has defects below a latent cell, or hairlines, at the working size.

    Masks that can't be read or are empty are left to `check_dataset`. Raises: nothing of its own.
    """
    return [fault for scale in defect_scales(samples, size_px) for fault in _faults(scale, size_px)]


def defect_scales(samples: pd.DataFrame, size_px: int) -> list[DefectScale]:
    """Measure every defect type of a samples table by its masks, those of its rows that have one."""
    rows = samples[(samples["label_index"] == 1) & (samples["mask_path"] != "")]
    measured = [_measure(of_type, size_px) for _, of_type in rows.groupby(["category", "label"])]
    return [scale for scale in measured if scale is not None]


def works_on_crops(samples: pd.DataFrame, defect: str, config: NativeConfig, size_px: int) -> bool:
    """Whether a defect type goes through crops; 'auto' looks at its shots alone, never at a test mask."""
    if config.enabled != "auto":
        return config.enabled
    shots = samples[(samples["split"] == "train") & (samples["label"] == defect)]
    return any(below_one_cell(s.median_height_px, s.median_width_px) for s in defect_scales(shots, size_px))


def _measure(rows: pd.DataFrame, size_px: int) -> DefectScale | None:
    masks = [_read_sizes(Path(path), size_px, Path(path).stat().st_mtime_ns) for path in rows["mask_path"]]
    sizes = [size for of_mask, _ in masks for size in of_mask]
    below = sum(below_one_cell(*size) for size in sizes)
    hairlines = sum(count for _, count in masks)
    if not sizes:
        return None
    height, width = np.median(sizes, axis=0)
    first = rows.iloc[0]
    folder = category_folder(first["image_path"]) / "ground_truth" / first["label"]
    return DefectScale(
        first["category"], first["label"], folder, len(sizes), below, hairlines, float(height), float(width)
    )


def read_extents(path: Path, size_px: int) -> tuple[list[int], int]:
    """The longer side of each defect of a mask, and the picture's shorter side, px of the picture."""
    return _read_extents(path, size_px, path.stat().st_mtime_ns)


@lru_cache(maxsize=20_000)
def _read_extents(path: Path, size_px: int, mtime_ns: int) -> tuple[list[int], int]:
    mask = load_mask(path) > 127
    return [max(box.height, box.width) for box in find_defects(mask, size_px)], min(mask.shape)


# A category's masks are looked at by several of its stages, also where these are all finished.
@lru_cache(maxsize=20_000)
def _read_sizes(path: Path, size_px: int, mtime_ns: int) -> tuple[list[tuple[float, float]], int]:
    """Height and width of each defect of a mask at the working size, px, and how many are hairlines."""
    mask = load_mask(path) > 127
    boxes = [(box, working_size(box, mask.shape, size_px)) for box in find_defects(mask, size_px)]
    hairlines = sum(not below_one_cell(*size) and thickness_px(mask, box, size_px) < 1 for box, size in boxes)
    return [size for _, size in boxes], hairlines


def _faults(scale: DefectScale, size_px: int) -> Iterator[Fault]:
    size = f"{scale.median_width_px:.1f}×{scale.median_height_px:.1f} px"
    if scale.num_below_cell:
        what = (
            f"{scale.num_below_cell} of {scale.num_defects} defects are below one latent cell ({CELL_PX}×{CELL_PX} px) "
            f"at finetune.size_px {size_px}; the middle one is {size}"
        )
        enough = _enough_px(scale, size_px)
        larger = f", or finetune.size_px to {enough} or more" if enough <= LARGEST_SIZE_PX else ""
        # Where the middle one is large enough, 'auto' leaves the crops off: they would cost the large ones.
        fix = (
            f"set native.enabled to auto{larger}"
            if enough > size_px
            else "look whether those masks are defects"
        )
        yield Fault("warning", scale.folder, what, fix)
    if scale.num_hairlines:
        share = f"{scale.num_hairlines} of {scale.num_defects} defects"
        what = f"{share} are thinner than a pixel at finetune.size_px {size_px}"
        yield Fault("warning", scale.folder, what, "set finetune.size_px higher, or native.enabled to true")


def _enough_px(scale: DefectScale, size_px: int) -> int:
    """The working size at which the middle defect spans a latent cell."""
    longer = max(scale.median_height_px, scale.median_width_px)
    return CELL_PX * int(np.ceil(size_px / longer))
