"""Marks on a surface: what rubs it, wets it or lies on it."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from dual_anodiff.procedural.noise import value_noise
from dual_anodiff.procedural.place import Place, contrasting, mean_around, nearby, tint, within
from dual_anodiff.procedural.surface import Surface


def scratch(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """One to three grooves with raised lips, bare material at their ground."""
    bend, wave = p.uniform(-0.7, 0.7) * p.x.square(), p.uniform(0.0, 0.02) * p.curve()
    path = p.y - bend - wave
    half, distance = p.uniform(0.6, 2.0) * p.px, torch.ones_like(p.x)
    for i in range(3):
        aside = 0.0 if i == 0 else p.sign() * p.uniform(0.05, 0.16) + p.uniform(-0.25, 0.25) * p.x
        along = (p.x - (0.0 if i == 0 else p.size * p.uniform(-0.7, 0.7))).abs()
        long = (2.3 if i == 0 else p.uniform(0.7, 2.0)) * p.size
        thin = (
            half * (1.15 - (along / long).square()).clamp(0, 1).sqrt()
            if i == 0
            else p.uniform(0.6, 1.2) * p.px
        )
        one = torch.maximum((path - aside).abs() - thin, along - long)
        distance = torch.minimum(distance, one + (0 if i == 0 else 1 - p.chance(0.3)))
    region, groove = p.soft(distance), p.soft(distance + 0.5 * half)
    around = nearby(s, p)
    light = contrasting(around, p, 0.35, 0.75)
    bare = light * (around * 0.35 + p.uniform(0.55, 0.65)[:, None]) + (1 - light) * around * 0.25
    lip = within(region) * (1 - groove)
    alpha = p.uniform(0.65, 0.95) * region * (1 + 0.15 * p.ragged).clamp(0.7, 1)
    return replace(
        s,
        height=s.height - p.uniform(0.015, 0.035) * groove * within(region) + 0.012 * lip,
        albedo=tint(s.albedo, bare.clamp(0, 1), alpha),
        gloss=torch.lerp(s.gloss, p.uniform(0.1, 0.9), region),
    ), region


def stain(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """Soaked in: colour multiplied, the texture stays; some dry darker at their rim."""
    edge = p.uniform(1.0, 4.0)
    distance = p.blob(p.uniform(0.12, 0.4))
    region = p.soft(distance, edge)
    around = nearby(s, p)
    light = contrasting(around, p, 0.08, 0.2)
    hue = (
        0.12 + torch.rand(p.b, 3, 1, 1, generator=p.generator) * torch.tensor([0.5, 0.4, 0.3])[:, None, None]
    )
    dark = s.albedo * (0.25 + 0.6 * hue)
    pale = (s.albedo * 0.6 + 0.28 + 0.2 * hue).clamp(0, 1)
    rim = p.chance(0.4) * torch.exp(-((distance + 2 * p.px) / (2.5 * p.px)).square()) * within(region)
    alpha = region * p.uniform(0.7, 0.95) * (1 + 0.2 * p.ragged).clamp(0.6, 1.1)
    soaked = tint(s.albedo, light * pale + (1 - light) * dark, alpha.clamp(0, 1))
    return replace(
        s,
        albedo=soaked * (1 - 0.45 * (1 - light) * rim[:, None]),
        gloss=s.gloss * (1 + region * p.uniform(-0.6, 0.3)).clamp_max(1),
    ), region


def paint(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """A wet patch of another colour, smeared or with drops about it."""
    distance = p.blob(p.uniform(0.05, 0.35), 2.6)
    for _ in range(3):
        dx, dy = p.size * p.uniform(-1.7, 1.7), p.size * p.uniform(-1.7, 1.7)
        drop = torch.hypot(p.x - dx, p.y - dy) - p.uniform(-0.04, 0.045)
        distance = torch.minimum(distance, drop)
    region = p.soft(distance, p.uniform(1.0, 1.6))
    around = nearby(s, p)
    first, second = _pigment(p), _pigment(p)
    farther = (first - around).abs().sum(1, True) > (second - around).abs().sum(1, True)
    colour = torch.where(farther, first, second)
    thick = p.uniform(0.006, 0.02)
    body = (-distance / (4 * p.px)).clamp(0, 1) * within(region)
    flat = torch.lerp(s.height, mean_around(s.height, 7), 0.7 * within(region))
    return replace(
        s,
        height=flat + thick * body * (1 + 0.15 * p.ragged),
        albedo=tint(s.albedo, colour, p.uniform(0.88, 1.0) * region),
        gloss=torch.lerp(s.gloss, p.uniform(0.4, 0.9), region),
    ), region


def glue(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """A clear drop: smooth, raised and glossy, its rim bright, a little darker beneath."""
    distance = p.blob(p.uniform(0.05, 0.28), 2.4)
    region = p.soft(distance)
    deep = (-distance / (0.8 * p.size)).clamp(0, 1)
    dome = (deep * (2 - deep)).sqrt() * within(region)
    around = nearby(s, p)
    tone = torch.rand(p.b, 1, 1, 1, generator=p.generator)
    resin = torch.cat([0.8 - 0.1 * tone, 0.78 - 0.2 * tone, 0.72 - 0.5 * tone], 1)
    milky = p.uniform(0.05, 0.35) + 0.25 * (around.mean(1) < 0.2)
    seen = s.albedo * resin * 0.75
    rim = torch.exp(-((distance + 1.6 * p.px) / (1.2 * p.px)).square()) * within(region)
    wet = tint(tint(s.albedo, seen, region), 0.3 + 0.7 * resin, region * milky)
    return replace(
        s,
        height=torch.lerp(s.height, mean_around(s.height, 7), 0.85 * within(region))
        + p.uniform(0.2, 0.45) * p.size * dome,
        albedo=tint(wet, torch.full_like(resin, 0.95), rim * p.uniform(0.35, 0.7)),
        gloss=torch.lerp(s.gloss, torch.ones_like(region), region),
    ), region


def contamination(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """Loose dirt: crumbs, fibres or dust, mostly of one colour."""
    crumbs = torch.ones_like(p.x)
    uneven = (1 + 0.35 * p.ragged).clamp_min(0.75)
    for i in range(5):
        reach = 0.3 if i == 0 else 1.3
        dx, dy = p.size * p.uniform(-reach, reach), p.size * p.uniform(-reach, reach)
        radius = p.size * (0.36 if i == 0 else p.uniform(0.12, 0.35)) + p.px * 0.8
        crumb = torch.hypot(p.x - dx, (p.y - dy) * p.uniform(0.7, 1.3)) - radius * uneven
        crumbs = torch.minimum(crumbs, crumb)
    fibres = torch.ones_like(p.x)
    for i in range(2):
        turn = p.uniform(-0.9, 0.9) if i else p.uniform(-0.1, 0.1)
        u, v = p.x * turn.cos() + p.y * turn.sin(), p.y * turn.cos() - p.x * turn.sin()
        u = u + (p.size * p.uniform(-0.8, 0.8) if i else 0)
        arc = v - (p.uniform(-1.3, 1.3) * u.square() - p.uniform(-3, 3) * u * u.square()) / p.size
        # The slope widens a level set measured along y; divided out, the fibre keeps its width round the bend.
        half = p.uniform(0.7, 1.2) * p.px
        long = 1.9 * p.size if i == 0 else 1.3 * p.size
        fibre = torch.maximum(arc.abs() - half * (1 + 2.5 * (u / p.size).abs()).sqrt(), u.abs() - long)
        fibres = torch.minimum(fibres, fibre + (0 if i == 0 else 1 - p.chance(0.5)))
    r = torch.hypot(p.x, p.y) / (1.6 * p.size)
    cells = max(8, p.size_px * 5 // 16)
    specks = value_noise(p.b, p.size_px, (cells, cells), p.generator)
    dust = torch.sigmoid(6 * (specks - 0.5 + 2.5 * (r < 0.3) - 2.5 * (r - 0.35).clamp_min(0)))
    kind = p.uniform(0, 1)
    distance = torch.minimum(crumbs + (kind >= 0.6), fibres + ((kind < 0.45) | (kind >= 0.85)))
    region = p.soft(distance)
    region = torch.maximum(region, dust * (kind >= 0.8))
    around = nearby(s, p)
    light = contrasting(around, p, 0.2, 0.6)
    hue = torch.rand(p.b, 3, 1, 1, generator=p.generator)
    colour = light * (0.72 + 0.26 * hue) + (1 - light) * (0.02 + 0.09 * hue)
    return replace(
        s,
        height=s.height + p.uniform(0.015, 0.05) * within(region) * (1 + 0.3 * p.ragged).clamp(0.5, 1.5),
        albedo=tint(s.albedo, colour, p.uniform(0.85, 1.0) * region),
        gloss=s.gloss * (1 - 0.9 * region),
    ), region


def _pigment(p: Place) -> Tensor:
    """A strong colour, now and then black or white. Shape: (b, 3, 1, 1)."""
    hue, value = p.uniform(0, 1)[:, None], p.uniform(0.35, 1.0)[:, None]
    phase = torch.tensor([0.0, 1 / 3, 2 / 3])[:, None, None]
    colour = value * (0.5 + 0.48 * torch.cos(2 * math.pi * (hue + phase)))
    grey, dark = p.chance(0.2)[:, None], p.chance(0.5)[:, None]
    return (1 - grey) * colour + grey * (0.04 * dark + 0.9 * (1 - dark))
