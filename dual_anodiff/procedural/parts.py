"""Parts and textures as surfaces: a height field, an albedo and an outline, ready to be damaged and lit.

Every kind is a function of part coordinates and a vector u of shape parameters in [0, 1], so that a category is a
kind with a fixed u. Pretraining draws u[0] and u[1] from [0, 0.7], the demo from [0.8, 1]: the two never meet.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dual_anodiff.procedural.noise import fractal_noise, value_noise

NUM_PARAMETERS = 6
PRETRAIN_RANGE = (0.0, 0.7)
DEMO_RANGE = (0.8, 1.0)


@dataclass(frozen=True)
class Surface:
    """What light falls on.

    Shape: height, inside, gloss (b, h, w); albedo (b, 3, h, w). Units: coordinates run from -1 to 1 across the
    picture, height in the same units, albedo in [0, 1]; inside is 1 on the part, 0 on the table, soft at the outline.
    """

    height: Tensor
    albedo: Tensor
    inside: Tensor
    gloss: Tensor


@dataclass(frozen=True)
class Canvas:
    """Part coordinates, colours and randomness handed to a kind. Shape: x, y (b, h, w); u (b, 6); colours (b, 3)."""

    x: Tensor
    y: Tensor
    u: Tensor
    colour: Tensor
    accent: Tensor
    generator: torch.Generator

    @property
    def size_px(self) -> int:
        return self.x.shape[-1]

    def p(self, i: int, low: float, high: float) -> Tensor:
        """Shape parameter i, mapped to [low, high]. Shape: (b, 1, 1)."""
        return (low + (high - low) * self.u[:, i])[:, None, None]

    def step(self, signed_distance: Tensor, width: float = 1.0) -> Tensor:
        """1 where the distance is negative, with an edge of `width` pixels."""
        return torch.sigmoid(-signed_distance * self.size_px / (0.8 * width))

    def fractal(self, cells: int, octaves: int = 4) -> Tensor:
        return fractal_noise(self.x.shape[0], self.size_px, cells, octaves, self.generator)

    def grain(self, rows: int, columns: int) -> Tensor:
        return value_noise(self.x.shape[0], self.size_px, (rows, columns), self.generator)


def _box(x: Tensor, y: Tensor, half_x: Tensor, half_y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to a rounded box."""
    qx, qy = x.abs() - half_x + radius, y.abs() - half_y + radius
    outside = (qx.clamp_min(0).square() + qy.clamp_min(0).square() + 1e-9).sqrt()
    return outside + torch.maximum(qx, qy).clamp_max(0) - radius


def _solid(
    c: Canvas, distance: Tensor, bevel: Tensor | float, gloss: float, relief: Tensor | None = None
) -> Surface:
    """A part of one colour, bevelled at its outline, lightly grained."""
    height = 0.12 * torch.tanh((-distance).clamp_min(0) / bevel)
    grain = 0.03 * c.fractal(16, 2)
    albedo = c.colour[:, :, None, None] * (1 + grain)[:, None]
    relief = torch.zeros_like(height) if relief is None else relief
    return Surface(height + relief, albedo, c.step(distance), torch.full_like(height, gloss))


def washer(c: Canvas) -> Surface:
    r, outer = torch.hypot(c.x, c.y), c.p(0, 0.55, 0.85)
    inner = outer * c.p(1, 0.3, 0.7)
    return _solid(c, torch.maximum(r - outer, inner - r), c.p(2, 0.04, 0.2), 0.5)


def nut(c: Canvas) -> Surface:
    size, hole = c.p(0, 0.5, 0.78), c.p(1, 0.35, 0.68)
    angle = torch.atan2(c.y, c.x)
    sector = torch.remainder(angle, math.pi / 3) - math.pi / 6
    r = torch.hypot(c.x, c.y)
    thread = 0.015 * torch.sin(r * c.p(2, 60, 110)) * c.step(r - size * hole * 1.25, 4)
    return _solid(c, torch.maximum(r * sector.cos() - size, size * hole - r), c.p(3, 0.05, 0.2), 0.6, thread)


def gear(c: Canvas) -> Surface:
    teeth = (8 + (c.u[:, 1] * 16).round())[:, None, None]
    r, angle = torch.hypot(c.x, c.y), torch.atan2(c.y, c.x)
    tooth = torch.tanh(4 * torch.cos(teeth * angle)) * c.p(2, 0.03, 0.08)
    distance = torch.maximum(r - c.p(0, 0.55, 0.8) - tooth, c.p(3, 0.12, 0.3) - r)
    groove = -0.04 * c.step((r - c.p(4, 0.38, 0.48)).abs() - 0.03, 2)
    return _solid(c, distance, 0.05, 0.4, groove)


def pill(c: Canvas) -> Surface:
    long, wide = c.p(0, 0.5, 0.85), c.p(1, 0.25, 0.5)
    distance = _box(c.x, c.y, long, wide, wide)
    half = c.step(c.x * torch.where(c.u[:, 2] > 0.5, 1.0, 0.0)[:, None, None] - 1e-3, 1.5)
    two_tone = c.colour[:, :, None, None] * half[:, None] + c.accent[:, :, None, None] * (1 - half[:, None])
    solid = _solid(c, distance, wide * 0.8, 0.7)
    return Surface(solid.height * 2.2, two_tone * torch.ones_like(solid.albedo), solid.inside, solid.gloss)


def plate(c: Canvas) -> Surface:
    half_x, half_y = c.p(0, 0.55, 0.85), c.p(1, 0.4, 0.8)
    outline = _box(c.x, c.y, half_x, half_y, c.p(2, 0.02, 0.2))
    holes = torch.hypot(c.x.abs() - half_x * 0.68, c.y.abs() - half_y * 0.62) - c.p(3, 0.06, 0.14)
    return _solid(c, torch.maximum(outline, -holes), 0.03, 0.35)


