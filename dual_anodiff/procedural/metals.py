"""Metal and ceramic textures that fill the picture: brushed, ground, cast, punched, woven of wire."""

import torch
from torch import Tensor

from dual_anodiff.procedural.noise import noise_at
from dual_anodiff.procedural.surface import Canvas, Surface, blend, covered, palette

_BRIGHT = ((0.4, 0.41, 0.43), (0.56, 0.56, 0.56), (0.66, 0.67, 0.69), (0.7, 0.62, 0.46), (0.78, 0.78, 0.76))
_DULL = ((0.26, 0.25, 0.25), (0.36, 0.37, 0.39), (0.47, 0.46, 0.44), (0.56, 0.57, 0.58))
_CAST = ((0.16, 0.16, 0.17), (0.27, 0.27, 0.27), (0.36, 0.35, 0.33), (0.52, 0.51, 0.49), (0.64, 0.63, 0.6))
_FERRITE = ((0.13, 0.13, 0.13), (0.24, 0.24, 0.24), (0.36, 0.36, 0.36), (0.5, 0.5, 0.5))


def brushed_metal(c: Canvas) -> Surface:
    """Long parallel strokes of a brush, in bands of light and dark."""
    width = c.p(0, 1.0, 0.4)
    fine = noise_at(c.x, c.y * width, (110, 2), c.generator)
    short = noise_at(c.x, c.y * width, (110, 9), c.generator)
    broad = noise_at(c.x, c.y * width, (16, 1), c.generator)
    stroke = 0.6 * fine + 0.5 * short
    contrast = c.p(1, 0.5, 1.6)
    metal = palette(c.colour, _BRIGHT, 0.06)
    shade = 1 + contrast * (0.07 * stroke + 0.05 * broad)
    return covered(c, 0.0022 * contrast * stroke, metal[:, :, None, None] * shade[:, None], 0.75)


def ground_metal(c: Canvas) -> Surface:
    """Grinding scratches of many lengths, slightly crossed, below a blotched patina."""
    lean = 0.14 * c.p(3, -1, 1)
    scale = c.p(0, 1.0, 0.45)
    long = noise_at(c.x, c.y * scale, (90, 4), c.generator)
    dashes = noise_at(c.x * scale, (c.y + lean * c.x) * scale, (100, 13), c.generator)
    deep = (dashes - 1.2).clamp_min(0)
    light = (-dashes - 1.2).clamp_min(0)
    patina = (c.fractal(3, 4) * 0.7 + 0.2 * long).clamp(-1, 1)
    metal = palette(c.colour, _DULL, 0.08)
    rust = metal * torch.tensor([0.88, 0.74, 0.6])
    albedo = blend(metal, rust, c.p(1, 0.1, 1.0) * (0.5 + 0.5 * patina))
    shade = 1 + 0.07 * long - 0.17 * deep + 0.22 * light + 0.08 * patina
    height = 0.0022 * long - 0.005 * deep
    return covered(c, height, albedo * shade[:, None], 0.45 - 0.2 * patina)


def cast_iron(c: Canvas) -> Surface:
    """Rough sand-cast skin, or concrete where it is light: grains, and pores of all sizes."""
    scale = c.p(0, 1.0, 0.4)
    x, y = c.x * scale, c.y * scale
    grain = noise_at(x, y, (56, 56), c.generator)
    lumps = noise_at(x, y, (20, 20), c.generator)
    share = c.p(1, 2.4, 1.5)
    pore = (noise_at(x + 0.3 * lumps / 56, y, (26, 26), c.generator) - share).clamp(0, 0.5) * 2
    cloud = c.fractal(3, 3)
    skin = palette(c.colour, _CAST, 0.05)
    shade = (1 + 0.08 * grain + 0.05 * lumps + 0.06 * cloud) * (1 - 0.6 * pore)
    height = 0.009 * grain + 0.007 * lumps - 0.04 * pore
    return covered(c, height, skin[:, :, None, None] * shade[:, None], 0.25)


