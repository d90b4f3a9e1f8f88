"""The ImageNet encoder as an instrument: what it sees of pictures, as a whole and place by place."""

from dataclasses import dataclass
from typing import Literal

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dual_anodiff.image_encoder import ARCHITECTURE, imagenet_encoder

SIZE_PX = 128  # pictures are scaled to this side: mini's, and enough for the encoder to see what they show
BATCH = 32
# Feature maps with a cell of 8 and of 16 px: fine enough to say where a defect is, coarse enough to let it be moved a
# pixel or two.
LEVELS = (2, 3)
BANK = 4096  # places of normals that a background is compared with; more change the figure's second digit and cost time


class Features(nn.Module):
    """The image encoder's pooled features. Shape: (b, 3, h, w) uint8, or float in [-1, 1] → (b, d)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = timm.create_model(ARCHITECTURE)
        self.encoder.load_state_dict(load_file(imagenet_encoder() / "model.safetensors"))
        self.encoder.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        final = self.encoder.forward_features(scaled(images))
        features: Tensor = self.encoder.forward_head(final, pre_logits=True)
        return features

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """The maps of LEVELS and the last one. Shape: (b, 40, 16, 16), (b, 112, 8, 8), (b, 1280, 4, 4)."""
        final, levels = self.encoder.forward_intermediates(scaled(images), indices=list(LEVELS))
        return *levels, final


@dataclass(frozen=True)
class Seen:
    """Pictures with masks as the encoder sees them.

    Shape: pooled (n, d), over the whole picture; defect (n, e), over the mask wherever that is, unit vectors, or zero
    where the mask is empty; for each level maps (n, c, cells), unit vectors along c, and masked (n, cells), 1 where the
    mask touches a cell, else 0.
    """

    pooled: Tensor
    defect: Tensor
    maps: tuple[Tensor, ...]
    masked: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.pooled)

    def __getitem__(self, index: Tensor | slice) -> "Seen":
        maps, masked = (tuple(level[index] for level in levels) for levels in (self.maps, self.masked))
        return Seen(self.pooled[index], self.defect[index], maps, masked)


def scaled(images: Tensor) -> Tensor:
    """Pictures as the encoder takes them. Shape: (b, 3, h, w) uint8, or float in [-1, 1] → (b, 3, 128, 128) float."""
    images = images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images
    if images.shape[-2:] == (SIZE_PX, SIZE_PX):
        return images
    return F.interpolate(images, (SIZE_PX, SIZE_PX), mode="bilinear", antialias=True)


@torch.no_grad()
def look(features: Features, images: Tensor, masks: Tensor) -> Seen:
    """Shape: images (n, 3, h, w) uint8, or float in [-1, 1]; masks (n, h, w)."""
    batches = [features.maps(part) for part in images.split(BATCH)]
    *levels, final = (torch.cat(level) for level in zip(*batches, strict=True))
    mask = masks.float()[:, None]
    over_mask = []
    for level in (levels[-1], final):
        share = F.adaptive_avg_pool2d(mask, (level.shape[-2], level.shape[-1]))
        over_mask.append(F.normalize((level * share).sum((2, 3)), dim=1) / 2**0.5)
    return Seen(
        features.encoder.forward_head(final, pre_logits=True),
        torch.cat(over_mask, dim=1),
        tuple(F.normalize(level.flatten(2), dim=1) for level in levels),
        tuple(F.adaptive_max_pool2d(mask, level.shape[-2:]).flatten(1) for level in levels),
    )


def distance(a: Seen, b: Seen, where: Literal["defects", "everywhere", "background"]) -> Tensor:
    """1 − the cosine of two pictures' features in the same place, mean over places, then over levels.

    `defects`: the places that either mask touches, `background`: those that neither does; NaN where there are none.
    Range: 0 (the same picture) to 2; unlike ones are about 1, as features may be negative. Shape: (n_a, n_b).
    Source: LPIPS (Zhang et al. 2018, eq. 1) with all channel weights alike, averaged over a region.
    """
    per_level = []
    for map_a, map_b, masked_a, masked_b in zip(a.maps, b.maps, a.masked, b.masked, strict=True):
        cells = map_a.shape[-1]
        all_cosines = map_a.flatten(1) @ map_b.flatten(1).T
        if where == "everywhere":
            per_level.append(1 - all_cosines / cells)
            continue
        free_a, free_b = 1 - masked_a, 1 - masked_b
        free = free_a @ free_b.T  # cells that neither mask touches
        free_cosines = (map_a * free_a[:, None]).flatten(1) @ (map_b * free_b[:, None]).flatten(1).T
        if where == "background":
            per_level.append(1 - free_cosines / free)
        else:
            per_level.append(1 - (all_cosines - free_cosines) / (cells - free))
    return torch.stack(per_level).mean(0).clamp(0, 2)


def background_distance(pictures: Seen, normals: Seen) -> Tensor:
    """How far the places clear of the mask are from the normals', in units of what held-back normals reach: 1 is as good.

    Each place's feature is compared with the nearest of the normals' places; every second normal is held back. Places
    next to the mask are left out, since the encoder sees the defect from there; NaN if none is left.
    Range: 0 and up. Shape: (n,). Source: PatchCore's score (Roth et al. 2022, eq. 6), mean in place of maximum.
    """
    places, masked = pictures.maps[0], pictures.masked[0]
    bank = normals.maps[0][0::2].transpose(1, 2).flatten(0, 1)  # ((n cells), c)
    chosen = torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))[:BANK]
    bank = bank[chosen]

    def to_nearest(maps: Tensor) -> Tensor:
        batches = [(part.transpose(1, 2) @ bank.T).amax(-1) for part in maps.split(BATCH)]
        return 1 - torch.cat(batches)

    side = round(places.shape[-1] ** 0.5)
    near = F.max_pool2d(masked.unflatten(1, (1, side, side)), 3, stride=1, padding=1).flatten(1)
    clear = 1 - near
    reached = (to_nearest(places) * clear).sum(1) / clear.sum(1)
    return reached / to_nearest(normals.maps[0][1::2]).mean()
