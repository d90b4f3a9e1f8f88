"""Guided pairs: shots' defects drawn anew into real normals, whose own pixels stay.

A small base draws whole pictures badly and defects well. So a shot's defect is pasted into a normal, both branches start
from there (`start`), and only what the model changed is put onto the normal's own pixels (`residual`), at its own
resolution.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.images import square, square_mask
from dual_anodiff.masks import mask_from_part
from dual_anodiff.native import CELL_PX, Box, cut, shot_window
from dual_anodiff.objective import decode, encode
from dual_anodiff.paste import box_of, cut_out, paste
from dual_anodiff.pictures import read_picture
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.refine import refine
from dual_anodiff.residual import agree, changed, feather, transfer
from dual_anodiff.start import Starts, draw_strengths, widened
from dual_anodiff.wishes import Wish, read_defect

STRENGTH = (0.2, 0.5)  # issue 23: at .6 the two branches began to disagree
MARGIN_CELLS = 2  # of latents around the pasted defect, in which a drawn one may differ from it

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class GuidedPair:
    """A pair at its normal's own resolution. Shape: image, pasted (h, w, 3); mask (h, w), empty where nothing was drawn.

    `pasted` is what it started from; `window` what the model saw of it, px, and may reach beyond the picture;
    `agreement` is that of `residual.agree`.
    """

    wish: Wish
    image: Pixels
    mask: Mask
    pasted: Pixels
    window: Box
    strength: float
    agreement: float


@dataclass(frozen=True)
class _Scene:
    """A wish's pictures. Shape: real, pasted (h, w, 3); normal, start (3, s, s); mask (s, s) bool, of the window."""

    wish: Wish
    real: Pixels
    pasted: Pixels
    window: Box
    normal: Tensor
    start: Tensor
    mask: Tensor


@torch.no_grad()
def guided_pairs(
    pipe: DualAnoDiffPipeline,
    wishes: Sequence[Wish],
    *,
    side_px: int | None,
    strength: float | tuple[float, float] = STRENGTH,
    num_inference_steps: int = 25,
    guidance_scale: float = 2.5,
    margin_cells: int = MARGIN_CELLS,
    min_area_px: int = 4,
    batch_size: int = 8,
) -> Iterator[GuidedPair]:
    """Draw the wishes, in order; pair i depends on wish i alone.

    Units: side_px is the side of the square of the normal that the model sees, px of the pictures, None for all of it:
    as it was fine-tuned.
    Raises: InputError for files that can't be read, or a defect larger than the square; AdapterError without an adapter.
    """
    if pipe.card is None:
        raise AdapterError("no adapter is loaded; call load_adapter(folder) first")
    size_px, threshold = pipe.card.size_px, pipe.card.mask_threshold
    for first in range(0, len(wishes), batch_size):
        some = wishes[first : first + batch_size]
        scenes = [_scene(wish, side_px, size_px) for wish in some]
        seeds = [wish.seed for wish in some]
        normals = torch.stack([scene.normal for scene in scenes])
        pictures = torch.stack([scene.start for scene in scenes])
        masks = torch.stack([scene.mask for scene in scenes])
        regions = widened(masks, margin_cells)
        starts = Starts(pictures, pictures * masks[:, None], strength, normals, regions)
        drawn = pipe.sample(
            seeds, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, starts=starts
        )
        results, parts = drawn.cpu().unbind(1)
        trips = decode(pipe.vae, encode(pipe.vae, normals.to(pipe.vae.device, pipe.vae.dtype))[0])
        trips = trips.float().cpu()
        plain = mask_from_part(parts, threshold, min_area_px)
        found = refine(results, parts, plain, threshold)
        scores = agree(found, changed(normals, trips, results, regions, min_area_px)).score.tolist()
        for i, scene in enumerate(scenes):
            fade_px = margin_cells * CELL_PX * min(scene.window.height, scene.window.width) / size_px
            image = _put(scene, trips[i], results[i], regions[i], fade_px)
            yield GuidedPair(
                scene.wish, image, _mask_of(scene, found[i]), scene.pasted, scene.window,
                draw_strengths(strength, seeds[i : i + 1])[0], scores[i],
            )  # fmt: skip


