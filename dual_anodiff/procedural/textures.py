"""Textures that fill the picture: all of them, and those that are neither cloth nor metal."""

from collections.abc import Callable

import torch
from torch import Tensor

from dual_anodiff.procedural.fabrics import SOFT
from dual_anodiff.procedural.metals import METALS
from dual_anodiff.procedural.noise import cell_noise, noise_at
from dual_anodiff.procedural.surface import Canvas, Surface, blend, covered, palette

_WOODS = (
    (0.26, 0.16, 0.1),
    (0.42, 0.26, 0.15),
    (0.56, 0.36, 0.2),
    (0.68, 0.49, 0.3),
    (0.8, 0.66, 0.46),
)


def wood(c: Canvas) -> Surface:
    """A planed board: growth rings cut lengthwise, darkening towards latewood; pores; now and then a knot."""
    knot_x, knot_y, chance = torch.rand(3, c.x.shape[0], 1, 1, generator=c.generator)
    dx, dy = c.x - (1.4 * knot_x - 0.7), c.y - (1.4 * knot_y - 0.7)
    near = (0.35 * dx.square() + dy.square()) / 0.02
    knot = (chance < 0.3) / (1 + near)
    arch = c.p(1, 0.05, 0.5)
    drift = c.fractal(2, 1)
    ring = (c.y + arch * (c.x * (1.2 * c.x + 0.6) + 0.3 * drift)) * c.p(0, 3, 11)
    # Rings part before a knot and close behind it.
    ring = ring + 1.6 * knot * dy.sign() + 0.22 * c.fractal(3, 2)
    late = ring - ring.floor()
    late = late.square() * (1 - late.clamp_min(0.9) * 10 + 9)
    pores = (noise_at(c.x, c.y, (75, 8), c.generator) - 1.0).clamp_min(0)
    fibre = noise_at(c.x, c.y, (60, 3), c.generator)
    board = palette(c.colour, _WOODS, 0.06)
    core = (2.2 * knot - 1.2).clamp(0, 1)
    shade = (1 - 0.35 * late + 0.04 * fibre - 0.22 * pores) * (1 - 0.6 * core)
    tan = torch.tensor([1.0, 0.93, 0.84])
    albedo = blend(board, board * tan, late) * shade[:, None]
    return covered(c, 0.001 * late - 0.005 * pores + 0.001 * fibre, albedo, 0.2)


def tile(c: Canvas) -> Surface:
    """Glazed tiles with straight joints, in a square or running bond, each of its own shade."""
    b = c.x.shape[0]
    pitch, gap = c.p(0, 0.3, 0.7), c.p(1, 0.014, 0.04)
    row = (c.y / pitch).floor()
    bond = 0.5 * (c.p(2, 0, 1) > 0.6) * torch.remainder(row, 2)
    x = c.x / pitch + bond
    column = x.floor()
    fx, fy = (x - column - 0.5) * pitch, c.y - (row + 0.5) * pitch
    edge = pitch / 2 - torch.maximum(fx.abs(), fy.abs()) - gap / 2
    joint = c.step(edge, 1.5)
    bevel = (1 - edge / 0.035).clamp(0, 1).square()
    number = (row.long() & 15) * 16 + (column.long() & 15)
    shades = torch.randn(b, 256, generator=c.generator).gather(1, number.flatten(1)).view_as(x)
    glaze = c.fractal(6, 3)
    speck = (noise_at(c.x, c.y, (56, 56), c.generator) - 1.6).clamp_min(0) * c.p(4, -0.4, 0.5).clamp_min(0)
    sand = c.fractal(60, 1)
    fired = 0.25 + 0.65 * c.colour + 0.1 * c.colour.mean(1, keepdim=True)
    fired = fired[:, :, None, None] * (1 + 0.05 * shades + 0.025 * glaze - speck)[:, None]
    grout = 0.25 + 0.4 * c.accent.mean(1, keepdim=True).expand(-1, 3)
    grout = grout[:, :, None, None] * (1 + 0.1 * sand)[:, None]
    height = -0.03 * joint - 0.012 * bevel + 0.002 * glaze
    return covered(c, height, blend(fired, grout, joint), 0.6 * (1 - joint))


def granite(c: Canvas) -> Surface:
    """Polished chips of three stones; with wide seams between them it is terrazzo."""
    count = c.p(0, 22, 7)
    x, y = c.x * count + 0.15 * c.fractal(24, 1), c.y * count + 0.15 * c.fractal(24, 1)
    nearest, second, number = cell_noise(x, y, c.generator)
    seam = 1 - ((second - nearest - c.p(1, 0.0, 0.3)) * 5).clamp(0, 1)
    grey = c.colour.mean(1, keepdim=True)
    stone = 0.55 * c.colour + 0.45 * grey
    dark, pale = 0.3 * stone, 0.5 + 0.5 * c.accent.mean(1, keepdim=True).expand(-1, 3)
    albedo = blend(stone, dark, (number < c.p(2, 0.1, 0.35)).float())
    albedo = blend(albedo, pale[:, :, None, None], (number > c.p(3, 0.6, 0.85)).float())
    cement = 0.35 * pale + 0.45 * stone
    crystal = c.fractal(48, 2)
    albedo = blend(albedo, cement[:, :, None, None], seam) * (1 + 0.09 * crystal)[:, None]
    return covered(c, -0.004 * seam + 0.0008 * crystal, albedo, 0.65)


_RESINS = ((0.06, 0.06, 0.065), (0.12, 0.12, 0.13), (0.3, 0.3, 0.31), (0.5, 0.5, 0.48), (0.8, 0.79, 0.74))