def screw_head(c: Canvas) -> Surface:
    r, radius = torch.hypot(c.x, c.y), c.p(0, 0.5, 0.8)
    slot = c.p(1, 0.05, 0.13)
    arm = torch.minimum(
        _box(c.x, c.y, radius * 0.6, slot, slot * 0.2), _box(c.x, c.y, slot, radius * 0.6, slot * 0.2)
    )
    dome = 0.25 * (1 - (r / radius).square()).clamp_min(0).sqrt()
    return _solid(c, r - radius, 0.06, 0.6, dome - 0.15 * c.step(arm, 2))


def bottle_rim(c: Canvas) -> Surface:
    r, outer = torch.hypot(c.x, c.y), c.p(0, 0.7, 0.92)
    mouth = outer * c.p(1, 0.4, 0.65)
    rings = 0.05 * torch.sin(r * c.p(2, 18, 34))
    dark = c.step(r - mouth, 3)
    solid = _solid(c, r - outer, 0.1, 0.9, rings * (1 - dark))
    albedo = solid.albedo * (1 - 0.85 * dark)[:, None]
    return Surface(solid.height, albedo, solid.inside, solid.gloss * (1 - dark))


def threaded_rod(c: Canvas) -> Surface:
    wide = c.p(0, 0.16, 0.34)
    distance = _box(c.x, c.y, c.p(1, 0.65, 0.92), wide, 0.06 * torch.ones_like(wide))
    cylinder = (1 - (c.y / (wide * 1.05)).square()).clamp_min(0).sqrt() * wide
    thread = 0.02 * torch.sin(c.x * c.p(2, 45, 80) + 2 * c.y)
    return _solid(c, distance, 0.04, 0.6, cylinder + thread)


def _sheet(c: Canvas, height: Tensor, shade: Tensor, gloss: float) -> Surface:
    """A texture that fills the picture: `shade` mixes accent (0) and colour (1)."""
    mix = shade.clamp(0, 1)[:, None]
    albedo = c.colour[:, :, None, None] * mix + c.accent[:, :, None, None] * (1 - mix)
    return Surface(height, albedo, torch.ones_like(height), torch.full_like(height, gloss))


def woven_cloth(c: Canvas) -> Surface:
    f = c.p(0, 16, 46)
    a, b = torch.sin(c.x * f), torch.sin(c.y * f * c.p(1, 0.7, 1.3))
    over = torch.sigmoid(6 * a * b)
    wobble = 1 + 0.15 * c.fractal(24, 2)
    height = 0.02 * (over * a.abs() + (1 - over) * b.abs()) * wobble
    return _sheet(c, height, 0.5 + 0.5 * (2 * over - 1) * c.p(2, 0.2, 0.9), 0.05)


def brushed_metal(c: Canvas) -> Surface:
    fine, broad = c.grain(96, 5), c.grain(24, 3)
    height = 0.004 * c.p(0, 0.5, 1.6) * fine
    return _sheet(c, height, 0.75 + 0.1 * broad * c.p(1, 0.3, 1.2) + 0.1 * fine, 0.8)


def wood(c: Canvas) -> Surface:
    warp = 0.25 * c.fractal(3, 3)
    rings = torch.sin((c.y + warp * c.p(1, 0.3, 1.0) + 0.3 * c.x) * c.p(0, 12, 38))
    pores = c.grain(90, 12)
    return _sheet(c, 0.004 * rings + 0.003 * pores, 0.55 + 0.3 * rings + 0.1 * pores, 0.15)


def tile(c: Canvas) -> Surface:
    pitch = c.p(0, 0.32, 0.7)
    gap = c.p(1, 0.02, 0.05)
    fx = (torch.remainder(c.x, pitch) - pitch / 2).abs()
    fy = (torch.remainder(c.y, pitch) - pitch / 2).abs()
    joint = c.step(pitch / 2 - torch.maximum(fx, fy) - gap, 2)
    return _sheet(c, -0.05 * joint + 0.004 * c.fractal(12), (1 - joint) * 0.85 + 0.08 * c.fractal(5, 3), 0.45)


def leather(c: Canvas) -> Surface:
    cells = int(18 + 14 * float(c.u[0, 0]))
    creases = c.fractal(cells, 2).abs()
    height = 0.03 * creases.clamp_max(0.9) * c.p(1, 0.5, 1.2)
    return _sheet(c, height, 0.55 + 0.5 * creases.clamp_max(0.9), 0.3)


def wire_mesh(c: Canvas) -> Surface:
    pitch, wire = c.p(0, 0.18, 0.42), c.p(1, 0.025, 0.05)
    fx = (torch.remainder(c.x, pitch) - pitch / 2).abs()
    fy = (torch.remainder(c.y, pitch) - pitch / 2).abs()
    line = c.step(torch.minimum(fx, fy) - wire, 1.5)
    return _sheet(c, 0.06 * line, line, 0.5)


KINDS: dict[str, Callable[[Canvas], Surface]] = {
    "washer": washer,
    "nut": nut,
    "gear": gear,
    "pill": pill,
    "plate": plate,
    "screw head": screw_head,
    "bottle rim": bottle_rim,
    "threaded rod": threaded_rod,
    "woven cloth": woven_cloth,
    "brushed metal": brushed_metal,
    "wood": wood,
    "tile": tile,
    "leather": leather,
    "wire mesh": wire_mesh,
}
TEXTURES = ("woven cloth", "brushed metal", "wood", "tile", "leather", "wire mesh")
