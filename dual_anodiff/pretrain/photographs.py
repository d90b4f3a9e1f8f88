"""Photographs of real surfaces and things: found by what they show, cut at many scales, some held out."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dual_anodiff.errors import InputError

# What the captions call them; a class of the pictures that is none of these is a surface.
SURFACES = (
    "surface", "tile", "stone", "brick", "wood", "metal", "fabric", "concrete", "cardboard", "glass", "paper", "plastic",
)  # fmt: skip
_WORDS = {
    "Tiles": "tile", "Terrazzo": "tile", "PavingStones": "stone", "Rock": "stone", "Rocks": "stone", "Marble": "stone",
    "Granite": "stone", "Onyx": "stone", "Travertine": "stone", "Bricks": "brick", "Wood": "wood", "WoodFloor": "wood",
    "Planks": "wood", "WoodSiding": "wood", "Chipboard": "wood", "Metal": "metal", "DiamondPlate": "metal",
    "CorrugatedSteel": "metal", "Rust": "metal", "Fabric": "fabric", "Carpet": "fabric", "Concrete": "concrete",
    "Asphalt": "concrete",
}  # fmt: skip
SMALLEST_CROP_PX = 64
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Photographs:
    """Files by the word for what they show; those held out are seen by no training step."""

    files: dict[str, list[Path]]
    held_out: dict[str, list[Path]]

    @property
    def digest(self) -> str:
        """Hash of names and sizes, so that a corpus knows what it was drawn from."""
        told = sorted(
            f"{p.parent.name}/{p.name} {p.stat().st_size}" for some in self.files.values() for p in some
        )
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def find_photographs(folder: Path) -> Photographs:
    """Read the folder's `origin.csv`, whose first column lists the pictures.

    Raises: InputError if there is none.
    """
    listing = folder / "origin.csv"
    if not listing.is_file():
        raise InputError(
            f"{listing}: not there; give a folder of openly licensed pictures with origin.csv (path, original, licence)"
        )
    files: dict[str, list[Path]] = {}
    held_out: dict[str, list[Path]] = {}
    for row in listing.read_text().splitlines()[1:]:
        name = row.split(",")[0]
        path = folder / name
        # ambientcg/Tiles_004.jpg, trashnet/metal/metal12.jpg
        kind = path.parent.name if path.parent.parent != folder else path.stem.split("_")[0]
        word = _WORDS.get(kind, kind if kind in SURFACES else SURFACES[0])
        share = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32
        (held_out if share < HELD_OUT_SHARE else files).setdefault(word, []).append(path)
    return Photographs(files, held_out)


def crops(files: list[Path], count: int, size_px: int, generator: torch.Generator) -> Tensor:
    """Squares cut at random: any scale from native to the whole picture, turned and mirrored.

    Shape: (count, 3, s, s) in [-1, 1].
    """
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    return torch.stack([_crop(files[rng.integers(len(files))], size_px, rng) for _ in range(count)])


def _crop(path: Path, size_px: int, rng: np.random.Generator) -> Tensor:
    pixels: NDArray[np.uint8] = np.asarray(Image.open(path).convert("RGB"))
    low, high = SMALLEST_CROP_PX, min(pixels.shape[:2])
    side = round(low * (high / low) ** rng.random())
    top, left = (int(rng.integers(extent - side + 1)) for extent in pixels.shape[:2])
    square = torch.from_numpy(pixels[top : top + side, left : left + side].copy()).permute(2, 0, 1)
    square = torch.rot90(square, int(rng.integers(4)), (1, 2))
    if rng.random() < 0.5:
        square = square.flip(-1)
    resized = F.interpolate(
        square[None].float(), (size_px, size_px), mode="bicubic", antialias=True, align_corners=False
    )
    return (resized[0] / 127.5 - 1).clamp(-1, 1)
