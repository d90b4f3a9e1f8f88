"""Damage that goes into a surface: dents, cracks, holes, chips."""

from dataclasses import replace

import torch
from torch import Tensor

from dual_anodiff.procedural.noise import jagged_line
from dual_anodiff.procedural.place import Place, contrasting, nearby, rough_field, tint, within
from dual_anodiff.procedural.surface import Surface


def dent(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """A smooth bowl, some with a raised rim, polished by what struck it; no change of colour."""
    aspect = p.uniform(1.0, 1.7).sqrt()
    r2 = ((p.x / aspect).square() + (p.y * aspect).square()) / (p.size * (1 + 0.08 * p.ragged)).square()
    bowl = (1 - r2 / 0.8).clamp_min(0)
    rim = p.chance(0.5) * torch.exp(-((r2 - 0.85) / 0.12).square())
    region = p.soft((r2.sqrt() - 1) * p.size)
    # On dark parts light tells less: the dent must be deeper to show.
    dark = 1 / (0.35 + nearby(s, p).mean(1)).clamp_max(1)
    depth = (p.uniform(0.85, 1.2) * dark).clamp_max(2.0) * p.size
    sharp = p.chance(0.5)
    return replace(
        s,
        height=s.height
        + (0.12 * p.size * rim - depth * (sharp * bowl + (1 - sharp) * bowl.square())) * region,
        gloss=(s.gloss + p.uniform(0.1, 0.4) * region).clamp(0, 1),
    ), region


def crack(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """A ragged dark line of uneven width that branches."""
    jag = p.uniform(0.04, 0.12)
    main = p.y - jag * p.curve()
    long, half = 2.1 * p.size, p.uniform(0.6, 1.7) * p.px
    taper = (1 - (p.x / long).square()).clamp_min(0).sqrt()
    uneven = (1 + 0.45 * p.ragged).clamp(0.4, 1.8)
    distance = torch.maximum(main.abs() - (half * uneven * taper).clamp_min(0.45 * p.px), p.x.abs() - long)
    for _ in range(2):
        start, way = p.size * p.uniform(-1.2, 0.8), p.sign()
        on = (p.x - start) * way
        twig = jagged_line(p.b, 256, p.generator)
        branch = main - p.sign() * p.uniform(0.5, 1.1) * on + 0.06 * p.curve(p.x - start, twig)
        end = p.size * p.uniform(0.5, 1.2) * p.chance(0.7)
        thin = (0.8 * half * uneven * (1 - on / end.clamp_min(1e-3)).clamp(0, 1)).clamp_min(0.4 * p.px)
        # The branch is steep: measured along y it would come out too wide by its slope.
        distance = torch.minimum(
            distance, torch.maximum(branch.abs() / 1.25 - thin, torch.maximum(-on, on - end))
        )
    region = p.soft(distance)
    around = nearby(s, p)
    light = contrasting(around, p, 0.08, 0.14)
    colour = light * (around * 0.4 + 0.4) + (1 - light) * around * p.uniform(0.05, 0.3)[:, None]
    return replace(
        s,
        height=s.height - p.uniform(0.04, 0.09) * within(region),
        albedo=tint(s.albedo, colour, p.uniform(0.8, 0.97) * region),
        gloss=s.gloss * (1 - region),
    ), region


def hole(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """Deep and dark, its walls still of the part's colour: the far one catches the light."""
    distance = p.blob(p.uniform(0.0, 0.16), 1.35)
    region = p.soft(distance)
    wall = p.size * p.uniform(0.18, 0.45)
    down = (-distance / wall).clamp(0, 1)
    around = nearby(s, p)
    black = p.soft(distance + wall, 1.5)
    light = (around.mean(1, keepdim=True) < 0.12).float()
    # In a part that is black already the worn rim is what shows.
    side = tint(s.albedo, around * 0.75 + 0.35 * light, region * 0.8)
    return replace(
        s,
        height=s.height - p.uniform(0.8, 1.5) * wall * down,
        albedo=tint(side, torch.full_like(around, 0.02), 0.97 * black),
        gloss=s.gloss * (1 - region),
    ), region


def chip(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """Material broken out: a steep ragged edge, rough ground that is duller and lighter or darker."""
    distance = p.blob(p.uniform(0.25, 0.5), 2.0)
    region = p.soft(distance)
    rough = rough_field(p.b, p.size_px, 20, 2, p.generator)
    around = nearby(s, p).mean(1, keepdim=True)
    light = contrasting(around, p, 0.25, 0.6)
    ground = light * (around * 0.5 + 0.42) + (1 - light) * around * 0.4
    warm = torch.tensor([1.04, 1.0, 0.93])[:, None, None]
    colour = (ground * warm * (1 + 0.14 * rough)[:, None]).clamp(0, 1)
    fall = (-distance / (0.25 * p.size)).clamp(0, 1)
    return replace(
        s,
        height=s.height - within(region) * p.uniform(0.25, 0.5) * p.size * (0.4 + 0.6 * fall - 0.12 * rough),
        albedo=tint(s.albedo, colour, p.uniform(0.75, 0.95) * region),
        gloss=s.gloss * (1 - 0.9 * region),
    ), region
