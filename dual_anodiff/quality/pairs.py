"""Many pictures with their masks as tensors of one size, as the quality figures take them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.errors import InputError
from dual_anodiff.images import Shot, load_image, load_shot, square_mask
from dual_anodiff.pictures import DRAWN_SHARE, read_mask

FLIPS: dict[str, tuple[int, ...]] = {"": (), "horizontal": (-1,), "vertical": (-2,), "both": (-2, -1)}


@dataclass(frozen=True)
class PairSet:
    """Generated pairs, or the shots. Bytes, since thousands are held at once.

    Shape: image (n, 3, h, w) uint8, mask (n, h, w) bool, anomaly like image; shots have none.
    """

    image: Tensor
    mask: Tensor
    anomaly: Tensor | None = None

    def __post_init__(self) -> None:
        """Raises: InputError if the shapes or types disagree."""
        n, h, w = len(self.image), *self.image.shape[-2:]
        if self.image.shape != (n, 3, h, w) or self.image.dtype != torch.uint8:
            raise InputError(f"image: {_kind(self.image)}; give (n, 3, h, w) of bytes")
        if self.mask.shape != (n, h, w) or self.mask.dtype != torch.bool:
            raise InputError(f"mask: {_kind(self.mask)}; give {(n, h, w)} of bool, as the images are")
        if self.anomaly is not None and (self.anomaly.shape, self.anomaly.dtype) != (
            self.image.shape,
            torch.uint8,
        ):
            raise InputError(
                f"anomaly: {_kind(self.anomaly)}; give {(n, 3, h, w)} of bytes, as the images are"
            )

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: Tensor) -> "PairSet":
        """Those that `index` names. Shape: (k,) int, or (n,) bool."""
        part = None if self.anomaly is None else self.anomaly[index]
        return PairSet(self.image[index], self.mask[index], part)


def flip_names(horizontal: bool, vertical: bool) -> tuple[str, ...]:
    """The ways a picture may be mirrored, as it is first."""
    allowed = {-1: horizontal, -2: vertical}
    return tuple(name for name, axes in FLIPS.items() if all(allowed[axis] for axis in axes))


def flipped(pairs: PairSet, flip: str) -> PairSet:
    """Image and mask mirrored alike; `flip` is one of FLIPS."""
    axes = FLIPS[flip]
    return PairSet(pairs.image.flip(axes), pairs.mask.flip(axes)) if axes else pairs


def to_bytes(images: Tensor) -> Tensor:
    """Shape: (..., 3, h, w) in [-1, 1] → the same as uint8."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte()


def load_pairs(
    images: Sequence[Path], masks: Sequence[Path], anomalies: Sequence[Path], size_px: int
) -> PairSet:
    """Read generated pairs; an empty mask is let through, and counted later. Raises: InputError, naming the file."""
    drawn = [torch.from_numpy(read_mask(path))[None].float() for path in masks]
    mask = torch.cat([square_mask(each, size_px, DRAWN_SHARE) > 0 for each in drawn])
    return PairSet(load_images(images, size_px), mask, load_images(anomalies, size_px))


def load_shots(shots: Sequence[Shot], size_px: int) -> PairSet:
    """Read the few shots as training does. Raises: InputError, naming the file."""
    loaded = [load_shot(shot, size_px) for shot in shots]
    return PairSet(
        torch.stack([to_bytes(image) for image, _ in loaded]), torch.cat([mask > 0 for _, mask in loaded])
    )


def load_images(paths: Sequence[Path], size_px: int) -> Tensor:
    """Read pictures. Shape: (n, 3, size_px, size_px) uint8. Raises: InputError, naming the file."""
    return torch.stack([to_bytes(resized(load_image(path), size_px)) for path in paths])


def resized(image: Tensor, size_px: int) -> Tensor:
    """A picture as the quality figures see it. Shape: (c, h, w) → (c, size_px, size_px)."""
    if image.shape[-2:] == (size_px, size_px):
        return image
    return F.interpolate(image[None], (size_px, size_px), mode="bilinear", antialias=True)[0]


def _kind(tensor: Tensor) -> str:
    return f"found {tuple(tensor.shape)} of {tensor.dtype}"
