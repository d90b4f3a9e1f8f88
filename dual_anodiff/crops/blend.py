"""Generated crops put into whole normal pictures: no seam shows, and beyond the defect's surroundings nothing changes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from dual_anodiff.crops.native import Place, draw_spots
from dual_anodiff.errors import InputError
from dual_anodiff.pair_files import is_whole, make_folders, row_of, write_pair
from dual_anodiff.pictures import DRAWN_SHARE, mask_from_share, read_picture
from dual_anodiff.progress import progress as progress_of

GREY = 128  # what `to_pil` makes of an anomaly part's 0
# The defect fades out over its own thickness, within these bounds: a seam needs some pixels, a scratch no wide copy.
MIN_FADE_PX = 4.0
MAX_FADE = 1 / 8  # of the crop's side
BORDER_PX = 4  # over so many pixels fades what reaches the crop's border
# Contrast goes with brightness, as under a lamp: else a defect from a bright part would be black on a dark one, and a
# dark part's grain faint on a bright one.
GAIN = (0.2, 2.0)
# Spots drawn for each pair; the one whose surroundings are most like the crop's is taken.
SPOTS = 8

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Patch:
    """A crop over its window, as far as that lies within the picture. Shape: (h, w, 3) float32; masks (h, w)."""

    place: tuple[slice, slice]  # in the picture
    target: NDArray[np.float32]
    crop: NDArray[np.float32]
    mask: Mask
    alpha: NDArray[np.float32]  # how much of the crop shows, 0 to 1
    reach_px: float  # how far its surroundings tell what the part looks like under the defect

    @property
    def ring(self) -> Mask:
        """The surroundings: what shows in part, a pixel clear of the defect's edge."""
        return (self.alpha > 0) & ~ndimage.binary_dilation(self.mask, np.ones((3, 3), dtype=bool))


def blend(normal: Pixels, crop: Pixels, mask: Mask, top: int, left: int) -> tuple[Pixels, Mask]:
    """Put a crop's defect into a normal picture; the window begins at `top`, `left` and may reach beyond the picture.

    Around the defect the crop is first made as bright as the picture is there, its contrast in proportion, and then
    fades out. Tried against it: Poisson blending (a sparse solve) and OpenCV's seamlessClone carry the crop's grain to
    the border of what they paste, where it shows as streaks.

    Shape: normal (h, w, 3), crop (s, s, 3), mask (s, s) → picture (h, w, 3), mask (h, w), where the defect shows.
    """
    patch = _patch(normal, crop, mask, top, left)
    mixed = patch.target + patch.alpha[..., None] * (_matched(patch) - patch.target)
    image, full_mask = normal.copy(), np.zeros(normal.shape[:2], dtype=bool)
    image[patch.place] = np.where(
        patch.alpha[..., None] > 0, np.rint(np.clip(mixed, 0, 255)), patch.target
    ).astype(np.uint8)
    full_mask[patch.place] = patch.mask & (patch.alpha >= 0.5)
    return image, full_mask


def misfit(normal: Pixels, crop: Pixels, mask: Mask, top: int, left: int) -> float:
    """How unlike the surroundings of a spot and of the crop's defect are: edges that don't meet, other brightness.

    Shape: as `blend`. Units: 0 is alike; two patches of the same texture come to about 0.7.
    """
    patch = _patch(normal, crop, mask, top, left)
    ring = patch.ring
    if not ring.any():
        return 0.0
    there, here = patch.target[ring].mean(1), patch.crop[ring].mean(1)
    gain = _gain(there.mean(), here.mean())
    difference = there - there.mean() - gain * (here - here.mean())
    unlike = np.sqrt((difference**2).mean()) / (there.std() + gain * here.std() + 1)
    return float(unlike + abs(np.log((there.mean() + 1) / (here.mean() + 1))))


