"""Textures that fill the picture."""

from collections.abc import Callable

import torch

from dual_anodiff.procedural.surface import Canvas, Surface, sheet


def woven_cloth(c: Canvas) -> Surface:
    f = c.p(0, 16, 46)
    a, b = torch.sin(c.x * f), torch.sin(c.y * f * c.p(1, 0.7, 1.3))
    over = torch.sigmoid(6 * a * b)
    wobble = 1 + 0.15 * c.fractal(24, 2)
    height = 0.02 * (over * a.abs() + (1 - over) * b.abs()) * wobble
    return sheet(c, height, 0.5 + 0.5 * (2 * over - 1) * c.p(2, 0.2, 0.9), 0.05)


def brushed_metal(c: Canvas) -> Surface:
    fine, broad = c.grain(96, 5), c.grain(24, 3)
    height = 0.004 * c.p(0, 0.5, 1.6) * fine
    return sheet(c, height, 0.75 + 0.1 * broad * c.p(1, 0.3, 1.2) + 0.1 * fine, 0.8)


def wood(c: Canvas) -> Surface:
    warp = 0.25 * c.fractal(3, 3)
    rings = torch.sin((c.y + warp * c.p(1, 0.3, 1.0) + 0.3 * c.x) * c.p(0, 12, 38))
    pores = c.grain(90, 12)
    return sheet(c, 0.004 * rings + 0.003 * pores, 0.55 + 0.3 * rings + 0.1 * pores, 0.15)


def tile(c: Canvas) -> Surface:
    pitch = c.p(0, 0.32, 0.7)
    gap = c.p(1, 0.02, 0.05)
    fx = (torch.remainder(c.x, pitch) - pitch / 2).abs()
    fy = (torch.remainder(c.y, pitch) - pitch / 2).abs()
    joint = c.step(pitch / 2 - torch.maximum(fx, fy) - gap, 2)
    return sheet(c, -0.05 * joint + 0.004 * c.fractal(12), (1 - joint) * 0.85 + 0.08 * c.fractal(5, 3), 0.45)


def leather(c: Canvas) -> Surface:
    cells = int(18 + 14 * float(c.u[0, 0]))
    creases = c.fractal(cells, 2).abs()
    height = 0.03 * creases.clamp_max(0.9) * c.p(1, 0.5, 1.2)
    return sheet(c, height, 0.55 + 0.5 * creases.clamp_max(0.9), 0.3)


def wire_mesh(c: Canvas) -> Surface:
    pitch, wire = c.p(0, 0.18, 0.42), c.p(1, 0.025, 0.05)
    fx = (torch.remainder(c.x, pitch) - pitch / 2).abs()
    fy = (torch.remainder(c.y, pitch) - pitch / 2).abs()
    line = c.step(torch.minimum(fx, fy) - wire, 1.5)
    return sheet(c, 0.06 * line, line, 0.5)


TEXTURES: dict[str, Callable[[Canvas], Surface]] = {
    "woven cloth": woven_cloth,
    "brushed metal": brushed_metal,
    "wood": wood,
    "tile": tile,
    "leather": leather,
    "wire mesh": wire_mesh,
}

# Kinds made of threads, where a thread can be pulled.
CLOTHS: tuple[str, ...] = ("woven cloth",)
# Kinds thin and soft enough to fold.
SHEETS: tuple[str, ...] = ("woven cloth", "leather")
