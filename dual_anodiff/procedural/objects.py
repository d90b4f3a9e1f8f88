"""Parts with an outline, lying on a table."""

import math
from collections.abc import Callable

import torch

from dual_anodiff.procedural.surface import Canvas, Surface, box, solid


def washer(c: Canvas) -> Surface:
    r, outer = torch.hypot(c.x, c.y), c.p(0, 0.55, 0.85)
    inner = outer * c.p(1, 0.3, 0.7)
    return solid(c, torch.maximum(r - outer, inner - r), c.p(2, 0.04, 0.2), 0.5)


def nut(c: Canvas) -> Surface:
    size, hole = c.p(0, 0.5, 0.78), c.p(1, 0.35, 0.68)
    angle = torch.atan2(c.y, c.x)
    sector = torch.remainder(angle, math.pi / 3) - math.pi / 6
    r = torch.hypot(c.x, c.y)
    thread = 0.015 * torch.sin(r * c.p(2, 60, 110)) * c.step(r - size * hole * 1.25, 4)
    return solid(c, torch.maximum(r * sector.cos() - size, size * hole - r), c.p(3, 0.05, 0.2), 0.6, thread)


def gear(c: Canvas) -> Surface:
    teeth = (8 + (c.u[:, 1] * 16).round())[:, None, None]
    r, angle = torch.hypot(c.x, c.y), torch.atan2(c.y, c.x)
    tooth = torch.tanh(4 * torch.cos(teeth * angle)) * c.p(2, 0.03, 0.08)
    distance = torch.maximum(r - c.p(0, 0.55, 0.8) - tooth, c.p(3, 0.12, 0.3) - r)
    groove = -0.04 * c.step((r - c.p(4, 0.38, 0.48)).abs() - 0.03, 2)
    return solid(c, distance, 0.05, 0.4, groove)


def pill(c: Canvas) -> Surface:
    long, wide = c.p(0, 0.5, 0.85), c.p(1, 0.25, 0.5)
    distance = box(c.x, c.y, long, wide, wide)
    half = c.step(c.x * torch.where(c.u[:, 2] > 0.5, 1.0, 0.0)[:, None, None] - 1e-3, 1.5)
    two_tone = c.colour[:, :, None, None] * half[:, None] + c.accent[:, :, None, None] * (1 - half[:, None])
    body = solid(c, distance, wide * 0.8, 0.7)
    return Surface(body.height * 2.2, two_tone * torch.ones_like(body.albedo), body.inside, body.gloss)


def plate(c: Canvas) -> Surface:
    half_x, half_y = c.p(0, 0.55, 0.85), c.p(1, 0.4, 0.8)
    outline = box(c.x, c.y, half_x, half_y, c.p(2, 0.02, 0.2))
    holes = torch.hypot(c.x.abs() - half_x * 0.68, c.y.abs() - half_y * 0.62) - c.p(3, 0.06, 0.14)
    return solid(c, torch.maximum(outline, -holes), 0.03, 0.35)


def screw_head(c: Canvas) -> Surface:
    r, radius = torch.hypot(c.x, c.y), c.p(0, 0.5, 0.8)
    slot = c.p(1, 0.05, 0.13)
    arm = torch.minimum(
        box(c.x, c.y, radius * 0.6, slot, slot * 0.2), box(c.x, c.y, slot, radius * 0.6, slot * 0.2)
    )
    dome = 0.25 * (1 - (r / radius).square()).clamp_min(0).sqrt()
    return solid(c, r - radius, 0.06, 0.6, dome - 0.15 * c.step(arm, 2))


def bottle_rim(c: Canvas) -> Surface:
    r, outer = torch.hypot(c.x, c.y), c.p(0, 0.7, 0.92)
    mouth = outer * c.p(1, 0.4, 0.65)
    rings = 0.05 * torch.sin(r * c.p(2, 18, 34))
    dark = c.step(r - mouth, 3)
    body = solid(c, r - outer, 0.1, 0.9, rings * (1 - dark))
    albedo = body.albedo * (1 - 0.85 * dark)[:, None]
    return Surface(body.height, albedo, body.inside, body.gloss * (1 - dark))


def threaded_rod(c: Canvas) -> Surface:
    wide = c.p(0, 0.16, 0.34)
    distance = box(c.x, c.y, c.p(1, 0.65, 0.92), wide, 0.06 * torch.ones_like(wide))
    cylinder = (1 - (c.y / (wide * 1.05)).square()).clamp_min(0).sqrt() * wide
    thread = 0.02 * torch.sin(c.x * c.p(2, 45, 80) + 2 * c.y)
    return solid(c, distance, 0.04, 0.6, cylinder + thread)


OBJECTS: dict[str, Callable[[Canvas], Surface]] = {
    "washer": washer,
    "nut": nut,
    "gear": gear,
    "pill": pill,
    "plate": plate,
    "screw head": screw_head,
    "bottle rim": bottle_rim,
    "threaded rod": threaded_rod,
}
