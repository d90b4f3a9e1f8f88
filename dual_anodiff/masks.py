"""Masks from the anomaly branch alone: where its picture leaves mid-grey."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

THRESHOLDS = torch.linspace(0.06, 0.6, 55)
# A generated background may be tinted by as much; what is further from mid-grey is defect, whatever its share.
NEAR_GREY = 0.5
# The grain of a generated background reaches 0.1; to be clear of it a threshold may cost some mean IoU on the shots.
CLEAR_OF_GRAIN = 0.15
IOU_TO_SPARE = 0.03


def background(part: Tensor) -> Tensor:
    """The colour of the part's own background: the median of what is near mid-grey, as generated ones are tinted.

    Shape: (b, 3, h, w) in [-1, 1] → (b, 3, 1, 1).
    """
    # A median of 128 × 128 pixels is no less sure than one of all, and at 512 px takes 1 ms in place of 15.
    few = part[:, :, :: max(1, part.shape[2] // 128), :: max(1, part.shape[3] // 128)]
    near = few.abs().amax(1, keepdim=True) < NEAR_GREY
    tint = torch.where(near, few, torch.nan).flatten(2).nanmedian(-1).values.nan_to_num(0.0)
    return tint[:, :, None, None]


def distance_from_background(part: Tensor) -> Tensor:
    """How far each pixel is from the part's own background: the largest channel's distance, lightly smoothed.

    Shape: (b, 3, h, w) in [-1, 1] → (b, h, w), 0 and up.
    """
    return smooth((part - background(part)).abs().amax(1))


def smooth(distance: Tensor) -> Tensor:
    """Decoder noise on the flat background is a pixel wide; a 3 px binomial filter halves it and keeps scratches.

    Shape: (b, h, w) → the same.
    """
    kernel = torch.tensor([1.0, 2.0, 1.0], device=distance.device, dtype=distance.dtype) / 4
    weight = (kernel[:, None] * kernel[None])[None, None]
    return F.conv2d(F.pad(distance[:, None], (1, 1, 1, 1), mode="replicate"), weight)[:, 0]


def mask_from_part(part: Tensor, threshold: float, min_area_px: int) -> Tensor:
    """Binary masks of anomaly parts.

    Shape: (b, 3, h, w) in [-1, 1] → (b, h, w) bool. Units: threshold in [0, 1], min_area_px in px at this size.
    """
    masks = (distance_from_background(part.float()) > threshold).cpu().numpy()
    return torch.from_numpy(np.stack([clean(mask, min_area_px) for mask in masks]))


def clean(mask: NDArray[np.bool_], min_area_px: int) -> NDArray[np.bool_]:
    """Remove specks below `min_area_px` (8-connected) and fill holes as small: grey spots within the defect.

    If nothing is left the mask is empty: an honest failure, which curation counts.
    """
    eight = np.ones((3, 3), dtype=bool)

    def large(regions: NDArray[np.bool_]) -> NDArray[np.bool_]:
        labels, count = ndimage.label(regions, structure=eight)
        keep = np.bincount(labels.ravel(), minlength=count + 1) >= min_area_px
        keep[0] = False
        kept: NDArray[np.bool_] = keep[labels]
        return kept

    if min_area_px <= 1:
        return mask
    return ~large(~large(mask)) if mask.any() else mask


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union; 1 where both are empty. Shape: (..., h, w) bool → (...)."""
    both, either = (a & b).flatten(-2).sum(-1), (a | b).flatten(-2).sum(-1)
    return torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(both, dtype=torch.float32))


def fit_threshold(parts: Tensor, masks: Tensor, min_area_px: int) -> tuple[float, float]:
    """Of the thresholds with almost the best mean IoU on the few shots the one nearest CLEAR_OF_GRAIN, and its IoU.

    The shots' backgrounds are flatter than generated ones, so that the best threshold alone would be too low for
    those; a high one would lose the faint edges of a generated defect.

    Shape: parts (n, 3, h, w) in [-1, 1], the few shots' anomaly parts as the VAE gives them back (so that its blur
    counts); masks (n, h, w) bool. Returns: (threshold, mean IoU).
    """
    distance = distance_from_background(parts.float())
    scores = torch.stack([iou(distance > t, masks).mean() for t in THRESHOLDS])
    good = THRESHOLDS[scores >= scores.max() - IOU_TO_SPARE]
    threshold = float(good[(good - CLEAR_OF_GRAIN).abs().argmin()])
    return threshold, float(iou(mask_from_part(parts, threshold, min_area_px), masks.cpu()).mean())