def moulded_plastic(c: Canvas) -> Surface:
    """An etched mould's grain: small flat islands between worm-like valleys."""
    scale = c.p(0, 1.0, 0.4)
    field = noise_at(c.x * scale, c.y * scale, (46, 46), c.generator)
    fine = c.fractal(64, 1)
    island = torch.sigmoid(3.0 * field)
    depth = c.p(1, 0.008, 0.026)
    resin = palette(c.colour, _RESINS, 0.2)
    shade = 0.92 + 0.1 * island + 0.02 * fine + 0.03 * c.fractal(2, 1)
    return covered(c, depth * island + 0.001 * fine, resin[:, :, None, None] * shade[:, None], 0.5)


_MASKS = ((0.03, 0.22, 0.1), (0.02, 0.3, 0.17), (0.02, 0.16, 0.38), (0.05, 0.06, 0.07), (0.38, 0.05, 0.06))


def printed_board(c: Canvas) -> Surface:
    """Solder mask over traces that end in vias; chips with soldered legs; white print. The layout follows u[2:]."""
    pick = torch.remainder(c.u[:, 2] * 17, 1) * len(_MASKS)
    mask = torch.tensor(_MASKS)[pick.long().clamp_max(len(_MASKS) - 1)]
    mask = 0.92 * mask + 0.08 * c.colour

    def place(i: int) -> Tensor:
        """A number in [0, 1) that is the same in all pictures of a category."""
        mixed = c.u[:, 2:] * torch.tensor([3.1, 5.7, 7.3, 11.9])
        return torch.remainder(mixed.sum(1) + 0.618034 * i + 0.37 * mixed[:, i % 4], 1)[:, None, None]

    pitch = c.p(0, 0.11, 0.24)
    # All traces jog at 45 degrees where they pass one column; none ends there.
    jog = 0.8 * (place(0) - 0.5)
    y = c.y + (c.x - jog).clamp(-0.2, 0.2)

    def clear_of_jog(x: Tensor) -> Tensor:
        side = torch.where(x < jog, -1.0, 1.0)
        return torch.where((x - jog).abs() < 0.3, jog + 0.3 * side, x)

    line = (y / pitch).floor()
    fy = (y - (line + 0.5) * pitch).abs()
    index = (line.long() & 31).flatten(1)
    ends = torch.cat([place(20 + i)[:, :, 0] for i in range(32)], 1)
    start = ends.gather(1, index).view_as(y) * 2.2 - 1.7
    start, stop = clear_of_jog(start), clear_of_jog(start + 1.1)
    along = torch.maximum(start - c.x, c.x - stop).clamp_min(0)
    reach = (fy.square() + along.square()).sqrt()
    trace = c.step(reach - 0.16 * pitch)
    at_end = torch.minimum((c.x - start).abs(), (c.x - stop).abs())
    via = (fy.square() + at_end.square()).sqrt()
    ring, drill = c.step(via - 0.34 * pitch), c.step(via - 0.15 * pitch)

    nearest, pads, frame = (torch.full_like(y, 9.0) for _ in range(3))
    sites = (
        (0.0, 0.0, 0.2, 0.2),
        (0.0, -0.62, 0.1, 0.055),
        (0.62, 0.1, 0.055, 0.1),
        (-0.55, 0.55, 0.14, 0.1),
    )
    for i, (x0, y0, half_x, half_y) in enumerate(sites):
        size = c.p(1, 0.8, 1.4) * (0.8 + 0.4 * place(40 + i))
        ex = (c.x - (x0 + 0.35 * (place(50 + 2 * i) - 0.5))).abs() - half_x * size
        ey = (c.y - (y0 + 0.35 * (place(51 + 2 * i) - 0.5))).abs() - half_y * size
        chip = torch.maximum(ex, ey)
        pad = torch.maximum(ex - 0.06, ey) if half_x >= half_y else torch.maximum(ey - 0.06, ex)
        if half_x > 0.13:
            # A row of legs, and a printed frame; the small parts have one pad at either end.
            pad = torch.maximum(pad, (torch.remainder(c.y, 0.055) - 0.0275).abs() - 0.015)
            frame = torch.minimum(frame, (chip - 0.085).abs() - 0.006)
        nearest, pads = torch.minimum(nearest, chip), torch.minimum(pads, pad)
    body, free = c.step(nearest), 1 - c.step(nearest - 0.1)
    trace, drill = trace * free, drill * free
    solder = torch.maximum(ring * free - drill, c.step(pads) * (1 - body)).clamp_min(0)
    # Neighbours' frames do not cross a part.
    print_ = c.step(torch.maximum(frame, 0.07 - nearest))
    weave = c.fractal(60, 1)
    albedo = blend(mask, 1.35 * mask + torch.tensor([0.04, 0.07, 0.03]), trace)
    white, tin = (torch.full_like(mask, shade) for shade in (0.9, 0.71))
    albedo = (
        blend(blend(albedo, white, 0.75 * print_), tin, solder) * (1 + 0.03 * weave - 0.9 * drill)[:, None]
    )
    albedo = blend(albedo, 0.08 + 0.08 * c.accent, body)
    height = 0.008 * trace + 0.014 * solder + 0.06 * body + 0.001 * weave
    return covered(c, height, albedo, 0.45 + 0.4 * solder - 0.3 * body)


TEXTURES: dict[str, Callable[[Canvas], Surface]] = {
    **SOFT,
    **METALS,
    "wood": wood,
    "tile": tile,
    "granite": granite,
    "moulded plastic": moulded_plastic,
    "printed board": printed_board,
}

# Kinds made of threads, where a thread can be pulled.
CLOTHS: tuple[str, ...] = ("woven cloth", "knitted cloth", "carpet")
# Kinds thin and soft enough to fold.
SHEETS: tuple[str, ...] = ("woven cloth", "knitted cloth", "leather", "cardboard")
