"""Drawn pairs through the bundled VAE and back: what an adapter at its best would give, with the truth."""

from dataclasses import dataclass
from functools import cache

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from dual_anodiff.base import MINI
from dual_anodiff.demo_data import draw_demo
from dual_anodiff.masks import fit_threshold, mask_from_part
from dual_anodiff.objective import decode, encode

COUNT = 6


@dataclass(frozen=True)
class DrawnPairs:
    """Shape: images, parts (6, 3, 128, 128) in [-1, 1]; truth, objects, plain (6, 128, 128) bool."""

    images: Tensor
    parts: Tensor
    truth: Tensor
    objects: Tensor
    threshold: float
    plain: Tensor


@cache
def drawn_pairs(category: str, defect: str) -> DrawnPairs:
    torch.manual_seed(0)
    drawn = draw_demo(category, defect, COUNT, torch.Generator().manual_seed(11))
    truth = drawn.mask[:, 0]
    images, parts = through_vae(drawn.image), through_vae(drawn.image * drawn.mask)
    threshold, _ = fit_threshold(parts, truth, 4)
    return DrawnPairs(
        images, parts, truth, drawn.sound.inside > 0.5, threshold, mask_from_part(parts, threshold, 4)
    )


@torch.no_grad()
def through_vae(images: Tensor) -> Tensor:
    vae = AutoencoderTiny.from_pretrained(MINI / "vae").float()
    return decode(vae, encode(vae, images)[0])
