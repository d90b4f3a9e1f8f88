"""Small defects: how large they are to the model, the crops that make them larger, and where on a part they lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dual_anodiff.config import NativeConfig

CELL_PX = 8  # side of a latent cell at the working size, of every SD 1.x/2.x VAE
# Free band around the defect, as a share of the crop's side: what the defect lies in is a part of what is learnt.
CONTEXT = 1 / 8
# Defects that need a larger crop than this many times the usual one's side are left out: the others would be too small.
MAX_GROWTH = 2
# Of so many drawn windows the first that cuts no neighbouring defect is taken.
DRAWS = 20
JITTER = 0.1
# Spots are looked for on a grid of at most so many lines: a picture of 20 megapixels takes as long as a small one.
GRID = 512


@dataclass(frozen=True)
class Box:
    """A rectangle of a picture's pixels, px; a window may reach beyond the picture."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        return self.top + self.height

    @property
    def right(self) -> int:
        return self.left + self.width


@dataclass(frozen=True)
class Place:
    """Centre of a defect within its part, or within the picture where no part is known; 0 to 1 from top and left."""

    y: float
    x: float


def find_defects(mask: NDArray[np.bool_], size_px: int) -> list[Box]:
    """The box of each defect; marks less than a latent cell apart at the working size are one. Shape: (h, w)."""
    height, width = mask.shape
    lines, columns = np.nonzero(mask)
    if not len(lines):
        return []
    # Adjoining half-cells: never more than one cell apart, and as quick for dust as for one hole.
    halves = 2 * size_px // CELL_PX
    cells = (lines * halves // height, columns * halves // width)
    grid = np.zeros((halves, halves), dtype=bool)
    grid[cells] = True
    labels, count = ndimage.label(grid, np.ones((3, 3)))
    of, numbers = labels[cells], np.arange(1, count + 1)
    tops, bottoms = (find(lines, of, numbers) for find in (ndimage.minimum, ndimage.maximum))
    lefts, rights = (find(columns, of, numbers) for find in (ndimage.minimum, ndimage.maximum))
    return [
        Box(int(top), int(left), int(bottom - top) + 1, int(right - left) + 1)
        for top, bottom, left, right in zip(tops, bottoms, lefts, rights, strict=True)
    ]


def working_size(box: Box, shape: tuple[int, int], size_px: int) -> tuple[float, float]:
    """Height and width of a box once its picture is the working square, px."""
    return box.height * size_px / shape[0], box.width * size_px / shape[1]


def below_one_cell(height_px: float, width_px: float) -> bool:
    """Whether a defect of this size at the working size is smaller than a latent cell in both directions."""
    return max(height_px, width_px) < CELL_PX


def thickness_px(mask: NDArray[np.bool_], box: Box, size_px: int) -> float:
    """Widest place across a defect at the working size, px: of a scratch its stroke, not its length."""
    height, width = mask.shape
    inside = np.pad(mask[box.top : box.bottom, box.left : box.right], 1)
    pixel = (size_px / height, size_px / width)
    return float(2 * ndimage.distance_transform_edt(inside, sampling=pixel).max() - min(pixel))


def crop_side_px(extents_px: Sequence[int], shortest_px: int, size_px: int, config: NativeConfig) -> int:
    """Side of a defect type's crops, px of the pictures.

    The middle one of the defects spans `defect_cells` latent cells; the largest still has context around it, as
    long as that makes the crop at most MAX_GROWTH times larger. In steps of √2 of `size_px`, so that defect types of like
    size have the same crops and the base learns such normals once. Never above `shortest_px`, the pictures' shorter side:
    beyond it a crop would be filled with mirrored defects. `extents_px`: each defect's longer side.
    """
    if config.crop_px != "auto":
        return config.crop_px
    usual = float(np.median(extents_px)) * size_px / (CELL_PX * config.defect_cells)
    usual = max(usual, size_px / config.max_enlargement)
    for_largest = max(extents_px) / (1 - 2 * CONTEXT)
    side = max(usual, min(for_largest, MAX_GROWTH * usual))
    return min(round(size_px * 2 ** (round(2 * np.log2(side / size_px)) / 2)), shortest_px)


def shot_window(
    defect: Box, others: Sequence[Box], shape: tuple[int, int], side_px: int, generator: np.random.Generator
) -> Box:
    """A square anywhere around a defect that fits it: never cuts it, and none of the others where that is possible.

    It stays within the picture; one larger than the picture is centred on it.
    """

    def draw() -> Box:
        top = _start(defect.top, defect.height, shape[0], side_px, generator)
        left = _start(defect.left, defect.width, shape[1], side_px, generator)
        return Box(top, left, side_px, side_px)

    windows = [draw() for _ in range(DRAWS)]
    return next((w for w in windows if not any(_cuts(w, other) for other in others)), windows[0])


def normal_window(
    shape: tuple[int, int],
    side_px: int,
    generator: np.random.Generator,
    object_mask: NDArray[np.bool_] | None = None,
) -> Box:
    """A square anywhere in a normal picture; with the object's mask its centre is on the object."""
    if object_mask is not None and object_mask.any():
        on_object = np.flatnonzero(object_mask)
        y, x = divmod(int(on_object[generator.integers(len(on_object))]), shape[1])
    else:
        y, x = int(generator.integers(shape[0])), int(generator.integers(shape[1]))
    top, left = (
        min(max(middle - side_px // 2, 0), side - side_px) if side > side_px else (side - side_px) // 2
        for middle, side in zip((y, x), shape, strict=True)
    )
    return Box(top, left, side_px, side_px)


def cut(pixels: NDArray[Any], window: Box) -> NDArray[Any]:
    """What a window shows; beyond the border the picture is mirrored. Shape: (h, w, ...) → (side, side, ...)."""
    height, width = pixels.shape[:2]
    beyond = [
        (max(0, -window.top), max(0, window.bottom - height)),
        (max(0, -window.left), max(0, window.right - width)),
    ]
    if any(map(any, beyond)):
        pixels = np.pad(pixels, [*beyond, *[(0, 0)] * (pixels.ndim - 2)], mode="symmetric")
    top, left = window.top + beyond[0][0], window.left + beyond[1][0]
    return pixels[top : top + window.height, left : left + window.width]


def frame_of(shape: tuple[int, int], object_mask: NDArray[np.bool_] | None) -> Box:
    """What places are relative to: the object's box, or the whole picture without one."""
    if object_mask is None or not object_mask.any():
        return Box(0, 0, *shape)
    lines, columns = (np.flatnonzero(object_mask.any(axis)) for axis in (1, 0))
    top, left = int(lines[0]), int(columns[0])
    return Box(top, left, int(lines[-1]) + 1 - top, int(columns[-1]) + 1 - left)


def place_of(defect: Box, frame: Box) -> Place:
    """Where a shot's defect lies."""
    y = (defect.top + defect.height / 2 - frame.top) / frame.height
    x = (defect.left + defect.width / 2 - frame.left) / frame.width
    return Place(y, x)


def draw_spots(
    size: tuple[int, int],
    shape: tuple[int, int],
    places: Sequence[Place],
    generator: np.random.Generator,
    *,
    count: int,
    horizontal: bool = False,
    vertical: bool = False,
    object_mask: NDArray[np.bool_] | None = None,
) -> list[tuple[int, int]]:
    """Top and left of `count` spots for a box of `size` wholly within the picture, and within the object if given.

    Each is near one of `places`, mirrored as the flags allow and jittered; without places it is anywhere. Empty if
    the box fits nowhere. Shape: `size` and `shape` are (height, width), px.
    """
    free = (shape[0] - size[0], shape[1] - size[1])
    if min(free) < 0:
        return []
    allowed = None if object_mask is None else _allowed_spots(object_mask, size)
    if allowed is not None and not len(allowed):
        return []
    frame = frame_of(shape, object_mask)
    spots = []
    for _ in range(count):
        if places:
            place = places[int(generator.integers(len(places)))]
            y = 1 - place.y if vertical and generator.random() < 0.5 else place.y
            x = 1 - place.x if horizontal and generator.random() < 0.5 else place.x
            y, x = np.array([y, x]) + generator.uniform(-JITTER, JITTER, 2)
            wanted = (
                frame.top + y * frame.height - size[0] / 2,
                frame.left + x * frame.width - size[1] / 2,
            )
            spot = np.clip(np.rint(wanted), 0, free).astype(int)
            if allowed is not None:
                spot = allowed[((allowed - spot) ** 2).sum(1).argmin()]
        elif allowed is not None:
            spot = allowed[int(generator.integers(len(allowed)))]
        else:
            spot = generator.integers(np.array(free) + 1)
        spots.append((int(spot[0]), int(spot[1])))
    return spots


def _start(at: int, extent: int, side: int, side_px: int, generator: np.random.Generator) -> int:
    """Where a window begins along one axis so that it holds at..at+extent of a picture `side` px long."""
    if side <= side_px:
        return (side - side_px) // 2
    for context in (round(side_px * CONTEXT), 0):  # less at the picture's border, or around a large defect
        low, high = max(0, at + extent + context - side_px), min(at - context, side - side_px)
        if low <= high:
            return int(generator.integers(low, high + 1))
    raise ValueError(f"a defect of {extent} px does not fit a window of {side_px} px")


def _cuts(window: Box, box: Box) -> bool:
    """Whether a window holds a part of a box, but not all of it."""
    apart = (
        box.bottom <= window.top
        or box.top >= window.bottom
        or box.right <= window.left
        or box.left >= window.right
    )
    whole = (
        box.top >= window.top
        and box.bottom <= window.bottom
        and box.left >= window.left
        and box.right <= window.right
    )
    return not (apart or whole)


def _allowed_spots(object_mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.int64]:
    """Top and left of the boxes of `size` that lie wholly on the object, on a grid. Shape: (n, 2)."""
    step = max(1, max(object_mask.shape) // GRID)
    height, width = size
    # sums[y, x]: object pixels above and left of (y, x), so that four of them count those of any box.
    sums = np.pad(object_mask.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    inside = (
        sums[height::, width::] - sums[:-height, width::] - sums[height::, :-width] + sums[:-height, :-width]
    )[::step, ::step]
    return np.argwhere(inside == height * width) * step
