"""What guided pairs are to show: which shot's defect, changed how, at which place of which normal."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dual_anodiff.errors import InputError
from dual_anodiff.images import Shot, load_mask
from dual_anodiff.native import CELL_PX, Box, draw_spots, find_defects, frame_of, place_of
from dual_anodiff.paste import Change, borders, box_of, cut_out
from dual_anodiff.pictures import read_picture

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Wish:
    """One pair to draw.

    Units: `defect`, the box of the shot's marks that count, None for all of them; top and left of the changed defect's
    box in the normal; px of their pictures.
    """

    shot: Shot
    defect: Box | None
    change: Change
    normal: Path
    top: int
    left: int
    seed: int


@dataclass(frozen=True)
class _Source:
    """A defect that may be drawn. Shape: pixels (h, w, 3), mask (h, w), its own marks alone."""

    shot: Shot
    defect: Box | None
    pixels: Pixels
    mask: Mask


def read_defect(shot: Shot, defect: Box | None) -> tuple[Pixels, Mask]:
    """A shot's picture and those of its marks that lie in a box. Shape: (h, w, 3), (h, w).

    Raises: InputError if a file can't be read.
    """
    pixels, mask = read_picture(shot.image), load_mask(shot.mask)[0].numpy() > 0.5
    return pixels, mask if defect is None else _only(mask, defect)


def plan_pairs(
    shots: Sequence[Shot],
    normals: Sequence[Path],
    count: int,
    seed: int,
    *,
    side_px: int | None,
    size_px: int = 128,
    horizontal: bool = False,
    vertical: bool = False,
    max_turn_deg: float = 0.0,
    scale: tuple[float, float] = (0.8, 1.25),
) -> list[Wish]:
    """Wishes for `count` pairs, each like a shot's defect and at its place in the picture, a little beside it.

    The flags say how parts may be mirrored. A defect that reaches a border of its picture reaches the same one (mirrored
    with it) in the normal, and is not turned: it would lie amid the part, cut off straight. Wish i comes from (seed, i)
    alone.
    Units: side_px is the side of the crops that the model sees, px of the pictures: marks further apart than a latent
    cell are defects of their own there, and those that no crop shows whole are left out. None for whole pictures, whose
    marks belong together; size_px is the model's working size.
    Raises: InputError if there is nothing to choose from, or a defect fits into no normal.
    """
    if not shots or not normals:
        raise InputError(
            f"shots, normals: {len(shots)} and {len(normals)} were given; at least one of each is needed"
        )
    by_shot = [s for shot in shots if (s := _sources(shot, side_px, size_px, scale[1]))]
    if not by_shot:
        raise InputError(
            f"side_px: no defect of {len(shots)} shots is seen whole in {side_px} px; take larger crops"
        )
    wishes = []
    for i in range(count):
        generator = np.random.default_rng([seed, i])
        # Shot by shot, so that one with many small defects counts no more than others.
        of_shot = by_shot[int(generator.integers(len(by_shot)))]
        source = of_shot[int(generator.integers(len(of_shot)))]
        flips = generator.random(2) < 0.5
        turn_deg = float(generator.uniform(-max_turn_deg, max_turn_deg))
        change = Change(
            flip_x=bool(horizontal and flips[0]),
            flip_y=bool(vertical and flips[1]),
            turn_deg=0.0 if any(borders(source.mask)) else turn_deg,
            scale=float(scale[0] * (scale[1] / scale[0]) ** generator.random()),
        )
        order = [normals[j] for j in generator.permutation(len(normals))]
        normal, (top, left) = _find_place(source, change, order, generator)
        wishes.append(
            Wish(source.shot, source.defect, change, normal, top, left, int(generator.integers(2**31)))
        )
    return wishes


def _sources(shot: Shot, side_px: int | None, size_px: int, largest_scale: float) -> list[_Source]:
    pixels, mask = read_defect(shot, None)
    if side_px is None:
        return [_Source(shot, None, pixels, mask)]
    # As wide as the whole picture would be with the crops' cells, but no finer than its pixels.
    whole_px = min(round(size_px * max(mask.shape) / side_px), CELL_PX // 2 * min(mask.shape))
    return [
        _Source(shot, box, pixels, _only(mask, box))
        for box in find_defects(mask, whole_px)
        # A turned box is at most as wide as its diagonal.
        if np.hypot(box.height, box.width) * largest_scale <= side_px
    ]


def _find_place(
    source: _Source, change: Change, normals: Sequence[Path], generator: np.random.Generator
) -> tuple[Path, tuple[int, int]]:
    """The first normal that the changed defect fits into, and top and left of its box there."""
    box = cut_out(source.pixels, source.mask, change).box
    flipped = source.mask[:: -1 if change.flip_y else 1, :: -1 if change.flip_x else 1]
    place = place_of(box_of(flipped), frame_of(flipped.shape, None))
    at_top, at_bottom, at_left, at_right = borders(flipped)
    for path in normals:
        height, width = read_picture(path).shape[:2]
        for top, left in draw_spots((box.height, box.width), (height, width), [place], generator, count=1):
            top = 0 if at_top else height - box.height if at_bottom else top
            left = 0 if at_left else width - box.width if at_right else left
            return path, (top, left)
    raise InputError(
        f"normals: a defect of {box.width}x{box.height} px fits into none of {len(normals)}; lower `scale`"
    )


def _only(mask: Mask, box: Box) -> Mask:
    """The marks within a box. Shape: (h, w) → (h, w)."""
    only = np.zeros_like(mask)
    inside = (slice(box.top, box.bottom), slice(box.left, box.right))
    only[inside] = mask[inside]
    return only