def scaled(image: Image.Image, mask: Image.Image, side_px: int) -> tuple[Pixels, Mask]:
    """A generated crop at the pictures' own resolution; a thin mask keeps its heaviest pixel.

    Shape: (side_px, side_px, 3), (side_px, side_px).
    """
    size = (side_px, side_px)
    pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))
    binary = Image.fromarray((np.asarray(mask.convert("L")) > 127).astype(np.float32))
    share = np.asarray(
        binary.resize(size, Image.Resampling.BOX if side_px < mask.width else Image.Resampling.BILINEAR)
    )
    mask_there: Mask = mask_from_share(share, DRAWN_SHARE)
    return pixels, mask_there


def blend_pairs(
    pairs: pd.DataFrame,  # the table of generate_pairs, paths absolute
    normals: Sequence[Path],
    places: Sequence[Place],  # where the shots have their defects; none: anywhere
    side_px: int,  # what a crop's side is in the pictures
    out: Path,
    *,
    seed: int = 0,
    horizontal: bool = False,  # places may be mirrored left-right
    vertical: bool = False,  # and top-bottom
    max_mask_share: float = 0.9,  # of its crop, 0 to 1: a pair above it is put nowhere
    object_mask: Callable[[Path], Mask | None] | None = None,  # which pixels of a normal are part; None: all
    progress: bool = True,  # a bar on the terminal
) -> pd.DataFrame:
    """Put each generated crop into one of `normals`: image/, anomaly/, mask/ and pairs.parquet as `generate_pairs`.

    Further columns: normal (its last four path parts), x, y (the window's left and top in it, px), scale (px of the
    picture per px of the crop), crop_mask_share. A crop whose mask is empty or covers more than `max_mask_share` of it is
    put nowhere: its picture is the normal one, its mask empty, x and y missing. Files that a killed run has finished are
    kept; pair i depends on these arguments and (seed, i) alone.
    Raises: InputError if there is no normal, or a defect fits into none.
    """
    if not normals:
        raise InputError("native: no normal pictures to put the generated crops into; add some to train/good")
    make_folders(out)
    missing = [row for row in pairs.to_dict("records") if not is_whole(out, row["index"])]
    with progress_of("blend", len(missing), "pair", shown=progress) as said:
        for n, row in enumerate(missing, 1):
            index = int(row["index"])
            generator = np.random.default_rng([seed, index])
            with Image.open(row["image_path"]) as image, Image.open(row["mask_path"]) as mask:
                crop, crop_mask = scaled(image, mask, side_px)
                scale = side_px / image.width
            facts: dict[str, Any] = {"scale": scale, "crop_mask_share": float(crop_mask.mean())}
            paths = [normals[i] for i in generator.permutation(len(normals))]
            window = None
            if 0 < crop_mask.mean() <= max_mask_share:
                path, normal, crop, window = _find_window(
                    crop, crop_mask, paths, places, generator, horizontal, vertical, object_mask
                )
                picture, full_mask = blend(normal, crop, crop_mask, *window)
            else:
                path, picture = paths[0], read_picture(paths[0])
                full_mask = np.zeros(picture.shape[:2], dtype=bool)
            facts |= {
                "normal": "/".join(path.parts[-4:]),
                "y": window and window[0],
                "x": window and window[1],
            }
            _write(out, index, picture, full_mask, facts)
            said(n, None)
    table = pd.DataFrame(
        [row_of(out, int(i), int(s)) for i, s in zip(pairs["index"], pairs["seed"], strict=True)]
    )
    table = table.astype({"x": "Int64", "y": "Int64"}) if len(table) else pairs.head(0)
    table.to_parquet(out / "pairs.parquet", index=False)
    return table


