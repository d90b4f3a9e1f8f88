"""Pictures and masks between files, PIL and tensors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dual_anodiff.errors import InputError
from dual_anodiff.pictures import SHOT_SHARE, mask_from_share, read_mask, read_picture


@dataclass(frozen=True)
class Shot:
    """One of the few defect pictures, with its mask."""

    image: Path
    mask: Path


@dataclass(frozen=True)
class Background:
    """A picture and the mask of the object in it (white), all of which is background where there is no mask."""

    image: Path
    object: Path | None


def load_image(path: Path) -> Tensor:
    """Read any picture as RGB. Shape: (3, h, w) in [-1, 1]. Raises: InputError, as `read_picture`."""
    pixels = torch.from_numpy(read_picture(path).astype(np.float32) / 255)
    return pixels.permute(2, 0, 1) * 2 - 1


def load_mask(path: Path) -> Tensor:
    """Read a mask, as `read_mask` does. Shape: (1, h, w), 0 or 1.

    Raises: InputError if the file can't be read, is unclear, or marks no pixel.
    """
    mask = read_mask(path)
    if not mask.any():
        raise InputError(f"{path}: marks no pixel; remove the picture or draw its mask")
    return torch.from_numpy(mask)[None].float()


def load_shot(shot: Shot, size_px: int) -> tuple[Tensor, Tensor]:
    """Picture and mask, resized to the working square. Shape: (3, s, s) in [-1, 1], (1, s, s) 0 or 1.

    Raises: InputError if the two differ in size.
    """
    image, mask = _load_both(shot.image, shot.mask)
    return square(image, size_px), square_mask(mask, size_px)


def load_background(background: Background, size_px: int) -> Tensor:
    """A picture with the object cut out, mid-grey in its place, in the working square. Shape: (3, s, s) in [-1, 1].

    The object's mask is of the picture's size, or of the working square's, as `objects` finds it.
    Raises: InputError for an unreadable picture or mask, or a mask of another size.
    """
    if background.object is None:
        return square(load_image(background.image), size_px)
    mask = load_mask(background.object)
    if mask.shape[1:] == (size_px, size_px):
        return square(load_image(background.image), size_px) * (1 - mask)
    image, mask = _load_both(background.image, background.object)
    return square(image * (1 - mask), size_px)


def square(image: Tensor, size_px: int) -> Tensor:
    """Squashed to the working square. Shape: (3, h, w) → (3, s, s)."""
    return F.interpolate(image[None], (size_px, size_px), mode="bilinear", antialias=True)[0].clamp(-1, 1)


def square_mask(mask: Tensor, size_px: int, least: float = SHOT_SHARE) -> Tensor:
    """A mask in the working square, area-averaged, by the one rule for masks in another size; a thin scratch survives.

    Shape: (1, h, w), 0 or 1 → (1, s, s), 0 or 1.
    """
    share = F.interpolate(mask[None], (size_px, size_px), mode="area")[0]
    marked: Tensor = mask_from_share(share, least)
    return marked.float()


def _load_both(picture: Path, marks: Path) -> tuple[Tensor, Tensor]:
    """A picture and its mask, of one size. Shape: (3, h, w), (1, h, w)."""
    image, mask = load_image(picture), load_mask(marks)
    if image.shape[1:] != mask.shape[1:]:
        w, h, mw, mh = image.shape[2], image.shape[1], mask.shape[2], mask.shape[1]
        raise InputError(f"{marks}: is {mw}x{mh} px, its picture {picture} is {w}x{h} px")
    return image, mask


def to_pil(image: Tensor) -> Image.Image:
    """Shape: (3, h, w) in [-1, 1] → 8-bit RGB."""
    array = ((image.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array)


def mask_to_pil(mask: Tensor) -> Image.Image:
    """Shape: (h, w) bool → 8-bit grey, 0 or 255."""
    return Image.fromarray(mask.cpu().numpy().astype(np.uint8) * 255)
