"""Soft textures that fill the picture: cloths, carpet, leather, cardboard."""

import torch
from torch import Tensor

from dual_anodiff.procedural.noise import cell_noise, noise_at
from dual_anodiff.procedural.surface import Canvas, Surface, blend, covered, palette


def _arch(t: Tensor) -> Tensor:
    """A round profile over [-0.5, 0.5]: 1 in the middle, 0 at the ends."""
    return (1 - 4 * t.square()).clamp_min(0)


def woven_cloth(c: Canvas) -> Surface:
    """Plain weave, or twill, whose floats step aside by one thread a row."""
    count = c.p(0, 6, 18)
    sway = 0.15 * c.fractal(4, 2)
    x, y = c.x * count + sway, c.y * count * c.p(1, 0.7, 1.35) - sway
    column, row = x.floor(), y.floor()
    fx, fy = x - column - 0.5, y - row - 0.5
    twill = c.p(2, 0, 1) > 0.5
    # A float spans two threads in twill, one in plain weave.
    span = torch.where(twill, 2.0, 1.0)
    at = torch.remainder(column + row, 2 * span)
    step = at < span
    warp = _arch(fx) * (1 - 2.4 * ((at + fy + 0.5) / span - 0.5).square())
    weft = _arch(fy) * (1 - 2.4 * ((at - span + fx + 0.5) / span - 0.5).square())
    fibre = c.fractal(60, 1)
    over = torch.where(step, warp, weft)
    height = 0.22 / count * over * (1 + 0.12 * fibre)
    uneven = torch.where(
        step, noise_at(c.x, c.y, (3, 22), c.generator), noise_at(c.x, c.y, (22, 3), c.generator)
    )
    contrast = c.p(3, 0, 0.9)[:, 0] ** 2
    weft_colour = c.colour * (1 - contrast) + c.accent * contrast
    albedo = blend(weft_colour, c.colour, step.float())
    shade = (0.45 + 0.6 * over) * (1 + 0.06 * uneven + 0.07 * fibre)
    return covered(c, height, albedo * shade[:, None], 0.05)


def knitted_cloth(c: Canvas) -> Surface:
    """Stocking stitch: columns of V-shaped stitches, each of two slanting legs."""
    count = c.p(0, 4.5, 11)
    x = c.x * count + 0.15 * c.fractal(4, 2)
    y = c.y * count * c.p(1, 0.9, 1.7) + 0.15 * c.fractal(4, 2)
    fx = x - x.floor() - 0.5
    leg = fx.abs()
    along = y + 1.3 * leg
    course = along.floor()
    thread = _arch(along - course - 0.5).sqrt() * (1 - (4 * (leg - 0.25)).square()).clamp_min(0).sqrt()
    fibre = c.fractal(56, 2)
    height = 0.3 / count * thread * (1 + 0.1 * fibre)
    every = (3 + 4 * c.p(4, 0, 1)).round()
    striped = (torch.remainder(course, 2 * every) < every) & (c.p(2, 0, 1) > 0.6)
    albedo = blend(c.colour, c.accent, striped.float())
    shade = (0.3 + 0.75 * thread) * (1 + 0.1 * fibre)
    return covered(c, height, albedo * shade[:, None], 0.02)


def carpet(c: Canvas) -> Surface:
    """Cut tufts of many fibres, in rough rows."""
    count = c.p(0, 9, 20)
    nearest, _, number = cell_noise(c.x * count, c.y * count, c.generator, 0.6)
    tuft = (1 - 1.3 * nearest.square()).clamp_min(0)
    fibre = noise_at(c.x, c.y, (52, 52), c.generator)
    worn = c.fractal(3, 2)
    height = c.p(1, 0.15, 0.5) / count * tuft * (0.8 + 0.4 * number) + 0.006 * fibre
    # Heather yarn: most tufts of one colour, some of the other.
    other = (number < 0.45 * c.p(2, 0, 1)).float() * c.p(3, 0.2, 0.9)
    albedo = blend(c.colour, c.accent, other)
    shade = (0.35 + 0.6 * tuft) * (1 + 0.16 * fibre + 0.05 * worn) * (0.85 + 0.3 * number)
    return covered(c, height, albedo * shade[:, None], 0.0)


_HIDES = ((0.08, 0.07, 0.07), (0.24, 0.13, 0.08), (0.42, 0.22, 0.12), (0.55, 0.34, 0.19), (0.72, 0.56, 0.4))


def leather(c: Canvas) -> Surface:
    """Pebbles between creases; larger folds and stained valleys."""
    count = c.p(0, 8, 19)
    bend_x, bend_y = 0.35 * c.fractal(9, 2), 0.35 * c.fractal(9, 2)
    nearest, second, number = cell_noise(c.x * count + bend_x, c.y * count * 0.85 + bend_y, c.generator)
    pebble = 1 - (1 - 2.2 * (second - nearest)).clamp_min(0).square()
    fold = c.fractal(3, 3)
    depth = c.p(1, 0.5, 1.3)
    height = depth * 0.2 / count * pebble * (0.8 + 0.4 * number) + 0.012 * fold
    hide = palette(c.colour, _HIDES, 0.12)
    shade = 1 - 0.35 * depth * (1 - pebble) + 0.05 * fold + 0.12 * (number - 0.5)
    return covered(c, height, hide[:, :, None, None] * shade[:, None], 0.3 + 0.1 * pebble)


_PAPERS = ((0.42, 0.4, 0.38), (0.56, 0.42, 0.29), (0.68, 0.53, 0.37), (0.76, 0.65, 0.5), (0.8, 0.78, 0.73))


def cardboard(c: Canvas) -> Surface:
    """Kraft liner over a fluted core: the flutes show through, fibres lie in all directions."""
    near, far = 0.8, 0.6
    fibres = (
        noise_at(c.x, c.y, (95, 20), c.generator),
        noise_at(near * c.x + far * c.y, near * c.y - far * c.x, (95, 18), c.generator),
        noise_at(near * c.x - far * c.y, near * c.y + far * c.x, (95, 18), c.generator),
    )
    dark = torch.stack([(f - 1.0).clamp_min(0) for f in fibres]).sum(0)
    light = torch.stack([(-f - 1.0).clamp_min(0) for f in fibres]).sum(0)
    flute = torch.cos(c.y * c.p(0, 14, 40) + 0.25 * c.fractal(2, 1))
    cloud = c.fractal(6, 3)
    height = c.p(1, 0.002, 0.014) * flute + 0.001 * (light - dark)
    liner = palette(c.colour, _PAPERS, 0.06)
    shade = 1 + 0.03 * cloud + c.p(1, 0.0, 0.05) * flute + 0.09 * (light - dark)
    return covered(c, height, liner[:, :, None, None] * shade[:, None], 0.05)


SOFT = {
    "woven cloth": woven_cloth,
    "knitted cloth": knitted_cloth,
    "carpet": carpet,
    "leather": leather,
    "cardboard": cardboard,
}
