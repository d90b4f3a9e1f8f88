"""Smooth random fields, the raw material of surfaces and ragged outlines."""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@lru_cache(maxsize=256)
def _enlargement(n: int, size_px: int) -> Tensor:
    """Bicubic interpolation from n to size_px values as a matrix: two products cost a quarter of F.interpolate."""
    return F.interpolate(torch.eye(n)[None, None], (size_px, n), mode="bicubic", align_corners=False)[0, 0]


def value_noise(b: int, size_px: int, cells: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Random values on a coarse grid, bicubically enlarged; about unit variance.

    Shape: (b, size_px, size_px). `cells` is the grid's (rows, columns): unequal numbers give brushed grain.
    """
    coarse = torch.randn(b, *cells, generator=generator)
    rows, columns = (_enlargement(n, size_px) for n in cells)
    return 1.3 * (rows @ coarse @ columns.T)


def fractal_noise(b: int, size_px: int, cells: int, octaves: int, generator: torch.Generator) -> Tensor:
    """Octaves of `value_noise`, each twice as fine and half as strong. Shape: (b, size_px, size_px)."""
    field = torch.zeros(b, size_px, size_px)
    for octave in range(octaves):
        n = min(cells * 2**octave, size_px)
        field += value_noise(b, size_px, (n, n), generator) / 2**octave
    return field


def jagged_line(b: int, size_px: int, generator: torch.Generator) -> Tensor:
    """A ragged curve as its height over `size_px` positions, for cracks. Shape: (b, size_px)."""
    line = torch.zeros(b, size_px)
    for n, weight in ((5, 1.0), (11, 0.5), (25, 0.25)):
        knots = torch.randn(b, 1, n, generator=generator)
        line += weight * F.interpolate(knots, size_px, mode="linear", align_corners=True)[:, 0]
    return line


def noise_at(x: Tensor, y: Tensor, cells: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Value noise in part coordinates, so that grain turns with its part; about unit variance.

    Shape: x, y (b, h, w). `cells` is the number of (rows, columns) between -1 and 1; its rim goes on.
    """
    reach = 1.6  # a square turned by 45 degrees, shifted and shrunk
    rows, columns = (math.ceil(n * reach) for n in cells)
    lattice = 1.5 * torch.randn(x.shape[0], 1, rows, columns, generator=generator)
    grid = torch.stack([x, y], dim=-1).mul_(1 / reach)
    return F.grid_sample(lattice, grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]


def cell_noise(
    x: Tensor, y: Tensor, generator: torch.Generator, jitter: float = 0.8
) -> tuple[Tensor, Tensor, Tensor]:
    """Worley noise: distances to the nearest and second nearest of jittered points, and the nearest one's number.

    Shape: x, y (b, h, w). Units: one cell of the lattice; the number is uniform in [0, 1), one for each point.
    Only the four nearest cells are searched, as nine cost several times more. So the nearest distance is exact up to
    `jitter` 0.4 and nearly so at 0.8 (0.03 % of pixels jump); the second jumps at 1.3 % of pixels at 0.8, as seams.
    """
    side = 64  # the lattice repeats after so many cells; a power of two, so that wrapping is a bit mask
    b, width = x.shape[0], side + 1
    drawn = torch.rand(b, 3, side, side, generator=generator)
    # One row and column more than the lattice, so that a neighbour lies at a fixed offset in the flat table.
    px, py, numbers = F.pad(drawn, (0, 1, 0, 1), mode="circular").flatten(2).unbind(1)
    left, top = (x - 0.5).floor(), (y - 0.5).floor()
    dx, dy = x - left, y - top
    cell = top.long().bitwise_and_(side - 1).mul_(width).add_(left.long().bitwise_and_(side - 1)).flatten(1)
    last = side * width + side - (width + 1)  # the highest index that leaves room for both offsets
    nearest, second = torch.full_like(x, 9.0), torch.full_like(x, 9.0)
    number = torch.zeros_like(x)

    def found(table: Tensor, offset: int) -> Tensor:
        return table[:, offset : offset + last + 1].gather(1, cell).view_as(x)

    for j in (0, 1):
        for i in (0, 1):
            offset = j * width + i
            # Points lie around the middles of their cells, at one half and one and a half.
            distance = found(jitter * (px - 0.5) + (i + 0.5), offset).sub_(dx).square_()
            distance.add_(found(jitter * (py - 0.5) + (j + 0.5), offset).sub_(dy).square_())
            number = torch.where(distance < nearest, found(numbers, offset), number)
            second = torch.minimum(second, torch.maximum(nearest, distance))
            nearest = torch.minimum(nearest, distance)
    return nearest.sqrt_(), second.sqrt_(), number
