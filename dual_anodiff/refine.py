"""Masks refined by the pair itself: the part's edge moved by the image's colours, thin strokes brought to their width.

One threshold for all pixels loses the dull end of a defect, and a VAE smears a stroke two pixels wide over six. So
where the image has the defect's colours a pixel counts by how much of the image the part shows there, and of what is
thin only the ridge stays.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from dual_anodiff.masks import background, smooth

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
EIGHT = np.ones((3, 3), dtype=bool)

# Colours are counted in cells of 1/12 of a channel's range; smaller ones are too empty in a defect of 100 px.
BINS = 12
# A generated background's grain stays below it in 99 % of the pixels.
FLOOR = 0.04
# Of what can be seen of the image, and of a stroke's ridge; half thins round specks of 5 px (magnetic tile's blowholes).
SHARE = 0.4
# Smeared strokes are 3 to 6 px wide whatever the picture's size: the smear is the VAE's.
THIN_PX, RIDGE_PX = 7, 5
# How far beyond the plain mask a refined one may reach, and how far around it colours are those of no defect.
REACH_PX = 12


def refine(images: Tensor, parts: Tensor, masks: Tensor, threshold: float) -> Tensor:
    """Refine plain masks by both branches' pictures; one that is empty stays so, and no other becomes it.

    Shape: images, parts (b, 3, h, w) in [-1, 1], masks (b, h, w) bool as `mask_from_part` gives them with the same
    threshold → (b, h, w) bool, on the CPU. Units: threshold in [0, 1].
    """
    images, parts, masks = images.float().cpu(), parts.float().cpu(), masks.cpu()
    tint = background(parts)
    far = (parts - tint).abs().amax(1)
    sharp, distance = far.numpy(), smooth(far).numpy()
    # The part shows the image on its own background, so it can be no further from that than the image is.
    seen = SHARE * (images - tint).abs().amax(1).numpy()
    refined = masks.clone()
    for i, plain in enumerate(masks.numpy()):
        if plain.any():
            box = around(plain, REACH_PX + 1)
            at = (i, *box)
            alike = defect_colours(images[i].numpy()[:, *box], plain[box], distance[at] < threshold / 2)
            limit = np.where(alike, np.clip(seen[at], FLOOR, threshold), threshold)
            mask = _drawn((distance[at] > limit) | plain[box], sharp[at], plain[box])
            refined[at] = torch.from_numpy(mask)
    return refined


def defect_colours(image: Floats, mask: Mask, elsewhere: Mask) -> Mask:
    """Where the image has a colour more frequent in the mask than around it.

    Shape: image (3, h, w) in [-1, 1]; mask, elsewhere (what of the surroundings counts) (h, w) bool → (h, w).
    """
    cells = colour_cells(image)
    more: Mask = histogram(cells, mask) > histogram(cells, ring(mask, 2, REACH_PX) & elsewhere)
    alike: Mask = more[cells]
    return alike


def _drawn(above: Mask, sharp: Floats, plain: Mask) -> Mask:
    """What of `above` belongs to the plain mask: thick parts with their edge, of all else the ridge."""
    body = _connected(above & grown(plain, REACH_PX), plain)
    core = ndimage.minimum_filter(body, THIN_PX, mode="nearest")  # beyond the picture's border it goes on
    thick = ndimage.maximum_filter(core, THIN_PX, mode="nearest") & body
    ridge = ndimage.maximum_filter(np.where(body & ~thick, sharp, 0), RIDGE_PX)
    drawn: Mask = body & (grown(thick, RIDGE_PX // 2) | (sharp >= SHARE * ridge))
    return drawn


def _connected(regions: Mask, seeds: Mask) -> Mask:
    """The 8-connected regions that hold a seed."""
    labels, count = ndimage.label(regions, structure=EIGHT)
    keep = np.zeros(count + 1, dtype=bool)
    keep[labels[seeds]] = True
    keep[0] = False
    kept: Mask = keep[labels]
    return kept


def around(mask: Mask, margin_px: int) -> tuple[slice, slice]:
    """The box of a mask that is not empty, with a margin. Shape: (h, w) bool."""
    boxes = []
    for axis in (1, 0):
        (hit,) = np.nonzero(mask.any(axis))
        boxes.append(slice(max(0, int(hit[0]) - margin_px), int(hit[-1]) + 1 + margin_px))
    return boxes[0], boxes[1]


def colour_cells(image: Floats) -> NDArray[np.int64]:
    """Number of each pixel's colour cell. Shape: (3, h, w) in [-1, 1] → (h, w)."""
    red, green, blue = np.clip((image + 1) * (BINS / 2), 0, BINS - 1).astype(np.int64)
    cells: NDArray[np.int64] = (red * BINS + green) * BINS + blue
    return cells


def histogram(cells: NDArray[np.int64], where: Mask) -> NDArray[np.float64]:
    """Shares of the colour cells, smoothed over neighbouring cells. Shape: (h, w) → (BINS³)."""
    counts = np.bincount(cells[where], minlength=BINS**3).reshape((BINS,) * 3).astype(np.float64)
    shares: NDArray[np.float64] = ndimage.gaussian_filter(counts, 0.7, mode="constant").ravel()
    return shares / max(float(shares.sum()), 1e-9)


def ring(mask: Mask, gap_px: int, reach_px: int) -> Mask:
    """The surroundings of a mask: up to `reach_px` from it, but not within `gap_px`. Shape: (h, w) bool."""
    return grown(mask, reach_px) & ~grown(mask, gap_px)


def grown(mask: Mask, by_px: int) -> Mask:
    """Shape: (h, w) bool. Squares, since they cost the same at any size."""
    larger: Mask = ndimage.maximum_filter(mask, 2 * by_px + 1)
    return larger
