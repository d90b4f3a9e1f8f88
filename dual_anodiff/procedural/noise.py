"""Smooth random fields, the raw material of surfaces and ragged outlines."""

import torch
import torch.nn.functional as F
from torch import Tensor


def value_noise(b: int, size_px: int, cells: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Random values on a coarse grid, bicubically enlarged; about unit variance.

    Shape: (b, size_px, size_px). `cells` is the grid's (rows, columns): unequal numbers give brushed grain.
    """
    coarse = torch.randn(b, 1, *cells, generator=generator)
    fine = F.interpolate(coarse, (size_px, size_px), mode="bicubic", align_corners=False)
    return (fine * 1.3)[:, 0]


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
