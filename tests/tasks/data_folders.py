"""Small data folders to test on, drawn: textured pictures that have something of their own, and their twins."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, shift

REAL_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def real_data(category: str) -> Path:
    """A folder of real pictures, or a skip that says which is absent."""
    folder = REAL_DATA / category
    if not folder.is_dir():
        pytest.skip(f"real pictures absent: {folder}")
    return folder


def texture(seed: int, px: int = 48) -> NDArray[np.float64]:
    """A picture unlike that of any other seed, in 20..235."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(px, px)), 1.2)
    return np.asarray(20 + 215 * (noise - noise.min()) / np.ptp(noise))


def aligned_part(seed: int, px: int = 128) -> NDArray[np.float64]:
    """One object in one place: bold rings and a bar, with a little jitter, texture and noise of its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:px, :px] - px / 2
    radius = np.hypot(y, x)
    part = np.select(
        [(abs(x) < 6) & (radius < 55), radius < 20, radius < 35, radius < 50], [220, 190, 90, 150], 60
    )
    part = shift(gaussian_filter(part.astype(float), 0.7), rng.normal(size=2) * 0.5, order=1, mode="nearest")
    own = gaussian_filter(rng.normal(size=(px, px)), 2) * 40 * (radius < 50)
    return np.asarray(np.clip((part + own) * rng.uniform(0.95, 1.05) + rng.normal(size=(px, px)) * 2, 0, 255))


def exposed(pixels: NDArray[np.float64], gain: float, offset: float, gamma: float) -> NDArray[np.float64]:
    """The same picture under another exposure."""
    return np.asarray(np.clip(255 * (pixels / 255) ** gamma * gain + offset, 0, 255))


def save(path: Path, pixels: NDArray[np.float64]) -> Path:
    """Write grey pixels as an 8-bit picture, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(pixels).astype(np.uint8)).save(path)
    return path


def square_mask(px: int = 48, side: int = 12) -> NDArray[np.float64]:
    """A mask with a square defect."""
    mask = np.zeros((px, px))
    mask[4 : 4 + side, 4 : 4 + side] = 255
    return mask


def healthy_category(folder: Path, normals: int = 10, tests: int = 3, defects: int = 6) -> Path:
    """A category without any fault: every picture its own part, two defect types."""
    for index in range(normals):
        save(folder / "train/good" / f"{index:03}.png", texture(index))
    for index in range(tests):
        save(folder / "test/good" / f"{index:03}.png", texture(1000 + index))
    for number, defect_type in enumerate(("dent", "stain")):
        for index in range(defects):
            save(folder / "test" / defect_type / f"{index:03}.png", texture(2000 + 100 * number + index))
            save(folder / "ground_truth" / defect_type / f"{index:03}_mask.png", square_mask())
    return folder
