"""A shot's defect cut out, mirrored, turned, scaled and pasted into a normal picture: what a guided pair starts from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from dual_anodiff.blend import blend
from dual_anodiff.errors import InputError
from dual_anodiff.native import Box, cut

# Surroundings that are cut out with the defect, as a share of its longer side: `blend` compares them with the normal's.
CONTEXT = 0.3
MIN_CONTEXT_PX = 8

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Change:
    """How a defect is changed before it is pasted, in this order. Units: turn_deg in degrees, against the clock."""

    flip_x: bool = False
    flip_y: bool = False
    turn_deg: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Cutout:
    """A defect amid its surroundings. Shape: pixels (side, side, 3), mask (side, side), never empty."""

    pixels: Pixels
    mask: Mask

    @property
    def box(self) -> Box:
        """Of the defect, px of the cutout."""
        return box_of(self.mask)


def box_of(mask: Mask) -> Box:
    """The box of a mask that is not empty. Shape: (h, w)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return Box(top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left)


def borders(mask: Mask) -> tuple[bool, bool, bool, bool]:
    """Which of the picture's borders a defect reaches: top, bottom, left, right. Shape: (h, w)."""
    return bool(mask[0].any()), bool(mask[-1].any()), bool(mask[:, 0].any()), bool(mask[:, -1].any())


def cut_out(shot: Pixels, mask: Mask, change: Change = Change()) -> Cutout:
    """The whole of a shot's mask as one defect, changed; without turn and scale its pixels are the shot's own.

    Beyond the shot's border its picture is mirrored, its mask is not.
    Shape: shot (h, w, 3), mask (h, w).
    Raises: InputError if the mask is empty or of another size.
    """
    if mask.shape != shot.shape[:2] or not mask.any():
        raise InputError(
            f"mask: {int(mask.sum())} pixels are marked in {mask.shape} of a shot of {shot.shape[:2]}; give a mask of the "
            "shot's size that marks the defect"
        )
    box = box_of(mask)
    around = max(MIN_CONTEXT_PX, round(CONTEXT * max(box.height, box.width)))
    # As wide as the diagonal, so that nothing is cut off by a turn.
    diagonal = (
        int(np.ceil(np.hypot(box.height, box.width))) if change.turn_deg else max(box.height, box.width)
    )
    side = diagonal + 2 * around
    window = Box(box.top + (box.height - side) // 2, box.left + (box.width - side) // 2, side, side)
    pixels, marks = cut(shot, window), _cut_mask(mask, window)
    axes = tuple(axis for axis, flipped in ((0, change.flip_y), (1, change.flip_x)) if flipped)
    pixels, marks = np.flip(pixels, axes), np.flip(marks, axes)
    if change.turn_deg or change.scale != 1:
        pixels, marks = _turned(pixels, marks, change.turn_deg, change.scale)
    return Cutout(np.ascontiguousarray(pixels), np.ascontiguousarray(marks))


def paste(normal: Pixels, cutout: Cutout, top: int, left: int) -> tuple[Pixels, Mask]:
    """The defect in a normal picture, as bright as its place there; grey if the normal is.

    Units: top, left of the defect's own box in the normal, px. Shape: (h, w, 3) → (h, w, 3), (h, w).
    Raises: InputError if none of the defect comes to lie in the picture.
    """
    pixels = cutout.pixels
    if (normal == normal[..., :1]).all():
        pixels = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))
    box = cutout.box
    height, width = normal.shape[:2]
    if top >= height or left >= width or top + box.height <= 0 or left + box.width <= 0:
        raise InputError(
            f"top, left: a defect of {box.width}x{box.height} px at ({top}, {left}) is out of a picture of "
            f"{width}x{height} px"
        )
    return blend(normal, pixels, cutout.mask, top - box.top, left - box.left)


def _cut_mask(mask: Mask, window: Box) -> Mask:
    """What a window shows of a mask; beyond the border nothing is marked."""
    marks = np.zeros((window.height, window.width), dtype=bool)
    box = box_of(mask)
    inside = mask[box.top : box.bottom, box.left : box.right]
    top, left = box.top - window.top, box.left - window.left
    marks[top : top + box.height, left : left + box.width] = inside
    return marks


def _turned(pixels: Pixels, mask: Mask, turn_deg: float, scale: float) -> tuple[Pixels, Mask]:
    """Turned and scaled around the middle, by splines; of a thin mask the heaviest pixels stay."""
    side = pixels.shape[0]
    new_side = max(3, round(side * scale))
    angle = np.deg2rad(turn_deg)
    # Maps the new picture's pixels (y down) to the old one's.
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    offset = np.full(2, (side - 1) / 2) - matrix @ np.full(2, (new_side - 1) / 2)
    shape = (new_side, new_side)
    turned = np.stack(
        [
            ndimage.affine_transform(
                channel.astype(np.float32), matrix, offset, shape, order=3, mode="mirror"
            )
            for channel in np.moveaxis(pixels, 2, 0)
        ],
        axis=2,
    )
    share = ndimage.affine_transform(mask.astype(np.float32), matrix, offset, shape, order=1)
    marks: Mask = (share >= min(0.5, float(share.max()))) & (share > 0)
    return np.rint(np.clip(turned, 0, 255)).astype(np.uint8), marks
