"""From kind, defect and seed to lit pictures with exact masks."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.procedural import defects, parts
from dual_anodiff.procedural.noise import fractal_noise, value_noise


@dataclass(frozen=True)
class Look:
    """What all pictures of one category share. Shape: u (b, 6) in [0, 1]; colours (b, 3) in [0, 1]."""

    u: Tensor
    colour: Tensor
    accent: Tensor
    table: Tensor


@dataclass(frozen=True)
class Drawn:
    """Shape: image (b, 3, h, w) in [-1, 1]; mask (b, 1, h, w) bool; normal is the same picture without its defect."""

    image: Tensor
    mask: Tensor
    normal: Tensor


def random_look(b: int, generator: torch.Generator, shape_range: tuple[float, float]) -> Look:
    """Draw b categories' looks; `shape_range` bounds the first two shape parameters (see `parts`)."""
    u = torch.rand(b, parts.NUM_PARAMETERS, generator=generator)
    low, high = shape_range
    u[:, :2] = low + (high - low) * u[:, :2]

    def colour(saturation: float) -> Tensor:
        hue = torch.rand(b, 1, generator=generator)
        value = 0.25 + 0.6 * torch.rand(b, 1, generator=generator)
        s = saturation * torch.rand(b, 1, generator=generator)
        wheel = 0.5 + 0.5 * torch.cos(2 * math.pi * (hue + torch.tensor([0.0, 1 / 3, 2 / 3])))
        return value * (1 - s + s * wheel)

    return Look(u, colour(0.7), colour(0.9), colour(0.3) * torch.rand(b, 1, generator=generator).add(0.15))


def _light(surface: parts.Surface, table: Tensor, generator: torch.Generator) -> "_Light":
    b = surface.height.shape[0]

    def one(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(b, 1, 1, generator=generator)

    size_px = surface.height.shape[-1]
    turn, tilt = one(-0.9, 0.9) + math.pi / 4, one(0.6, 1.0)
    return _Light(
        direction=(turn.cos() * tilt.cos(), turn.sin() * tilt.cos(), tilt.sin()),
        ambient=one(0.35, 0.5),
        gain=one(0.85, 1.15),
        falloff=0.06 * value_noise(b, size_px, (2, 2), generator),
        table=table[:, :, None, None] * (1 + 0.04 * fractal_noise(b, size_px, 8, 3, generator))[:, None],
        grain=torch.randn(b, 3, size_px, size_px, generator=generator) * one(0.004, 0.02)[:, None],
        blur=float(0.35 + 0.3 * torch.rand((), generator=generator)),
    )


@dataclass(frozen=True)
class _Light:
    """One exposure: drawn once, so that a picture with and without its defect differ in the defect alone."""

    direction: tuple[Tensor, Tensor, Tensor]
    ambient: Tensor
    gain: Tensor
    falloff: Tensor
    table: Tensor
    grain: Tensor
    blur: float


def _render(s: parts.Surface, light: _Light) -> Tensor:
    """Lambert shading with a Blinn highlight, a soft shadow on the table, camera blur and noise. In [-1, 1]."""
    size_px = s.height.shape[-1]
    per_px = size_px / 2
    padded = F.pad(s.height[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    nx = (padded[:, 1:-1, :-2] - padded[:, 1:-1, 2:]) / 2 * per_px
    ny = (padded[:, :-2, 1:-1] - padded[:, 2:, 1:-1]) / 2 * per_px
    norm = (nx.square() + ny.square() + 1).rsqrt()
    lx, ly, lz = light.direction
    diffuse = ((nx * lx + ny * ly + lz) * norm).clamp_min(0)
    half = (lx.square() + ly.square() + (lz + 1).square()).sqrt()
    highlight = ((nx * lx + ny * ly + lz + 1) * norm / half).clamp_min(0).pow(40)
    shade = (light.ambient + 0.75 * diffuse)[:, None]
    lit = s.albedo * shade + (0.22 * s.gloss * highlight)[:, None]
    shadow = F.avg_pool2d(F.pad(s.inside[:, None], (6, 0, 6, 0)), 7, stride=1, padding=3)
    table = light.table * (1 - 0.35 * shadow[..., :size_px, :size_px])
    inside = s.inside[:, None]
    picture = (lit * inside + table * (1 - inside)) * (light.gain + light.falloff)[:, None]
    offset = torch.arange(-2, 3, dtype=torch.float32)
    kernel = torch.exp(-(offset**2) / (2 * light.blur**2))
    kernel = kernel / kernel.sum()
    picture = F.pad(picture, (2, 2, 2, 2), mode="replicate")
    picture = F.conv2d(picture, kernel.view(1, 1, 1, 5).expand(3, 1, 1, 5), groups=3)
    picture = F.conv2d(picture, kernel.view(1, 1, 5, 1).expand(3, 1, 5, 1), groups=3)
    return ((picture + light.grain) * 2 - 1).clamp(-1, 1)


def draw(
    kind: str,
    defect: str | None,
    look: Look,
    generator: torch.Generator,
    *,
    size_px: int = 128,
    max_turn: float = math.pi,
    size_range: tuple[float, float] = defects.PRETRAIN_SIZE,
) -> Drawn:
    """Draw one picture for each row of `look`; `defect` None draws good parts with an empty mask.

    Units: `max_turn` radians either way, `size_range` the defect's radius in half picture widths.
    Raises: KeyError for a kind or defect that is not in `parts.KINDS` or `defects.DEFECTS`.
    """
    b = look.u.shape[0]
    axis = (torch.arange(size_px) + 0.5) / size_px * 2 - 1
    gy, gx = torch.meshgrid(axis, axis, indexing="ij")

    def one(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(b, 1, 1, generator=generator)

    turn, zoom = one(-max_turn, max_turn), one(0.94, 1.06)
    x, y = (gx - one(-0.06, 0.06)) / zoom, (gy - one(-0.06, 0.06)) / zoom
    canvas = parts.Canvas(
        x * turn.cos() + y * turn.sin(),
        y * turn.cos() - x * turn.sin(),
        look.u,
        look.colour,
        look.accent,
        generator,
    )
    surface = parts.KINDS[kind](canvas)
    light = _light(surface, look.table, generator)
    normal = _render(surface, light)
    if defect is None:
        return Drawn(normal, torch.zeros(b, 1, size_px, size_px, dtype=torch.bool), normal)
    where = defects.place(surface, size_range, generator)
    damaged, region = defects.DEFECTS[defect](surface, where)
    mask = (region > 0.5) & (surface.inside > 0.5)
    return Drawn(_render(damaged, light), mask[:, None], normal)
