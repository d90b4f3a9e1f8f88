"""Masks: whether image and anomaly part agree on them, and whether they lie where the shots have theirs."""

from collections.abc import Sequence

import torch
from torch import Tensor


def mask_agreement(image: Tensor, anomaly: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the part y is the image x inside the mask, and mid-grey, which is 0, outside of it.

    inside = max(0, 2 Σ_m x·y / Σ_m (x² + y²)): 1 where they are equal, 0 where they have nothing in common.
    outside = Σ_m y² / Σ y²: the share of the part's deviation from mid-grey that the mask holds.
    Training's own targets have 1 and 1, and so have the shots. NaN where the mask is empty.
    Shape: (n, 3, h, w) uint8 twice, (n, h, w) bool → (n,), (n,), both 0 to 1.
    Source: ours; inside is Dice's coefficient for real values.
    """
    inside, outside = [], []
    for x, y, m in zip(image.split(64), anomaly.split(64), mask.split(64), strict=True):
        x, y, m = x.float() / 127.5 - 1, y.float() / 127.5 - 1, m[:, None]
        both = (2 * x * y * m).sum((1, 2, 3))
        inside.append((both / ((x.square() + y.square()) * m).sum((1, 2, 3))).clamp_min(0))
        outside.append((y.square() * m).sum((1, 2, 3)) / y.square().sum((1, 2, 3)))
    empty = ~mask.flatten(1).any(1)
    return (
        torch.cat(inside).masked_fill(empty, torch.nan),
        torch.cat(outside).masked_fill(empty, torch.nan),
    )


def centres(mask: Tensor) -> Tensor:
    """Centres of mass, x and y in sides of the picture; NaN where a mask is empty. Shape: (n, h, w) → (n, 2)."""
    mass = mask.double()
    area = mass.sum((1, 2))
    y = (torch.arange(mask.shape[1]) + 0.5) / mask.shape[1]
    x = (torch.arange(mask.shape[2]) + 0.5) / mask.shape[2]
    return torch.stack([mass.sum(1) @ x.double() / area, mass.sum(2) @ y.double() / area], dim=1)


def log_areas(mask: Tensor) -> Tensor:
    """Natural logarithm of the share of the picture; NaN where a mask is empty. Shape: (n, h, w) → (n, 1)."""
    share = mask.double().mean((1, 2))
    return share.where(share > 0, torch.nan).log()[:, None]


def within_shots(values: Tensor, shots: Sequence[Tensor]) -> Tensor:
    """Whether each pair is as near to a shot as each shot is to some other one.

    `shots` holds the shots' values in each flip, as they are first. Of pairs placed just like m shots one in m + 1 is
    expected outside: with few shots that is much, and nothing finer can be said.
    Shape: (n, k), each (m, k) → (n,) bool, False for NaN. Source: the score of conformal prediction with the nearest
    neighbour (Vovk et al. 2005, section 2), at its lowest level.
    """
    own = torch.stack([torch.cdist(shots[0], shot) for shot in shots]).amin(0)
    reach = own.fill_diagonal_(torch.inf).amin(1).max()
    nearest = torch.stack([torch.cdist(values, shot) for shot in shots]).amin(0).amin(1)
    return nearest <= reach


def share_inside(mask: Tensor, objects: Tensor) -> Tensor:
    """Share of each mask's area that lies on the object; NaN where a mask is empty.

    Shape: (n, h, w) bool; objects (h, w) or (n, h, w) bool → (n,), 0 to 1.
    """
    return (mask & objects).sum((1, 2)) / mask.sum((1, 2))