def _scene(wish: Wish, side_px: int | None, size_px: int) -> _Scene:
    real, (shot, shot_mask) = read_picture(wish.normal), read_defect(wish.shot, wish.defect)
    pasted, mask = paste(real, cut_out(shot, shot_mask, wish.change), wish.top, wish.left)
    if not mask.any():
        raise InputError(f"{wish.normal}: nothing of the defect shows at ({wish.top}, {wish.left}); move it")
    shape = (real.shape[0], real.shape[1])
    window = Box(0, 0, *shape)
    if side_px is not None:
        box = box_of(mask)
        if max(box.height, box.width) > side_px:
            raise InputError(
                f"side_px: {wish.shot.image} has a defect of {box.width}x{box.height} px, {side_px} px don't show it "
                "whole; take larger crops"
            )
        window = shot_window(box, [], shape, side_px, np.random.default_rng(wish.seed))
    normal, start = (_to_square(cut(pixels, window), size_px) for pixels in (real, pasted))
    # Beyond the picture's border nothing is a defect, though the picture is mirrored there.
    shown = np.zeros((window.height, window.width), dtype=bool)
    inside, seen = _inside(window, shape)
    shown[seen] = mask[inside]
    marks = square_mask(torch.from_numpy(shown)[None].float(), size_px)[0] > 0
    return _Scene(wish, real, pasted, window, normal, start, marks)


def _to_square(pixels: Pixels, size_px: int) -> Tensor:
    """Shape: (h, w, 3) → (3, s, s) in [-1, 1]."""
    return square(torch.tensor(pixels).permute(2, 0, 1) / 127.5 - 1, size_px)


def _put(scene: _Scene, normal: Tensor, result: Tensor, region: Tensor, fade_px: float) -> Pixels:
    """The real picture with what the model changed in its region. Shape: normal, result (3, s, s); region (s, s)."""
    inside, seen = _inside(scene.window, scene.real.shape[:2])
    size = (scene.window.height, scene.window.width)
    wide = F.interpolate(region[None, None].float(), size, mode="nearest")[0, 0].numpy() > 0
    everywhere = np.zeros(scene.real.shape[:2], dtype=bool)
    everywhere[inside] = wide[seen]
    # With a pixel around, so that what reaches the window's border fades there, unless that is the picture's.
    framed = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in inside)
    alpha = np.zeros(everywhere.shape, dtype=np.float32)
    alpha[framed] = feather(everywhere[framed], fade_px)
    shown = np.zeros(size, dtype=np.float32)
    shown[seen] = alpha[inside]
    image = scene.real.copy()
    image[inside] = transfer(cut(scene.real, scene.window), normal, result, shown)[seen]
    return image


def _mask_of(scene: _Scene, mask: Tensor) -> Mask:
    """A mask of the working square in the whole picture. Shape: (s, s) bool → (h, w)."""
    size = (scene.window.height, scene.window.width)
    share = F.interpolate(mask[None, None].float(), size, mode="bilinear", antialias=True)[0, 0].numpy()
    inside, seen = _inside(scene.window, scene.real.shape[:2])
    whole = np.zeros(scene.real.shape[:2], dtype=bool)
    whole[inside] = ((share >= min(0.5, float(share.max()))) & (share > 0))[seen]
    return whole


def _inside(window: Box, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """What of a window lies in the picture: in the picture's pixels, and in the window's."""
    rows = slice(max(0, window.top), min(shape[0], window.bottom))
    columns = slice(max(0, window.left), min(shape[1], window.right))
    return (rows, columns), (
        slice(rows.start - window.top, rows.stop - window.top),
        slice(columns.start - window.left, columns.stop - window.left),
    )