def _find_window(
    crop: Pixels,
    mask: Mask,
    paths: Sequence[Path],
    places: Sequence[Place],
    generator: np.random.Generator,
    horizontal: bool,
    vertical: bool,
    object_mask: Callable[[Path], Mask | None] | None,
) -> tuple[Path, Pixels, Pixels, tuple[int, int]]:
    """The first normal that the defect fits into, the crop (grey if that is), and its window's top and left there."""
    lines, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    corner = int(lines[0]), int(columns[0])
    size = int(lines[-1]) + 1 - corner[0], int(columns[-1]) + 1 - corner[1]
    for path in paths:
        normal = read_picture(path)
        spots = draw_spots(
            size,
            (normal.shape[0], normal.shape[1]),
            places,
            generator,
            count=SPOTS,
            horizontal=horizontal,
            vertical=vertical,
            object_mask=None if object_mask is None else object_mask(path),
        )
        if spots:
            # No grey camera sees colour; the generator's pictures are a little tinted.
            is_grey = (normal == normal[..., :1]).all()
            fitted = np.asarray(Image.fromarray(crop).convert("L").convert("RGB")) if is_grey else crop
            windows = [(top - corner[0], left - corner[1]) for top, left in spots]
            return path, normal, fitted, min(windows, key=lambda w: misfit(normal, fitted, mask, *w))
    raise InputError(
        f"native.crop_px: a defect of {size[1]}x{size[0]} px fits into none of {len(paths)} normal pictures, or nowhere "
        "on their objects; make the crops smaller"
    )


def _patch(normal: Pixels, crop: Pixels, mask: Mask, top: int, left: int) -> _Patch:
    height, width = normal.shape[:2]
    side = mask.shape[0]
    inside = (slice(max(0, top), min(height, top + side)), slice(max(0, left), min(width, left + side)))
    seen = (
        slice(inside[0].start - top, inside[0].stop - top),
        slice(inside[1].start - left, inside[1].stop - left),
    )
    depth = float(ndimage.distance_transform_edt(np.pad(mask, 1)).max())
    fade_px = float(np.clip(2 * depth - 1, MIN_FADE_PX, max(MIN_FADE_PX, MAX_FADE * side)))
    # 1 on the defect and one pixel around, then down to 0 without a kink.
    beyond = ndimage.distance_transform_edt(~mask)
    falling = np.clip(1 - (beyond - 1) / fade_px, 0, 1)
    alpha = falling * falling * (3 - 2 * falling)
    # The crop's own border hurts only where the picture goes on beyond it.
    for axis, (start, length) in enumerate(((top, height), (left, width))):
        steps = np.arange(1, side + 1) / (BORDER_PX + 1)
        ramp = np.minimum(steps if start > 0 else 1, steps[::-1] if start + side < length else 1)
        alpha = np.minimum(alpha, np.expand_dims(np.broadcast_to(ramp, side), 1 - axis))
    return _Patch(
        place=inside,
        target=normal[inside].astype(np.float32),
        crop=crop[seen].astype(np.float32),
        mask=mask[seen],
        alpha=alpha[seen].astype(np.float32),
        reach_px=max(fade_px, depth),
    )


def _matched(patch: _Patch) -> NDArray[np.float32]:
    """The crop, around and under its defect as bright as the picture: means of the ring, carried inwards."""
    ring = patch.ring
    if not ring.any():
        return patch.crop
    weight = ndimage.gaussian_filter(ring.astype(np.float32), patch.reach_px)[..., None] + 1e-4

    def mean(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        near = ndimage.gaussian_filter(pixels * ring[..., None], (patch.reach_px, patch.reach_px, 0))
        around: NDArray[np.float32] = (near + 1e-4 * pixels[ring].mean(0)) / weight
        return around

    there, here = mean(patch.target), mean(patch.crop)
    gain = _gain(there.mean(-1, keepdims=True), here.mean(-1, keepdims=True))
    matched: NDArray[np.float32] = there + gain * (patch.crop - here)
    return matched


def _gain(there: Any, here: Any) -> Any:
    return np.clip((there + 1) / (here + 1), *GAIN)


def _write(out: Path, index: int, picture: Pixels, mask: Mask, facts: dict[str, Any]) -> None:
    part = np.where(mask[..., None], picture, np.uint8(GREY))
    marks = Image.fromarray(mask.astype(np.uint8) * 255)
    write_pair(out, index, Image.fromarray(picture), Image.fromarray(part), marks, facts)
