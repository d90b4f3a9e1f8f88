"""Damage to what is thin and soft: pulled threads and folds."""

from dataclasses import replace

import torch
from torch import Tensor

from dual_anodiff.procedural.place import Place, across, contrasting, moved, nearby, tint, within
from dual_anodiff.procedural.surface import Surface


def thread_pulled(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """A thread lifted out along the weave, standing up in a loop; its neighbours are drawn together."""
    p = _along_the_weave(s, p)
    long = 2.0 * p.size
    ends = (1 - (p.x / long).square()).clamp_min(0)
    wide = p.size * p.uniform(0.25, 0.4) + p.px
    near = torch.exp(-(p.y / wide).square())
    pulled = -p.uniform(0.6, 0.9) * p.y * near * ends.sqrt()
    dx, dy = across(p, torch.zeros_like(pulled), pulled)
    drawn = moved(torch.cat([s.height[:, None], s.albedo], 1), -dx, -dy)
    half = p.uniform(0.8, 1.3) * p.px
    sag = p.sign() * p.size * p.uniform(0.0, 0.5) * torch.exp(-(p.x / (0.4 * p.size)).square())
    off = p.y - sag * p.chance(0.6) - 0.012 * p.curve()
    loop = torch.hypot(p.x - p.size * p.uniform(-0.6, 0.6), 0.7 * (p.y - sag)) - p.size * p.uniform(
        0.18, 0.35
    )
    line = torch.maximum(off.abs() - half, p.x.abs() - 0.95 * long)
    thread = torch.minimum(line, loop.abs() - half + (1 - p.chance(0.75)))
    lifted = p.soft(thread)
    gap = p.soft(thread - 1.6 * p.px, 2) * (1 - lifted)
    region = torch.maximum(p.soft(p.y.abs() - 1.15 * wide * ends.sqrt()) * (ends > 0.02), lifted)
    around = nearby(s, p)
    light = contrasting(around, p, 0.3, 0.7)
    fibre = light * (around * 0.5 + 0.48) + (1 - light) * around * 0.2
    twist = 0.85 + 0.15 * torch.sin(p.x * p.uniform(90, 130))
    round_off = (-thread / half).clamp(0, 1).sqrt()
    inner = within(region)
    return Surface(
        height=torch.lerp(s.height, drawn[:, 0], inner)
        + inner * (0.08 * near * ends + 0.03 * lifted * round_off - 0.02 * gap),
        albedo=tint(
            torch.lerp(s.albedo, drawn[:, 1:], inner[:, None]) * (1 - 0.75 * gap * region)[:, None],
            (fibre * twist[:, None]).clamp(0, 1),
            0.9 * lifted,
        ),
        inside=s.inside,
        gloss=s.gloss,
    ), region


def fold(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """A pleat: one side of a line is lifted, lies over the other and throws a narrow shadow on it."""
    long = 2.2 * p.size
    ends = (1 - (p.x / long).square().square()).clamp_min(0).sqrt()
    line = p.y - p.uniform(-0.5, 0.5) * p.x.square() - 0.02 * p.curve()
    wide = p.size * p.uniform(0.4, 0.6) * ends + 1e-4
    lap = p.size * p.uniform(0.2, 0.4)
    up = (1 - line / wide).clamp(0, 1) * (line > 0)
    shift = -lap * ends * up.square()
    dx, dy = across(p, torch.zeros_like(shift), shift)
    laid = moved(torch.cat([s.height[:, None], s.albedo], 1), dx, dy)
    narrow = p.uniform(2.5, 4.5) * p.px
    region = p.soft(torch.maximum(line - wide, -line - narrow * ends)) * (ends > 0)
    under = p.soft(line, 1.2) * torch.exp((line / narrow).clamp(-8, 0) * 0.8) * ends * within(region)
    top = p.soft(-line)
    rise = p.size * p.uniform(0.3, 0.5) * ends * up.square() * top
    worn = torch.exp(-((line - 1.5 * p.px) / (1.5 * p.px)).square()) * within(region)
    around = nearby(s, p)
    crest = tint(laid[:, 1:], around * 0.5 + 0.42, p.uniform(0.3, 0.6) * worn)
    return replace(
        s,
        height=laid[:, 0] + rise,
        albedo=crest * (1 - p.uniform(0.7, 0.92) * under)[:, None],
    ), region


def _along_the_weave(s: Surface, p: Place) -> Place:
    """The same turned to run along a thread, told from the slopes: on a weave they repeat every quarter turn."""
    # Step of two pixels: across a single one the slopes of a fine weave alias.
    h = s.height
    gx, gy = h[:, 1:-1:2, 2::2] - h[:, 1:-1:2, :-2:2], h[:, 2::2, 1:-1:2] - h[:, :-2:2, 1:-1:2]
    a, b = gx.square() - gy.square(), 2 * gx * gy
    quarter = torch.atan2((2 * a * b).sum((1, 2)), (a.square() - b.square()).sum((1, 2))) / 4
    cos, sin = quarter.cos()[:, None, None], quarter.sin()[:, None, None]
    one = torch.ones_like(p.x)
    ex, ey = across(p, one, 0 * one)
    ux, uy = ex[:, :1, :1], ey[:, :1, :1]
    px, py = p.x * ux - p.y * uy, p.x * uy + p.y * ux
    flip = p.chance(0.5)
    cos, sin = flip * cos - (1 - flip) * sin, flip * sin + (1 - flip) * cos
    return replace(p, x=px * cos + py * sin, y=py * cos - px * sin)
