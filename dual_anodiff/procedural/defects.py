"""Damage to a surface. A defect changes height, albedo, gloss or outline within a soft region; light does the rest.

The mask is the region itself (above one half, on the part), so it is exact by construction.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dual_anodiff.procedural.noise import fractal_noise, jagged_line
from dual_anodiff.procedural.surface import Surface

# Radius of a defect in half picture widths: what pretraining sees, and what the demo draws. They never meet.
PRETRAIN_SIZE = (0.07, 0.22)
DEMO_SIZE = (0.23, 0.30)


@dataclass(frozen=True)
class Place:
    """Where and how large. Shape: x, y (b, h, w), the defect's own coordinates, turned and centred on it; size (b, 1, 1).

    Units: those of the picture (-1 to 1). `ragged` is a smooth random field, `line` a random curve over x.
    """

    x: Tensor
    y: Tensor
    size: Tensor
    ragged: Tensor
    line: Tensor
    generator: torch.Generator

    @property
    def size_px(self) -> int:
        return self.x.shape[-1]

    def uniform(self, low: float, high: float) -> Tensor:
        """One number a picture. Shape: (b, 1, 1)."""
        return low + (high - low) * torch.rand(self.x.shape[0], 1, 1, generator=self.generator)

    def soft(self, signed_distance: Tensor) -> Tensor:
        return torch.sigmoid(-signed_distance * self.size_px / 0.8)

    def blob(self, raggedness: float, stretch: float = 1.6) -> Tensor:
        """A ragged ellipse of about `size`; 1 inside."""
        r = torch.hypot(self.x / self.uniform(1.0, stretch), self.y)
        return self.soft(r - self.size * (1 + raggedness * self.ragged))

    def curve(self) -> Tensor:
        """`line` looked up at this place's x. Shape: (b, h, w)."""
        n = self.line.shape[-1]
        index = ((self.x + 1) / 2 * (n - 1)).clamp(0, n - 1).long()
        return self.line.gather(1, index.flatten(1)).view_as(self.x)


