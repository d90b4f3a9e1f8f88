"""Where on a part a defect goes, how large it is, and the shapes that defects are made of."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.procedural.noise import fractal_noise, jagged_line
from dual_anodiff.procedural.surface import Surface


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
    def b(self) -> int:
        return self.x.shape[0]

    @property
    def size_px(self) -> int:
        return self.x.shape[-1]

    @property
    def px(self) -> float:
        """Width of a pixel of a 128 px picture: what is thin stays as thin in a smaller picture, or nearly."""
        return 2 / 128

    def uniform(self, low: float, high: float) -> Tensor:
        """One number a picture. Shape: (b, 1, 1)."""
        return low + (high - low) * torch.rand(self.b, 1, 1, generator=self.generator)

    def chance(self, share: float) -> Tensor:
        """1 for about `share` of the pictures, 0 for the others. Shape: (b, 1, 1)."""
        return (self.uniform(0, 1) < share).float()

    def sign(self) -> Tensor:
        """-1 or 1. Shape: (b, 1, 1)."""
        return 2 * self.chance(0.5) - 1

    def soft(self, signed_distance: Tensor, width: Tensor | float = 1.0) -> Tensor:
        """1 where the distance is negative, with an edge of `width` pixels."""
        return torch.sigmoid(-signed_distance * (self.size_px / 0.8) / width)

    def blob(self, raggedness: Tensor | float, stretch: float = 1.6) -> Tensor:
        """Signed distance, about, to a ragged ellipse of about `size`."""
        aspect = self.uniform(1.0, stretch).sqrt()
        # Bounded below: a ragged field may be low just here, and the blob must not vanish.
        radius = self.size * (1 + raggedness * self.ragged).clamp_min(0.65)
        return torch.hypot(self.x / aspect, self.y * aspect) - radius

    def curve(self, at: Tensor | None = None, line: Tensor | None = None) -> Tensor:
        """`line` looked up at x, less its value at the centre: it runs through the place. Shape: (b, h, w)."""
        at, line = self.x if at is None else at, self.line if line is None else line
        n = line.shape[-1]
        index = ((at + 1) * ((n - 1) / 2)).clamp(0, n - 1).long()
        return line.gather(1, index.flatten(1)).view_as(at) - line[:, n // 2, None, None]


def place(surface: Surface, size_range: tuple[float, float], generator: torch.Generator) -> Place:
    """Draw a place on the part, away from its outline where there is room, turned along the part where it is thin."""
    b, size_px, _ = surface.inside.shape
    axis, near = _axis(size_px), _near(size_px)
    core = mean_around(surface.inside, 9)
    weight = ((core > 0.97).float() + 1e-4 * core.square().square() * surface.inside) * near + 1e-12
    at = _chosen(weight, generator)
    cx, cy = axis[at % size_px], axis[at // size_px]
    low, high = size_range
    size = low + (high - low) * torch.rand(b, 1, 1, generator=generator)
    turns = 2 * math.pi * torch.rand(b, 4, 1, generator=generator)
    along = torch.linspace(-1.5, 1.5, 13) * size
    column = ((cx[:, None, None] + turns.cos() * along + 1) / 2 * size_px).long()
    row = ((cy[:, None, None] + turns.sin() * along + 1) / 2 * size_px).long()
    seen = (column >= 0) & (column < size_px) & (row >= 0) & (row < size_px)
    index = row.clamp(0, size_px - 1) * size_px + column.clamp(0, size_px - 1)
    covered = surface.inside.flatten(1).gather(1, index.flatten(1)).view_as(index) * seen
    best = covered.mean(-1).argmax(1)
    turn = turns[torch.arange(b), best][:, :, None]
    x, y = _turned(cx, cy, turn.cos(), turn.sin(), size_px)
    ragged = rough_field(b, size_px, 5, 3, generator)
    return Place(x, y, size, ragged, jagged_line(b, 256, generator), generator)


def on_outline(s: Surface, p: Place) -> Place:
    """The same on a point of the part's outline, x pointing outwards."""
    size_px, inside = p.size_px, s.inside
    mean = mean_around(inside, 3)
    edge = (mean * (1 - mean) - 0.02).clamp_min(0) * (inside > 0.5)
    # An outline with material behind it: on a lone whisker there is no room for a bite.
    coarse = F.avg_pool2d(F.avg_pool2d(inside[:, None], 4), 3, stride=1, padding=1)
    bulk = F.interpolate(coarse, (size_px, size_px))[:, 0]
    weight = (edge * (bulk > 0.3) + 1e-4 * edge + 1e-8 * inside) * _near(size_px) + 1e-13
    at = _chosen(weight, p.generator)
    cx, cy = _axis(size_px)[at % size_px], _axis(size_px)[at // size_px]
    one = torch.ones(p.b, 1, 1)
    dx, dy = (field[:, ::2, ::2] for field in _turned(cx, cy, one, 0 * one, size_px))
    pull = inside[:, ::2, ::2] * torch.exp(-(dx.square() + dy.square()) / (2 * 0.07**2))
    ox, oy = -(pull * dx).sum((1, 2), keepdim=True), -(pull * dy).sum((1, 2), keepdim=True)
    norm = (ox.square() + oy.square()).sqrt().clamp_min(1e-6)
    x, y = _turned(cx, cy, ox / norm, oy / norm, size_px)
    return replace(p, x=x, y=y)


def at_end(s: Surface, p: Place, length: Tensor, choices: int) -> Place:
    """The same on a line across the part, x pointing to the part's end, which is `length` away.

    Of so many random directions as `choices` says, that in which the part reaches farthest is taken.
    """
    size_px = p.size_px
    inside = F.avg_pool2d(s.inside[:, None], 4)[:, 0]
    axis = _axis(inside.shape[-1])
    gy, gx = torch.meshgrid(axis, axis, indexing="ij")
    on = inside.flatten(1) > 0.5
    turns = 2 * math.pi * torch.rand(p.b, choices, 1, generator=p.generator)
    reach = gx.flatten() * turns.cos() + gy.flatten() * turns.sin()
    ends = reach.masked_fill(~on[:, None], -1.0).amax(2)
    best = ends.argmax(1)
    turn = turns[torch.arange(p.b), best][:, :, None]
    hinge = ends.gather(1, best[:, None])[:, :, None] + 4 / size_px - length
    x, y = _turned(torch.zeros(p.b), torch.zeros(p.b), turn.cos(), turn.sin(), size_px)
    x = x - hinge
    cap = s.inside * (x > 0)
    middle = (y * cap).sum((1, 2), keepdim=True) / cap.sum((1, 2), keepdim=True).clamp_min(1)
    return replace(p, x=x, y=y - middle)


def across(p: Place, dx: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """A field of vectors in the place's own coordinates, in the picture's. Shape: (b, h, w) each."""
    cos = (p.x[:, :1, -1:] - p.x[:, :1, :1]) / (2 - 2 / p.size_px)
    sin = (p.x[:, -1:, :1] - p.x[:, :1, :1]) / (2 - 2 / p.size_px)
    return dx * cos - dy * sin, dx * sin + dy * cos


def nearby(s: Surface, p: Place) -> Tensor:
    """The mean albedo of the part around the place. Shape: (b, 3, 1, 1)."""
    weight = s.inside[:, ::4, ::4] * torch.exp(
        -(p.x[:, ::4, ::4].square() + p.y[:, ::4, ::4].square()) / (0.5 * p.size.square())
    )
    weight = (weight + 1e-6)[:, None]
    return (s.albedo[..., ::4, ::4] * weight).sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True)


def contrasting(around: Tensor, p: Place, low: float = 0.2, high: float = 0.55) -> Tensor:
    """1 where a lighter mark shows on `around`, 0 where a darker one; either in between. Shape: (b, 1, 1, 1)."""
    luminance = around.mean(1, keepdim=True)
    return (luminance < p.uniform(low, high)[:, None]).float()


def tint(albedo: Tensor, colour: Tensor, alpha: Tensor) -> Tensor:
    return torch.lerp(albedo, colour.expand_as(albedo), alpha[:, None])


def within(region: Tensor) -> Tensor:
    """The region's inner half: relief that starts at the mask's own edge, so that no rim is lit outside the mask."""
    return (2 * region - 1).clamp_min(0)


def mean_around(field: Tensor, width: int) -> Tensor:
    """The mean over a window `width` pixels (odd) wide. Shape: (b, h, w), kept."""
    rows = F.avg_pool2d(field[:, None], (width, 1), 1, (width // 2, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, width), 1, (0, width // 2), count_include_pad=False)[:, 0]


def rough_field(b: int, size_px: int, cells: int, octaves: int, generator: torch.Generator) -> Tensor:
    """Fractal noise made small and enlarged: a third of the cost, and as good for what is ragged."""
    small = fractal_noise(b, min(size_px, cells * 2**octaves), cells, octaves, generator)
    return F.interpolate(small[:, None], (size_px, size_px), mode="bilinear", align_corners=False)[:, 0]


def moved(fields: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Fields pulled along by (dx, dy), as `surface.warp` does, but cheaper and softer. Shape: fields (b, c, h, w)."""
    axis = _axis(fields.shape[-1])
    grid = torch.stack([axis - dx, axis[:, None] - dy], dim=-1)
    return F.grid_sample(fields, grid, padding_mode="border", align_corners=False)


def _chosen(weight: Tensor, generator: torch.Generator) -> Tensor:
    """One pixel's number a picture, drawn by weight. Shape: weight (b, h, w); (b,)."""
    total = weight.flatten(1).double().cumsum(1)
    at = torch.rand(weight.shape[0], 1, generator=generator).double() * total[:, -1:]
    return torch.searchsorted(total, at, right=True)[:, 0].clamp_max(total.shape[1] - 1)


def _axis(size_px: int) -> Tensor:
    return (torch.arange(size_px) + 0.5) / size_px * 2 - 1


def _near(size_px: int) -> Tensor:
    """1 away from the picture's border."""
    near = (_axis(size_px).abs() < 0.85).float()
    return near[:, None] * near


def _turned(cx: Tensor, cy: Tensor, cos: Tensor, sin: Tensor, size_px: int) -> tuple[Tensor, Tensor]:
    axis = _axis(size_px)
    dx, dy = (axis - cx[:, None])[:, None, :], (axis - cy[:, None])[:, :, None]
    return dx * cos + dy * sin, dy * cos - dx * sin
