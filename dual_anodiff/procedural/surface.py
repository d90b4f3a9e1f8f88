"""What every kind is made of: a surface (height, albedo, outline, gloss), and the canvas that it is drawn on."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.procedural.noise import fractal_noise, value_noise


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


def box(x: Tensor, y: Tensor, half_x: Tensor, half_y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to a rounded box."""
    qx, qy = x.abs() - half_x + radius, y.abs() - half_y + radius
    outside = (qx.clamp_min(0).square() + qy.clamp_min(0).square() + 1e-9).sqrt()
    return outside + torch.maximum(qx, qy).clamp_max(0) - radius


def hexagon(x: Tensor, y: Tensor, apothem: Tensor) -> Tensor:
    """Signed distance to a hexagon with two of its sides along x; beyond its corners a lower bound."""
    ax, ay = x.abs(), y.abs()
    return torch.maximum(ax * 0.8660254 + ay * 0.5, ay) - apothem


def segment(x: Tensor, y: Tensor, end_x: Tensor, end_y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to a round-ended bar from (-end_x, -end_y) to (end_x, end_y)."""
    along = (x * end_x + y * end_y) / (end_x.square() + end_y.square() + 1e-9)
    along = along.clamp(-1, 1)
    return torch.hypot(x - along * end_x, y - along * end_y) - radius


def fillet(a: Tensor, b: Tensor, width: float) -> Tensor:
    """Union of two signed distances, their inner corner filled over `width`."""
    near = (width - (a - b).abs()).clamp_min(0) / width
    return torch.minimum(a, b) - near.square() * (width / 4)


def solid(
    c: Canvas, distance: Tensor, bevel: Tensor | float, gloss: float, relief: Tensor | None = None
) -> Surface:
    """A part of one colour, bevelled at its outline, lightly grained."""
    height = 0.12 * torch.tanh((-distance).clamp_min(0) / bevel)
    grain = 0.03 * c.fractal(16, 2)
    albedo = c.colour[:, :, None, None] * (1 + grain)[:, None]
    relief = torch.zeros_like(height) if relief is None else relief
    return Surface(height + relief, albedo, c.step(distance), torch.full_like(height, gloss))


def sheet(c: Canvas, height: Tensor, shade: Tensor, gloss: float) -> Surface:
    """A texture that fills the picture: `shade` mixes accent (0) and colour (1)."""
    mix = shade.clamp(0, 1)[:, None]
    albedo = c.colour[:, :, None, None] * mix + c.accent[:, :, None, None] * (1 - mix)
    return Surface(height, albedo, torch.ones_like(height), torch.full_like(height, gloss))


def warp(surface: Surface, dx: Tensor, dy: Tensor) -> Surface:
    """The surface pulled along: what is at (x, y) afterwards was at (x - dx, y - dy) before.

    Shape: dx, dy (b, h, w). Units: half picture widths. Beyond the border the surface goes on as at the border.
    """
    size_px = surface.height.shape[-1]
    axis = (torch.arange(size_px) + 0.5) / size_px * 2 - 1
    gy, gx = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([gx - dx, gy - dy], dim=-1)
    fields = torch.cat(
        [surface.height[:, None], surface.albedo, surface.inside[:, None], surface.gloss[:, None]], 1
    )
    moved = F.grid_sample(fields, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return Surface(moved[:, 0], moved[:, 1:4].clamp(0, 1), moved[:, 4].clamp(0, 1), moved[:, 5].clamp(0, 1))


def palette(colour: Tensor, stops: tuple[tuple[float, float, float], ...], own: float = 0.1) -> Tensor:
    """A believable colour for a material: `stops` from dark to light, mixed by the brightness of `colour`.

    Shape: colour (b, 3). `own` is the share of `colour` itself that stays.
    """
    at = ((colour.amax(1) - 0.25) / 0.6).clamp(0, 0.999) * (len(stops) - 1)
    table = torch.tensor(stops)
    low = at.long()
    part = (at - low)[:, None]
    return (1 - own) * (table[low] * (1 - part) + table[low + 1] * part) + own * colour


def blend(below: Tensor, above: Tensor, alpha: Tensor) -> Tensor:
    """Colour laid over colour. Shape: below, above (b, 3) or (b, 3, h, w); alpha (b, h, w)."""
    below, above = (t[:, :, None, None] if t.ndim == 2 else t for t in (below, above))
    return below + (above - below) * alpha[:, None]


def covered(c: Canvas, height: Tensor, albedo: Tensor, gloss: Tensor | float) -> Surface:
    """A surface that fills the picture, in colours of its own."""
    gloss = gloss if isinstance(gloss, Tensor) else torch.full_like(height, gloss)
    return Surface(height, albedo.clamp(0, 1), torch.ones_like(c.x), gloss)
