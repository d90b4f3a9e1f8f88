"""The baseline that a generator has to beat: the few real defects, pasted into real normals as well as it can be done.

At the pictures' own resolution: a defect is cut out with its surroundings, mirrored, turned, scaled and bent, made as
bright and as rich in contrast as the spot where it is put, and fades out beyond its edge. It lies where the shots have
theirs: one that touches a border of its picture touches that border again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SCALE = (0.7, 1.4)  # of the side, by equal chances of the logarithm
# Share of the defect's side by which a point is moved at most, about; the field of moves is as smooth as a third of it.
BEND, SMOOTH = 0.06, 1 / 3
# The fade beyond the defect's edge and the ring that brightness is matched by: shares of the defect's longer side, px.
FADE, FADE_PX = 0.15, (2.0, 12.0)
RING_PX = 8
GAIN = (0.5, 2.0)  # of contrast
NOISE = 0.01  # a contrast that says nothing, of 0 to 1
TOUCHES = 0.02  # a gap to the picture's border up to this share of its side counts as none
JITTER = (
    0.25  # of the free room, where an inner defect keeps its place about; every second one may lie anywhere
)
TRIES = 20  # at a place on the part
# A one-pixel line that is turned by 45° leaves this share in the cells that it crosses.
THIN = 0.3

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]
# A picture's file → where the part is in it, or None where it is everywhere. Shape: (h, w) bool.
PartMask = Callable[[Path], Mask | None]


@dataclass(frozen=True)
class Cut:
    """A defect with its surroundings, and where it lay.

    Shape: pixels (h, w, 3) in 0..1, mask (h, w), known (h, w) 1.0 where there are pixels of the shot. `gaps`: of the
    defect's box to the picture's top, bottom, left, right, px; `size`: the picture's height and width.
    """

    pixels: Pixels
    mask: Mask
    known: Pixels
    gaps: tuple[int, int, int, int]
    size: tuple[int, int]

    def touches(self, axis: int) -> tuple[bool, bool]:
        """Whether the defect touches the border before and behind it on an axis (0: top, bottom; 1: left, right)."""
        most = TOUCHES * self.size[axis]
        return self.gaps[2 * axis] <= most, self.gaps[2 * axis + 1] <= most

    @property
    def at_border(self) -> bool:
        """Whether it touches any border: then it may be mirrored, with its place, but not turned."""
        return any((*self.touches(0), *self.touches(1)))


def cut_out(shot: Pixels, mask: Mask) -> Cut:
    """A shot's defect. Shape: (h, w, 3) in 0..1, (h, w) with some defect."""
    lines, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(lines[0]), int(lines[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
    height, width = mask.shape
    margin = round(max(box[1] - box[0], box[3] - box[2]) * 0.25 + FADE_PX[1] + RING_PX)
    pixels, defect = np.pad(shot, ((margin, margin), (margin, margin), (0, 0))), np.pad(mask, margin)
    known = np.pad(np.ones(mask.shape, dtype=np.float32), margin)
    window = (slice(box[0], box[1] + 2 * margin), slice(box[2], box[3] + 2 * margin))
    gaps = (box[0], height - box[1], box[2], width - box[3])
    return Cut(pixels[window], defect[window], known[window], gaps, (height, width))


def paste_defect(
    normal: Pixels, cut: Cut, generator: np.random.Generator, part: Mask | None = None
) -> tuple[Pixels, Mask]:
    """Put a defect into a normal; nothing beyond its fade changes. The mask may come out empty: draw again.

    `part`: where the part is in the normal; the defect comes to lie on it. Shape: (h, w, 3) in 0..1 → the same, and (h, w).
    """
    mirrored = (bool(generator.random() < 0.5), bool(generator.random() < 0.5))
    angle = 0.0 if cut.at_border else float(generator.uniform(0, 360))
    factor = float(np.exp(generator.uniform(*np.log(SCALE))))
    height, width = (int(np.ptp(np.flatnonzero(cut.mask.any(axis)))) + 1 for axis in (1, 0))
    factor = min(factor, normal.shape[0] / height, normal.shape[1] / width)
    moved = _transformed(cut, mirrored, angle, factor, BEND * max(height, width), generator)
    if moved is None:
        return normal, np.zeros(normal.shape[:2], dtype=bool)
    top, left = _place(moved.mask, cut, mirrored, normal.shape[:2], generator, part)
    return _blend(normal, moved, top, left)


def _transformed(
    cut: Cut,
    mirrored: tuple[bool, bool],
    angle: float,
    factor: float,
    bend_px: float,
    generator: np.random.Generator,
) -> Cut | None:
    """The cut mirrored (up-down, left-right), turned by `angle` degrees, scaled and bent; None if nothing is left of it."""
    radians = np.deg2rad(angle)
    height, width = cut.mask.shape
    cosine, sine = abs(np.cos(radians)), abs(np.sin(radians))
    shape = (
        max(1, round(factor * (height * cosine + width * sine))),
        max(1, round(factor * (height * sine + width * cosine))),
    )
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    y, x = y - (shape[0] - 1) / 2, x - (shape[1] - 1) / 2
    back_y = (np.cos(radians) * y + np.sin(radians) * x) / factor
    back_x = (-np.sin(radians) * y + np.cos(radians) * x) / factor
    smooth_px = max(2.0, SMOOTH * factor * max(height, width) / 2)
    for back in (back_y, back_x):
        field = ndimage.gaussian_filter(generator.standard_normal(shape).astype(np.float32), smooth_px)
        back += bend_px * field / max(1e-6, float(np.abs(field).max()))
    back_y, back_x = (-back_y if mirrored[0] else back_y), (-back_x if mirrored[1] else back_x)
    at = [back_y + (height - 1) / 2, back_x + (width - 1) / 2]

    def warped(values: Pixels) -> Pixels:
        found: Pixels = ndimage.map_coordinates(values, at, order=1, mode="constant")
        return found

    # A line thinner than a pixel must not fall between the samples.
    source = ndimage.maximum_filter(cut.mask, math.ceil(1 / factor)) if factor < 1 else cut.mask
    mask = warped(source.astype(np.float32)) >= THIN
    known = warped(cut.known) >= 0.5
    mask &= known
    if not mask.any():
        return None
    pixels = np.stack([warped(cut.pixels[..., channel]) for channel in range(3)], axis=-1)
    return Cut(pixels, mask, known.astype(np.float32), cut.gaps, cut.size)


def _place(
    mask: Mask,
    cut: Cut,
    mirrored: tuple[bool, bool],
    size: tuple[int, ...],
    generator: np.random.Generator,
    part: Mask | None,
) -> tuple[int, int]:
    """Top and left of the cut in the normal, so that the defect's box lies where the shot's did, about."""
    boxes = [np.flatnonzero(mask.any(1 - axis)) for axis in (0, 1)]
    inside = np.argwhere(mask)
    best: tuple[float, tuple[int, int]] = (-1.0, (0, 0))
    for _ in range(TRIES):
        anywhere = bool(generator.random() < 0.5)
        corner = []
        for axis in (0, 1):
            first, last = int(boxes[axis][0]), int(boxes[axis][-1])
            free = max(0, size[axis] - (last - first + 1))
            before, behind = cut.gaps[2 * axis : 2 * axis + 2]
            touches = cut.touches(axis)
            if mirrored[axis]:
                before, behind, touches = behind, before, touches[::-1]
            if touches[0]:
                start = min(before, free)
            elif touches[1]:
                start = max(0, free - behind)
            elif anywhere:
                start = round(float(generator.uniform(0, free)))
            else:
                near = before / max(1, before + behind) + generator.uniform(-JITTER, JITTER)
                start = round(float(np.clip(near, 0, 1)) * free)
            corner.append(start - first)
        if part is None:
            return corner[0], corner[1]
        at = inside + corner
        within = ((at >= 0) & (at < part.shape)).all(1)
        share = float(part[tuple(at[within].T)].sum()) / len(inside)
        best = max(best, (share, (corner[0], corner[1])))
        if share > 0.95:
            break
    return best[1]


def _blend(normal: Pixels, cut: Cut, top: int, left: int) -> tuple[Pixels, Mask]:
    """The cut over the normal, its surroundings as bright and rich in contrast as the normal's there."""
    height, width = normal.shape[:2]
    place = (
        slice(max(0, top), min(height, top + cut.mask.shape[0])),
        slice(max(0, left), min(width, left + cut.mask.shape[1])),
    )
    seen = (
        slice(place[0].start - top, place[0].stop - top),
        slice(place[1].start - left, place[1].stop - left),
    )
    mask, known, pixels = cut.mask[seen], cut.known[seen] > 0, cut.pixels[seen]
    whole = np.zeros((height, width), dtype=bool)
    if not mask.any():
        return normal, whole
    target = normal[place]
    beyond = ndimage.distance_transform_edt(~cut.mask)[seen]
    extent = max(np.ptp(np.flatnonzero(cut.mask.any(axis))) + 1 for axis in (0, 1))
    fade_px = float(np.clip(FADE * extent, *FADE_PX))
    falling = np.clip(1 - (beyond - 1) / fade_px, 0, 1)
    alpha = np.where(known, falling * falling * (3 - 2 * falling), 0)[..., None]
    # A pixel clear of the edge, which is neither defect nor part.
    ring = known & (beyond > 1.5) & (beyond <= fade_px + RING_PX)
    if ring.any():
        here, there = pixels[ring], target[ring]
        gain = np.clip((_spread(there) + NOISE) / (_spread(here) + NOISE), *GAIN)
        pixels = there.mean(0) + gain * (pixels - here.mean(0))
    picture = normal.copy()
    picture[place] = np.clip(target + alpha * (pixels - target), 0, 1).astype(np.float32)
    whole[place] = mask
    return picture, whole


def _spread(values: Pixels) -> float:
    """Between the quartiles: the defect's own dark rim must not count as contrast of its surroundings."""
    low, high = np.percentile(values, [25, 75])
    return float(high - low)
