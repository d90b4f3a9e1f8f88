"""Light, lens and sensor: from a surface to a picture."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.procedural.noise import fractal_noise, value_noise
from dual_anodiff.procedural.surface import Surface


@dataclass(frozen=True)
class Exposure:
    """One exposure: drawn once, so that a picture with and without its defect differ in the defect alone."""

    direction: tuple[Tensor, Tensor, Tensor]
    ambient: Tensor
    gain: Tensor
    falloff: Tensor
    table: Tensor
    grain: Tensor
    blur: float


def random_exposure(surface: Surface, table: Tensor, generator: torch.Generator) -> Exposure:
    b = surface.height.shape[0]

    def one(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(b, 1, 1, generator=generator)

    size_px = surface.height.shape[-1]
    turn, tilt = one(-0.9, 0.9) + math.pi / 4, one(0.6, 1.0)
    return Exposure(
        direction=(turn.cos() * tilt.cos(), turn.sin() * tilt.cos(), tilt.sin()),
        ambient=one(0.35, 0.5),
        gain=one(0.85, 1.15),
        falloff=0.06 * value_noise(b, size_px, (2, 2), generator),
        table=table[:, :, None, None] * (1 + 0.04 * fractal_noise(b, size_px, 8, 3, generator))[:, None],
        grain=torch.randn(b, 3, size_px, size_px, generator=generator) * one(0.004, 0.02)[:, None],
        blur=float(0.35 + 0.3 * torch.rand((), generator=generator)),
    )


def render(s: Surface, exposure: Exposure) -> Tensor:
    """Lambert shading with a Blinn highlight, a soft shadow on the table, camera blur and noise. In [-1, 1]."""
    size_px = s.height.shape[-1]
    per_px = size_px / 2
    padded = F.pad(s.height[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    nx = (padded[:, 1:-1, :-2] - padded[:, 1:-1, 2:]) / 2 * per_px
    ny = (padded[:, :-2, 1:-1] - padded[:, 2:, 1:-1]) / 2 * per_px
    norm = (nx.square() + ny.square() + 1).rsqrt()
    lx, ly, lz = exposure.direction
    diffuse = ((nx * lx + ny * ly + lz) * norm).clamp_min(0)
    half = (lx.square() + ly.square() + (lz + 1).square()).sqrt()
    highlight = ((nx * lx + ny * ly + lz + 1) * norm / half).clamp_min(0).pow(40)
    shade = (exposure.ambient + 0.75 * diffuse)[:, None]
    lit = s.albedo * shade + (0.22 * s.gloss * highlight)[:, None]
    shadow = F.avg_pool2d(F.pad(s.inside[:, None], (6, 0, 6, 0)), 7, stride=1, padding=3)
    table = exposure.table * (1 - 0.35 * shadow[..., :size_px, :size_px])
    inside = s.inside[:, None]
    picture = (lit * inside + table * (1 - inside)) * (exposure.gain + exposure.falloff)[:, None]
    offset = torch.arange(-2, 3, dtype=torch.float32)
    kernel = torch.exp(-(offset**2) / (2 * exposure.blur**2))
    kernel = kernel / kernel.sum()
    picture = F.pad(picture, (2, 2, 2, 2), mode="replicate")
    picture = F.conv2d(picture, kernel.view(1, 1, 1, 5).expand(3, 1, 1, 5), groups=3)
    picture = F.conv2d(picture, kernel.view(1, 1, 5, 1).expand(3, 1, 5, 1), groups=3)
    return ((picture + exposure.grain) * 2 - 1).clamp(-1, 1)
