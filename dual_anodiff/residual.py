"""What a model changed in a normal picture: put onto the real one's own pixels, and where it is.

A VAE gives a normal picture back softer than it was, whatever is drawn into it. The difference between two pictures that
both went through it has none of that loss: added to the real picture it brings the defect and leaves the part's grain.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from dual_anodiff.crops.native import CELL_PX
from dual_anodiff.errors import InputError
from dual_anodiff.masks import clean, smooth

# What differs by more than FLOOR, or by more than SPREADS of the round trip's own spread above its middle, is changed.
FLOOR = 0.1
SPREADS = 3.0
# A pair whose masks agree by less is to be refused.
AGREES = 0.5
TO_SIGMA = 1.4826  # of a normal distribution: standard deviation per median absolute deviation

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Agreement:
    """Where the anomaly part says the defect is, where the picture changed, and whether these are one place.

    Shape: part, changed (b, s, s) bool; score (b,) from 0 to 1.
    """

    part: Tensor
    changed: Tensor
    score: Tensor


def transfer(real: Pixels, before: Tensor, after: Tensor, alpha: NDArray[np.float32]) -> Pixels:
    """Add what `after` has and `before` has not to the real picture: clip(real + alpha · resized(after − before)).

    Where alpha is 0 no pixel changes; a grey picture stays grey, as its camera sees no colour.

    Shape: real (h, w, 3), any size; before, after (3, s, s) in [-1, 1], the same window through the VAE;
    alpha (h, w) from 0 to 1 → (h, w, 3).
    Raises: InputError if the shapes don't fit each other.
    """
    if before.shape != after.shape or alpha.shape != real.shape[:2]:
        raise InputError(
            f"transfer: before is {tuple(before.shape)}, after {tuple(after.shape)}, real {real.shape}, alpha "
            f"{alpha.shape}; the first two must be of one shape, alpha as high and wide as real"
        )
    difference = (after - before).float().cpu()[None] * 127.5
    size = (real.shape[0], real.shape[1])
    resized = F.interpolate(difference, size, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    if (real == real[..., :1]).all():
        resized = resized.mean(-1, keepdims=True)
    added = np.rint(np.clip(real + alpha[..., None] * resized, 0, 255)).astype(np.uint8)
    return np.where(alpha[..., None] > 0, added, real)


def feather(region: NDArray[np.bool_], fade_px: float) -> NDArray[np.float32]:
    """How much of a change shows: 0 outside of the region, from its edge rising to 1 over `fade_px` without a kink.

    The array's own border is no edge: what is at the border of a picture shows to its last pixel. Shape: (h, w) → (h, w).
    """
    if region.all():
        return np.ones(region.shape, dtype=np.float32)
    rising = np.clip(ndimage.distance_transform_edt(region) / (fade_px + 1), 0, 1)
    alpha: NDArray[np.float32] = (rising * rising * (3 - 2 * rising)).astype(np.float32)
    return alpha


def changed(normal: Tensor, result: Tensor, loss: Tensor, regions: Tensor, min_area_px: int) -> Tensor:
    """Where the result differs from the normal by more than the VAE's round trip itself may.

    The limit comes from the picture: of `loss`, the difference that the VAE alone makes to the normal, the median and its
    deviation, so that neither a few edges nor a change in the result raises it. Grain that the VAE can't keep is drawn anew
    inside the region, and is no change.

    Shape: normal, result, loss (b, 3, s, s), the first two in [-1, 1]; regions (b, s, s) bool, where changes are looked for
    → (b, s, s) bool, on the CPU. Units: min_area_px in px at this size.
    """
    trip, difference = (smooth(x.float().abs().amax(1)) for x in (loss, result - normal))
    middle = trip.flatten(1).median(1).values
    spread = TO_SIGMA * (trip - middle[:, None, None]).abs().flatten(1).median(1).values
    limit = (middle + SPREADS * spread).clamp_min(FLOOR)[:, None, None]
    above = ((difference > limit).cpu() & regions.cpu()).numpy()
    return torch.from_numpy(np.stack([clean(mask, min_area_px) for mask in above]))


def agree(part: Tensor, change: Tensor, *, within_px: int = CELL_PX) -> Agreement:
    """How far the part's masks and the pictures' changes are in one place.

    score = min(|p ∩ c⁺| / |p|, |c ∩ p⁺| / |c|), where ⁺ is widened by `within_px`, a latent cell: 1 if each lies within a
    cell of the other, 0 if they have nothing to do with each other or one is empty. Plain IoU would punish thin defects
    for a pixel.

    Shape: part, change (b, s, s) bool.
    """
    part, change = part.cpu(), change.cpu()
    p_in_c, c_in_p = _share_near(part, change, within_px), _share_near(change, part, within_px)
    return Agreement(part, change, torch.minimum(p_in_c, c_in_p))


def _share_near(masks: Tensor, others: Tensor, within_px: int) -> Tensor:
    """Share of each mask that lies within so many px of the other; 0 where it is empty. Shape: (b, s, s) twice → (b,)."""
    near = F.max_pool2d(others[:, None].float(), 2 * within_px + 1, 1, within_px)[:, 0] > 0
    return (masks & near).flatten(1).sum(1) / masks.flatten(1).sum(1).clamp_min(1)