def perforated_sheet(c: Canvas) -> Surface:
    """Round holes punched in square or staggered rows; each has a rolled rim."""
    pitch = c.p(0, 0.15, 0.4)
    staggered = (c.p(2, 0, 1) > 0.4).float()
    rise = pitch * (1 - 0.134 * staggered)
    row = (c.y / rise).floor()
    x = c.x / pitch + 0.5 * staggered * torch.remainder(row, 2)
    fx, fy = (x - x.floor() - 0.5) * pitch, c.y - (row + 0.5) * rise
    distance = (fx.square() + fy.square()).sqrt() - pitch * c.p(1, 0.2, 0.38)
    hole = c.step(distance)
    rim = (1 - distance.abs() / (0.12 * pitch)).clamp_min(0)
    roll = noise_at(c.x, c.y, (60, 5), c.generator)
    painted = c.p(3, 0, 1)[:, 0] > 0.65
    metal = torch.where(painted, 0.3 + 0.6 * c.colour, palette(c.colour, _BRIGHT, 0.05))
    plate = metal[:, :, None, None] * (1 + 0.04 * roll + 0.04 * c.fractal(3, 2))[:, None]
    behind = 0.12 * c.accent
    height = -0.1 * hole - 0.012 * rim * (1 - hole) + 0.001 * roll
    return covered(c, height, blend(plate, behind[:, :, None, None], hole), 0.55 * (1 - hole))


def wire_mesh(c: Canvas) -> Surface:
    """Round wires, over and under each other by turns, before a dark ground."""
    pitch, wire = c.p(0, 0.13, 0.36), c.p(1, 0.14, 0.26)
    sway = 0.04 * c.fractal(4, 2)
    x, y = c.x / pitch + sway, c.y / pitch - sway
    column, row = x.round(), y.round()
    fx, fy = x - column, y - row
    sign = 1 - 2 * torch.remainder(column + row, 2)

    def strand(across: Tensor, along: Tensor, up: Tensor) -> Tensor:
        profile = (1 - (across / wire).square()).clamp_min(0).sqrt()
        return wire * profile + 0.8 * wire * up * (1 - 4 * along.square())

    seen_x = c.step((fx.abs() - wire) * pitch, 1)
    seen_y = c.step((fy.abs() - wire) * pitch, 1)
    high_x = strand(fx, fy, sign) + 2 * wire
    high_y = strand(fy, fx, -sign) + 2 * wire
    over_x, over_y = high_x * seen_x, high_y * seen_y
    top = torch.maximum(over_x, over_y)
    seen = torch.maximum(seen_x, seen_y)
    metal = palette(c.colour, _BRIGHT, 0.08)
    shade = 0.15 + 0.3 * (top / wire).clamp_max(3.6)
    albedo = blend(0.15 * c.accent, metal, seen) * (shade * seen + 1 - seen)[:, None]
    return covered(c, 0.8 * pitch * top, albedo, 0.7 * seen)


def magnetic_tile(c: Canvas) -> Surface:
    """Ground ferrite: dark grey, fine grain along y, lit unevenly because the tile is a shell of a cylinder."""
    scale = c.p(0, 1.0, 0.4)
    x = c.x * scale
    line = noise_at(x, c.y, (2, 110), c.generator)
    dots = noise_at(x, c.y, (24, 110), c.generator)
    speck = c.fractal(64, 1)
    broad = noise_at(c.x, c.y, (1, 4), c.generator)
    cloud = c.fractal(3, 2)
    uneven = c.p(1, 0.1, 0.6)
    side = 1 + uneven * (0.5 * torch.tanh(2 * c.x * c.p(3, -1, 1)) + 0.25 * cloud + 0.2 * broad)
    # The polished streaks shine where the shell faces the lamp.
    streak = (line - 0.9).clamp_min(0) * (0.6 + 0.5 * dots).clamp(0, 1)
    smudge = (c.fractal(7, 3) - 1.7).clamp(0, 1)
    shade = side.clamp_min(0.3) * (
        1 + 0.06 * line + 0.05 * dots + 0.04 * speck + 0.25 * streak - 0.25 * smudge
    )
    ferrite = palette(c.colour.mean(1, keepdim=True).expand(-1, 3), _FERRITE, 0.0)
    return covered(c, 0.0008 * (line + dots), ferrite[:, :, None, None] * shade[:, None], 0.2)


METALS = {
    "brushed metal": brushed_metal,
    "ground metal": ground_metal,
    "cast iron": cast_iron,
    "perforated sheet": perforated_sheet,
    "wire mesh": wire_mesh,
    "magnetic tile": magnetic_tile,
}
