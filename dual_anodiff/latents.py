"""Latents of the training pictures, encoded once in every flip that training may draw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dual_anodiff.objective import encode


@dataclass(frozen=True)
class CachedLatents:
    """All that the VAE says of n groups of f pictures. Shape: mean, std (n, flips, f, c, h, w).

    A group is flipped as one: a pair (f = 2, image and part) or a picture alone (f = 1).
    """

    mean: Tensor
    std: Tensor

    def batch(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Draw groups, each at random and in a random flip. Shape: ((b f), c, h, w)."""
        groups, flips = self.mean.shape[:2]
        group = torch.randint(groups, (batch_size,), generator=generator)
        flip = torch.randint(flips, (batch_size,), generator=generator)
        mean = self.mean[group, flip].flatten(0, 1)
        std = self.std[group, flip].flatten(0, 1)
        return mean + std * torch.randn(mean.shape, generator=generator).to(mean.device)


@torch.no_grad()
def cache_latents(vae: Any, groups: Iterable[Tensor], *, horizontal: bool, vertical: bool) -> CachedLatents:
    """Encode every group in every flip. Shape: n groups of (f, 3, h, w) in [-1, 1]."""
    flips: list[list[int]] = [[]]
    flips += [[-1]] if horizontal else []
    flips += [[-2]] if vertical else []
    flips += [[-1, -2]] if horizontal and vertical else []
    means, stds = [], []
    for group in groups:
        flipped = torch.cat([group.flip(axes) if axes else group for axes in flips])
        # A VAE does not commute with flips, so each flip is encoded, not flipped afterwards.
        mean, std = encode(vae, flipped.to(vae.device, vae.dtype))
        means.append(mean.float().unflatten(0, (len(flips), -1)))
        stds.append(std.float().unflatten(0, (len(flips), -1)))
    return CachedLatents(torch.stack(means), torch.stack(stds))