def place(surface: Surface, size_range: tuple[float, float], generator: torch.Generator) -> Place:
    """Draw a place on the part, away from its outline where there is room."""
    b, size_px, _ = surface.inside.shape
    axis = (torch.arange(size_px) + 0.5) / size_px * 2 - 1
    gy, gx = torch.meshgrid(axis, axis, indexing="ij")
    core = torch.nn.functional.avg_pool2d(surface.inside[:, None], 9, stride=1, padding=4)[:, 0]
    near = ((gx.abs() < 0.85) & (gy.abs() < 0.85)).float()
    weight = (core > 0.9).float() * near + 1e-4 * surface.inside * near + 1e-9
    at = torch.multinomial(weight.flatten(1), 1, generator=generator)[:, 0]
    dx, dy = gx - axis[at % size_px][:, None, None], gy - axis[at // size_px][:, None, None]
    turn = 2 * math.pi * torch.rand(b, 1, 1, generator=generator)
    low, high = size_range
    return Place(
        x=dx * turn.cos() + dy * turn.sin(),
        y=dy * turn.cos() - dx * turn.sin(),
        size=low + (high - low) * torch.rand(b, 1, 1, generator=generator),
        ragged=fractal_noise(b, size_px, 5, 3, generator),
        line=jagged_line(b, 256, generator),
        generator=generator,
    )


def _tint(albedo: Tensor, colour: Tensor, alpha: Tensor) -> Tensor:
    return albedo * (1 - alpha[:, None]) + colour * alpha[:, None]


def _within(region: Tensor) -> Tensor:
    """The region's inner half: relief that starts at the mask's own edge, so that no rim is lit outside the mask."""
    return (2 * region - 1).clamp_min(0)


def scratch(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    bend = p.uniform(-0.6, 0.6) * p.x.square() + 0.02 * p.curve()
    width = p.uniform(0.010, 0.022)
    region = p.soft(torch.maximum((p.y - bend).abs() - width, p.x.abs() - 2.4 * p.size))
    lighter = (s.albedo * 0.5 + 0.5) * p.uniform(0.75, 1.1)[:, None]
    return replace(
        s, height=s.height - 0.03 * _within(region), albedo=_tint(s.albedo, lighter, 0.75 * region)
    ), region


def crack(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    taper = (1 - (p.x.abs() / (2.2 * p.size)).square()).clamp_min(0)
    region = p.soft(
        (p.y - 0.09 * p.curve()).abs() - p.uniform(0.014, 0.03) * taper.sqrt() + 0.02 * (taper == 0)
    )
    return replace(
        s, height=s.height - 0.08 * _within(region), albedo=_tint(s.albedo, s.albedo * 0.12, 0.9 * region)
    ), region


def dent(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    r2 = (p.x / p.uniform(1.0, 1.5)).square() + p.y.square()
    bowl = (1 - r2 / p.size.square()).clamp_min(0)
    region = p.soft(r2.sqrt() - p.size)
    return replace(
        s, height=s.height - p.uniform(0.7, 1.1) * p.size * bowl.square(), gloss=s.gloss + 0.2 * region
    ), region


def hole(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    region = p.blob(0.08, 1.2)
    black = torch.full_like(s.albedo, 0.03)
    return replace(
        s,
        height=s.height - 0.12 * _within(region),
        albedo=_tint(s.albedo, black, region),
        gloss=s.gloss * (1 - region),
    ), region


def stain(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    region = p.blob(0.35)
    hue = (
        torch.rand(s.albedo.shape[0], 3, 1, 1, generator=p.generator)
        * torch.tensor([0.5, 0.4, 0.3])[:, None, None]
    )
    return replace(
        s, albedo=_tint(s.albedo, s.albedo * 0.4 + 0.35 * hue, region * p.uniform(0.6, 0.95))
    ), region


def paint(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    region = p.blob(0.25)
    hue = torch.rand(s.albedo.shape[0], 1, 1, 1, generator=p.generator)
    phase = torch.tensor([0.0, 1 / 3, 2 / 3])[:, None, None]
    colour = 0.5 + 0.48 * torch.cos(2 * math.pi * (hue + phase))
    return replace(
        s,
        height=s.height + 0.01 * _within(region),
        albedo=_tint(s.albedo, colour, 0.97 * region),
        gloss=s.gloss + 0.2 * region,
    ), region


def contamination(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    region = torch.zeros_like(p.x)
    for _ in range(6):
        r = torch.hypot(p.x - p.size * p.uniform(-1.3, 1.3), p.y - p.size * p.uniform(-1.3, 1.3))
        region = torch.maximum(region, p.soft(r - p.uniform(0.02, 0.06) * (1 + 0.2 * p.ragged)))
    grey = torch.where(p.uniform(0, 1) > 0.5, 0.08, 0.92)[:, None] * torch.ones_like(s.albedo)
    return replace(
        s, height=s.height + 0.03 * _within(region), albedo=_tint(s.albedo, grey, 0.95 * region)
    ), region


def chip(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """Material broken out: rough ground, duller and lighter or darker than the surface."""
    region = p.blob(0.45, 2.0)
    rough = fractal_noise(s.height.shape[0], p.size_px, 24, 3, p.generator)
    ground = (s.albedo.mean(1, keepdim=True) * p.uniform(0.45, 1.5)[:, None]).clamp(0, 0.95)
    return replace(
        s,
        height=s.height - _within(region) * (0.06 - 0.02 * rough),
        albedo=_tint(s.albedo, ground.expand_as(s.albedo), 0.85 * region),
        gloss=s.gloss * (1 - region),
    ), region


DEFECTS: dict[str, Callable[[Surface, Place], tuple[Surface, Tensor]]] = {
    "scratch": scratch,
    "crack": crack,
    "dent": dent,
    "hole": hole,
    "stain": stain,
    "paint": paint,
    "contamination": contamination,
    "chip": chip,
}
