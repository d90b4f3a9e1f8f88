"""Guided pairs: defects pasted into real normals, drawn anew by the model; the normals' own pixels stay.

A small base draws whole pictures badly and defects well. So both branches start from a normal with a defect pasted into
it (`start`), and only what the model changes is added to the pasted picture's own pixels (`residual`), at its own
resolution: what the base is too small to draw, grain and fine edges, stays as the camera saw it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dual_anodiff.config import STRENGTH
from dual_anodiff.crops.native import CELL_PX, CONTEXT, Box, cut, find_defects, shot_window
from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.images import square, square_mask
from dual_anodiff.masks import mask_from_part
from dual_anodiff.objective import decode, encode
from dual_anodiff.pictures import DRAWN_SHARE, mask_from_share
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.refine import refine
from dual_anodiff.residual import agree, changed, feather, transfer
from dual_anodiff.start import Starts, draw_strengths, widened

LEAST_SHOWN = 0.25  # share of a mask that must differ from the normal
MARGIN_CELLS = 2  # of latents around the pasted defect, in which a drawn one may differ from it

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Pasted:
    """What one pair starts from: a normal picture, and the same with a defect in it. Shape: (h, w, 3) twice, (h, w)."""

    normal: Pixels
    image: Pixels
    mask: Mask
    seed: int


@dataclass(frozen=True)
class GuidedPair:
    """A pair at its normal's own resolution. Shape: image, anomaly (h, w, 3); mask (h, w), empty where nothing was drawn.

    `mask` is the anomaly branch's, or where that is worse the pasted one: see `_better`. `anomaly` is the anomaly branch's
    picture, mid-grey around the mask. `windows`: what the model saw, one for each group of marks that lie apart, px; they
    may reach beyond the picture. `agreement`: of the mask and the change of the picture, the least of the windows'
    (`residual.agree`), 0 where the change hardly shows.
    """

    image: Pixels
    anomaly: Pixels
    mask: Mask
    windows: list[Box]
    strength: float
    agreement: float


@dataclass(frozen=True)
class _Scene:
    """One window of a pair. Shape: normal, start (3, s, s) in [-1, 1]; mask (s, s) bool."""

    pair: int
    window: Box
    normal: Tensor
    start: Tensor
    mask: Tensor


@torch.no_grad()
def guided_pairs(
    pipe: DualAnoDiffPipeline,
    pasted: Sequence[Pasted],
    *,
    side_px: int | None,
    strength: float | tuple[float, float] = STRENGTH,
    num_inference_steps: int = 25,
    guidance_scale: float = 2.5,
    mask_threshold: float | None = None,
    min_area_px: int = 4,
    refine_masks: bool = True,
    margin_cells: int = MARGIN_CELLS,
    batch_size: int = 8,
) -> Iterator[GuidedPair]:
    """Draw the pasted defects anew, in order; pair i depends on pasted[i] alone.

    Units: side_px is the side of the square of the picture that the model sees, px, as it was fine-tuned; None for all of
    the picture. Marks that no such square shows together get one each; a defect larger than that gets a larger one.
    mask_threshold None is the adapter's own.
    Raises: InputError for a pasted picture without a defect; AdapterError without an adapter.
    """
    if pipe.card is None:
        raise AdapterError("no adapter is loaded; call load_adapter(folder) first")
    size_px = pipe.card.size_px
    threshold = pipe.card.mask_threshold if mask_threshold is None else mask_threshold
    for first in range(0, len(pasted), batch_size):
        some = pasted[first : first + batch_size]
        strengths = draw_strengths(strength, [each.seed for each in some])
        scenes = [scene for i, each in enumerate(some) for scene in _scenes(i, each, side_px, size_px)]
        images, parts = [each.image.copy() for each in some], [np.full_like(p.normal, 128) for p in some]
        masks, agreements = [np.zeros(p.mask.shape, dtype=bool) for p in some], [1.0] * len(some)
        for at in range(0, len(scenes), batch_size):
            batch = scenes[at : at + batch_size]
            normals, starts, marks = (
                torch.stack([getattr(scene, name) for scene in batch]) for name in ("normal", "start", "mask")
            )
            regions = widened(marks, margin_cells)
            drawn = pipe.sample(
                [some[scene.pair].seed for scene in batch],
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                # A part is the picture inside the mask, and mid-grey around it.
                starts=Starts(starts, starts * marks[:, None], strength, normals, regions),
            )
            results, anomalies = drawn.cpu().unbind(1)
            before = _round_trip(pipe, starts)
            loss = _round_trip(pipe, normals) - normals
            found = mask_from_part(anomalies, threshold, min_area_px)
            if refine_masks:
                found = refine(results, anomalies, found, threshold)
            for k, scene in enumerate(batch):
                fade_px = margin_cells * CELL_PX * scene.window.height / size_px
                images[scene.pair] = _put(
                    images[scene.pair], scene.window, before[k], results[k], regions[k], fade_px
                )
            after = torch.stack([_to_square(cut(images[s.pair], s.window), size_px) for s in batch])
            change = changed(normals, after, loss, regions, min_area_px)
            drawn_masks, scores = _better(found, marks, change)
            for k, scene in enumerate(batch):
                i, shape = scene.pair, images[scene.pair].shape
                mask = _mask_of(scene.window, drawn_masks[k], shape)
                parts[i][mask] = _part_of(scene.window, anomalies[k], shape)[mask]
                masks[i] |= mask
                agreements[i] = min(agreements[i], float(scores[k]))
        for i in range(len(some)):
            windows = [scene.window for scene in scenes if scene.pair == i]
            yield GuidedPair(images[i], parts[i], masks[i], windows, strengths[i], agreements[i])


def windows_of(mask: Mask, side_px: int | None, size_px: int, seed: int) -> list[Box]:
    """The squares of a picture that the model is to see, so that each mark is whole in one; all of it without `side_px`.

    Raises: InputError if nothing is marked.
    """
    if not mask.any():
        raise InputError("pasted: a mask marks nothing, so there is no defect to draw anew; mark it")
    shape = (mask.shape[0], mask.shape[1])
    if side_px is None:
        return [Box(0, 0, *shape)]
    # Marks nearer than a latent cell of the window are one defect; no finer than the picture's own pixels.
    whole_px = min(round(size_px * max(shape) / side_px), CELL_PX // 2 * min(shape))
    left = sorted(find_defects(mask, whole_px), key=lambda box: -box.height * box.width)
    generator = np.random.default_rng(seed)
    windows = []
    while left:
        largest = max(left[0].height, left[0].width)
        side = side_px if largest <= side_px else int(np.ceil(largest / (1 - 2 * CONTEXT)))
        window = shot_window(left[0], left[1:], shape, side, generator)
        windows.append(window)
        left = [box for box in left[1:] if not _shows(window, box)]
    return windows


def _scenes(pair: int, pasted: Pasted, side_px: int | None, size_px: int) -> Iterator[_Scene]:
    shape = pasted.mask.shape
    for window in windows_of(pasted.mask, side_px, size_px, pasted.seed):
        normal, start = (_to_square(cut(pixels, window), size_px) for pixels in (pasted.normal, pasted.image))
        # Beyond the picture's border nothing is a defect, though the picture is mirrored there.
        shown = np.zeros((window.height, window.width), dtype=bool)
        inside, seen = _inside(window, shape)
        shown[seen] = pasted.mask[inside]
        marks = square_mask(torch.from_numpy(shown)[None].float(), size_px)[0] > 0
        yield _Scene(pair, window, normal, start, marks)


def _better(parts: Tensor, pasted: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """Of each pair's two masks the one that lies where the picture changed, and how well it does.

    A faint part gives no mask, or half of one, though its picture shows the defect: where it was pasted. The anomaly
    branch's is taken where they are equal. One that hardly shows counts 0. Shape: (b, s, s) bool each → (b, s, s) bool,
    (b,).
    """

    def score(masks: Tensor) -> Tensor:
        shown = (masks & change).flatten(1).sum(1) / masks.flatten(1).sum(1).clamp_min(1)
        return agree(masks, change).score * (shown >= LEAST_SHOWN)

    of_part, of_pasted = score(parts), score(pasted)
    better = of_part >= of_pasted
    return torch.where(better[:, None, None], parts, pasted), torch.maximum(of_part, of_pasted)


def _shows(window: Box, box: Box) -> bool:
    """Whether a window holds all of a box."""
    return (
        window.top <= box.top
        and box.bottom <= window.bottom
        and window.left <= box.left
        and box.right <= window.right
    )


def _to_square(pixels: Pixels, size_px: int) -> Tensor:
    """Shape: (h, w, 3) → (3, s, s) in [-1, 1]."""
    return square(torch.tensor(pixels).permute(2, 0, 1) / 127.5 - 1, size_px)


def _round_trip(pipe: DualAnoDiffPipeline, pictures: Tensor) -> Tensor:
    """What the VAE alone makes of pictures. Shape: (b, 3, s, s) in [-1, 1] → the same."""
    latents = encode(pipe.vae, pictures.to(pipe.vae.device, pipe.vae.dtype))[0]
    return decode(pipe.vae, latents).float().cpu()


def _put(image: Pixels, window: Box, before: Tensor, after: Tensor, region: Tensor, fade_px: float) -> Pixels:
    """A picture with what the model changed in a region. Shape: before, after (3, s, s); region (s, s)."""
    inside, seen = _inside(window, image.shape)
    size = (window.height, window.width)
    wide = F.interpolate(region[None, None].float(), size, mode="nearest")[0, 0].numpy() > 0
    everywhere = np.zeros(image.shape[:2], dtype=bool)
    everywhere[inside] = wide[seen]
    # With a pixel around, so that what reaches the window's border fades there, unless that is the picture's.
    framed = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in inside)
    alpha = np.zeros(everywhere.shape, dtype=np.float32)
    alpha[framed] = feather(everywhere[framed], fade_px)
    shown = np.zeros(size, dtype=np.float32)
    shown[seen] = alpha[inside]
    changed_image = image.copy()
    changed_image[inside] = transfer(cut(image, window), before, after, shown)[seen]
    return changed_image


def _mask_of(window: Box, mask: Tensor, shape: tuple[int, ...]) -> Mask:
    """A mask of the working square in the whole picture. Shape: (s, s) bool → (h, w)."""
    size = (window.height, window.width)
    share = F.interpolate(mask[None, None].float(), size, mode="bilinear", antialias=True)[0, 0].numpy()
    inside, seen = _inside(window, shape)
    whole = np.zeros(shape[:2], dtype=bool)
    whole[inside] = mask_from_share(share, DRAWN_SHARE)[seen]
    return whole


def _part_of(window: Box, anomaly: Tensor, shape: tuple[int, ...]) -> Pixels:
    """The anomaly branch's picture in the whole one, mid-grey around it. Shape: (3, s, s) in [-1, 1] → (h, w, 3)."""
    size = (window.height, window.width)
    resized = F.interpolate(anomaly[None], size, mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    inside, seen = _inside(window, shape)
    whole = np.full((*shape[:2], 3), 128, dtype=np.uint8)
    whole[inside] = ((resized.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()[seen]
    return whole


def _inside(window: Box, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """What of a window lies in the picture: in the picture's pixels, and in the window's."""
    rows = slice(max(0, window.top), min(shape[0], window.bottom))
    columns = slice(max(0, window.left), min(shape[1], window.right))
    return (rows, columns), (
        slice(rows.start - window.top, rows.stop - window.top),
        slice(columns.start - window.left, columns.stop - window.left),
    )
