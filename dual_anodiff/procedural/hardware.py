"""Metal parts, and what makes them look like metal: plating, turning marks, a lustre that follows the slopes."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.procedural.surface import Canvas, Surface, box, hexagon, segment

STEEL = (0.56, 0.57, 0.58)
ZINC = (0.66, 0.70, 0.75)
BRASS = (0.76, 0.60, 0.30)
COPPER = (0.72, 0.44, 0.31)
BLACK_OXIDE = (0.19, 0.19, 0.21)


def plating(colour: Tensor) -> Tensor:
    """The metal that is nearest to a free colour, with a little of its brightness. Shape: (b, 3) to (b, 3)."""
    red, green, blue = colour.unbind(1)
    value = colour.mean(1)
    score = torch.stack(
        [
            0.5 * torch.ones_like(value),
            14 * (blue - red),
            14 * (red - blue) - 1.5,
            14 * (red - torch.maximum(green, blue)) - 2.5,
            20 * (0.32 - value),
        ],
        dim=1,
    )
    metals = torch.tensor([STEEL, ZINC, BRASS, COPPER, BLACK_OXIDE], dtype=colour.dtype)
    return torch.softmax(4 * score, dim=1) @ metals * (0.8 + 0.4 * value)[:, None]


def draw_one(c: Canvas, low: float, high: float) -> Tensor:
    """A number for each picture that is not part of its category. Shape: (b, 1, 1)."""
    return low + (high - low) * torch.rand(c.x.shape[0], 1, 1, generator=c.generator)


def streaks(c: Canvas, t: Tensor, marks: int = 150) -> Tensor:
    """Noise that varies along coordinate t alone: turning marks along an axis or a radius, rolling marks."""
    table = torch.randn(c.x.shape[0], marks, generator=c.generator)
    table = table + 0.7 * table.roll(1, 1)
    place = ((t + 1.5) * (marks / 3)).long().clamp(0, marks - 1)
    return table.gather(1, place.flatten(1)).view_as(t)


def mottle(c: Canvas, cells: int) -> Tensor:
    """Cheap soft noise, about unit variance; bicubic fractal noise would take half of a kind's time."""
    coarse = torch.randn(c.x.shape[0], 1, cells, cells, generator=c.generator)
    return 1.4 * F.interpolate(coarse, (c.size_px, c.size_px), mode="bilinear", align_corners=False)[:, 0]


def bow_tie(c: Canvas, r: Tensor) -> Tensor:
    """The two bright fans that a turned face shows, in [-1, 1]."""
    turn = draw_one(c, 0, math.pi)
    along = (c.x * turn.cos() + c.y * turn.sin()) / (r + 0.02)
    return 2 * along.square() - 1


def lustre(c: Canvas, height: Tensor) -> Tensor:
    """What a metal mirrors of a workshop's lamps and dark corners, by its slope, in [-1, 1]."""
    per_px = c.size_px / 4
    gx = F.pad(height[:, None], (1, 1, 0, 0), mode="replicate")[:, 0].diff(dim=2)
    gy = F.pad(height[:, None], (0, 0, 1, 1), mode="replicate")[:, 0].diff(dim=1)
    gx, gy = (gx[:, :, 1:] + gx[:, :, :-1]) * per_px, (gy[:, 1:] + gy[:, :-1]) * per_px
    flat = (1 + gx.square() + gy.square()).rsqrt()
    # A parabola instead of a second sine: sines are what a kind's time goes to.
    across = 1 - 1.6 * (gy * flat + draw_one(c, -0.35, 0.35)).square()
    return torch.sin(4.2 * gx * flat + draw_one(c, -1.5, 1.5)) * across


def metal(
    c: Canvas,
    distance: Tensor,
    height: Tensor,
    *,
    tone: Tensor | float = 0.0,
    shine: float = 0.3,
    gloss: float = 0.6,
    base: Tensor | None = None,
) -> Surface:
    """A metal part: plated, mirroring its surroundings; `tone` brightens or darkens by that share."""
    base = plating(c.colour) if base is None else base
    share = 1 + tone + shine * lustre(c, height) + 0.02 * mottle(c, 40)
    albedo = (base[:, :, None, None] * share[:, None]).clamp(0, 1)
    return Surface(height, albedo, c.step(distance), torch.full_like(height, gloss))


def chamfered(distance: Tensor, width: Tensor | float, height: Tensor | float) -> Tensor:
    """A flat top behind a straight chamfer."""
    return (-distance / width).clamp(0, 1) * height


def zigzag(turns: Tensor) -> Tensor:
    """Triangle wave of period 1, in [-1, 1]: the flanks of a thread."""
    return (turns - turns.floor() - 0.5).abs() * 4 - 1


def helix(x: Tensor, y: Tensor, radius: Tensor, pitch: Tensor) -> Tensor:
    """Turns of a thread seen from the side: half a pitch ahead at one outline, half behind at the other."""
    return x / pitch + (y / radius).clamp(-1, 1).asin() / (2 * math.pi)


def revolved(radius: Tensor, y: Tensor) -> Tensor:
    """Height of a turned body of that radius (which may vary along x) seen from the side."""
    return (radius.square() - y.square()).clamp_min(0).sqrt()


def when(c: Canvas, i: int, low: float, high: float) -> Tensor:
    """Whether parameter i lies in a range: the variants of a kind. Shape: (b, 1, 1) bool."""
    return ((c.u[:, i] >= low) & (c.u[:, i] < high))[:, None, None]


def washer(c: Canvas) -> Surface:
    r, outer = torch.hypot(c.x, c.y), c.p(0, 0.62, 0.88)
    inner = outer * c.p(1, 0.34, 0.62)
    distance = torch.maximum(r - outer, inner - r)
    split = torch.maximum((c.y + 0.25 * (c.x - outer)).abs() - 0.035, -c.x)
    distance = torch.where(when(c, 4, 0.65, 2), torch.maximum(distance, -split), distance)
    edge = chamfered(distance, c.p(2, 0.025, 0.1), 0.1)
    marks = streaks(c, r)
    return metal(c, distance, edge + 0.001 * marks, tone=0.035 * marks + 0.16 * bow_tie(c, r))


def nut(c: Canvas) -> Surface:
    r, size = torch.hypot(c.x, c.y), c.p(0, 0.54, 0.75)
    flanged = when(c, 4, 0.7, 2)
    across = torch.where(flanged, size * 0.84, size)
    hole = across * c.p(1, 0.38, 0.66)
    hexed = hexagon(c.x, c.y, across)
    flange = torch.where(flanged, r - size * 1.15, hexed)
    turns = (r - hole) / 0.062 + torch.atan2(c.y, c.x) / (2 * math.pi) + draw_one(c, 0, 1)
    threaded = c.step(r - hole - 0.11, 1.5)
    crown = chamfered(hexed, 0.04, 0.2) - 0.75 * (r - 0.985 * across).clamp_min(0)
    rim = 0.9 * (hole + 0.17 - r).clamp_min(0)
    height = torch.maximum(crown, chamfered(flange, 0.12, 0.09)) - rim + 0.02 * threaded * zigzag(turns)
    tone = threaded * (0.3 * zigzag(turns + 0.2) - 0.3) + 0.04 * streaks(c, r) * (1 - threaded)
    return metal(c, torch.maximum(flange, hole - r), height, tone=tone + 0.06 * bow_tie(c, r))


def gear(c: Canvas) -> Surface:
    teeth = (11 + (c.u[:, 1] * 17).round())[:, None, None]
    r, angle = torch.hypot(c.x, c.y), torch.atan2(c.y, c.x)
    outer, bore, hub = c.p(0, 0.6, 0.86), c.p(3, 0.1, 0.18), c.p(4, 0.24, 0.34)
    module = 2 * outer / (teeth + 2)
    deep = 1.15 * module
    flank = -0.75 * module * (torch.cos(teeth * angle) + 0.9 * ((outer - r) / deep - 0.6))
    toothed = torch.minimum(r - outer + deep, torch.maximum(r - outer, flank))
    key = box(c.x - bore, c.y, bore * 0.35, bore * 0.3, 0.01 * bore)
    distance = torch.maximum(toothed, -torch.minimum(r - bore, key))
    spoke = torch.remainder(angle, math.pi / 3) - math.pi / 6
    web = outer - 2.9 * module
    middle = (hub + web) / 2
    drilled = torch.hypot(r * spoke.cos() - middle, r * spoke.sin()) - (web - hub) * 0.28
    distance = torch.where(when(c, 5, 0.5, 2), torch.maximum(distance, -drilled), distance)
    recess = c.step(torch.maximum(hub - r, r - web), 2)
    height = chamfered(distance, 0.03, 0.12) - 0.06 * recess
    marks = streaks(c, r)
    tone = 0.045 * marks + 0.13 * bow_tie(c, r) - 0.12 * recess
    return metal(c, distance, height, tone=tone, gloss=0.45)


def screw_head(c: Canvas) -> Surface:
    r, radius = torch.hypot(c.x, c.y), c.p(0, 0.56, 0.86)
    drive = c.p(1, 0.7, 1.25)
    arm, reach = radius * 0.1 * drive, radius * (0.32 + 0.2 * drive)
    across = box(c.x, c.y, reach, arm, arm * 0.3)
    cross = torch.minimum(across, box(c.x, c.y, arm, reach, arm * 0.3))
    cross = torch.minimum(cross, (c.x.abs() + c.y.abs()) * 0.7071 - arm * 1.55)
    slot = torch.maximum(c.y.abs() - arm * 0.85 * drive, -torch.ones_like(r))
    recess = torch.where(when(c, 4, 0.0, 0.4), cross, hexagon(c.x, c.y, radius * 0.4 * drive))
    recess = torch.where(when(c, 4, 0.4, 0.65), slot, recess)
    dome = 0.3 * (1.02 - (r / radius).square()).clamp_min(0).sqrt()
    flat = 0.2 - 0.7 * (r - radius * 0.84).clamp_min(0)
    head = torch.where(when(c, 5, 0.0, 0.5), dome, flat) * chamfered(r - radius, 0.04, 1.0)
    sunk = c.step(recess, 1.2)
    floor = (0.62 + 0.5 * (r / radius)) * head
    marks = streaks(c, r)
    tone = (0.045 * marks + 0.1 * bow_tie(c, r)) * (1 - sunk) - 0.42 * sunk
    return metal(c, r - radius, torch.lerp(head, (head - 0.16).minimum(floor), sunk), tone=tone)


def threaded_rod(c: Canvas) -> Surface:
    wide, long = c.p(0, 0.27, 0.38), c.p(1, 0.64, 0.79)
    pitch, depth = c.p(2, 0.075, 0.13), c.p(2, 0.022, 0.04)
    turns = helix(c.x + draw_one(c, 0, 0.1), c.y, wide, pitch)
    tip = (c.x.abs() - long + 0.1).clamp_min(0) * 0.8
    profile = torch.maximum(wide - depth + depth * zigzag(turns), wide - 2 * depth) - tip
    distance = torch.maximum(c.y.abs() - profile, c.x.abs() - long)
    tone = 0.16 * zigzag(turns) + 0.03 * streaks(c, c.x)
    return metal(c, distance, revolved(profile, c.y), tone=tone)


def screw(c: Canvas) -> Surface:
    long, shank, head = 0.76, c.p(0, 0.18, 0.28), c.p(1, 0.38, 0.46)
    deep = c.p(2, 0.18, 0.28)
    x = c.x + long
    rounded = head * (1 - ((deep - x) / deep).clamp(0, 1).square()).clamp_min(0).sqrt()
    countersunk = head - (head - shank) * ((x - 0.05) / deep).clamp(0, 1)
    top = torch.where(when(c, 4, 0.35, 0.65), countersunk, rounded)
    top = torch.where(when(c, 4, 0.65, 2), head - 0.5 * (0.06 - x).clamp_min(0), top)
    neck = torch.where(when(c, 4, 0.35, 0.65), deep + 0.05, deep)
    pitch = c.p(3, 0.085, 0.14)
    turns = helix(x + draw_one(c, 0, 0.1), c.y, shank, pitch)
    pointed = when(c, 5, 0.4, 2)
    taper = torch.where(pointed, (x - 1.12).clamp_min(0) * 0.56, (x - 1.44).clamp_min(0) * 0.8)
    begins = neck + c.p(5, 0.02, 0.5)
    cut = ((x - begins) / 0.06).clamp(0, 1)
    thread = 0.034 * cut * (zigzag(turns) - 0.6)
    profile = torch.where(
        x < neck, top, shank * (1 - 0.04 * cut) + thread - torch.minimum(taper, shank * 0.95)
    )
    distance = torch.maximum(c.y.abs() - profile, c.x.abs() - long)
    hexed = torch.minimum(head * 0.87, (head - c.y.abs()) * 1.73) - 0.5 * (0.06 - x).clamp_min(0)
    height = torch.where(when(c, 4, 0.65, 2) & (x < neck), hexed.clamp_min(0), revolved(profile, c.y))
    tone = 0.14 * cut * zigzag(turns) + 0.03 * streaks(c, c.x)
    return metal(c, distance, height, tone=tone)


def turned_part(c: Canvas) -> Surface:
    long, thick = c.p(0, 0.66, 0.8), c.p(1, 0.28, 0.4)
    ends = (-long * c.p(2, 0.35, 0.6), long * c.p(3, -0.1, 0.15), long * c.p(4, 0.45, 0.7))
    radii = (thick * c.p(4, 0.5, 0.7), thick, thick * c.p(2, 0.68, 0.84), thick * c.p(5, 0.35, 0.6))
    profile = radii[0]
    for end, before, after in zip(ends, radii[:-1], radii[1:], strict=True):
        profile = profile + (after - before) * ((c.x - end) / 0.045 + 0.5).clamp(0, 1)
    grooved = 0.05 * c.step((c.x - ends[1] - 0.055).abs() - 0.022, 1)
    snap = 0.035 * c.step((c.x - ends[2] - 0.14).abs() - 0.016, 1)
    profile = profile - grooved - snap - 0.9 * (c.x.abs() - long + 0.05).clamp_min(0)
    distance = torch.maximum(c.y.abs() - profile, c.x.abs() - long)
    knurl = when(c, 5, 0.5, 2) & (c.x > ends[0] + 0.05) & (c.x < ends[1] - 0.05)
    around = (c.y / thick).clamp(-1, 1).asin() * thick
    mesh = torch.sin(60 * (c.x + around)) * torch.sin(60 * (c.x - around)) * knurl
    marks = streaks(c, c.x, 200)
    tone = 0.07 * marks + 0.14 * mesh
    return metal(c, distance, revolved(profile, c.y) + 0.012 * mesh, tone=tone)


def bearing(c: Canvas) -> Surface:
    r, outer = torch.hypot(c.x, c.y), c.p(0, 0.64, 0.88)
    bore = outer * c.p(1, 0.3, 0.48)
    wall = (outer - bore) * 0.28
    middle, gap = (outer + bore) / 2, (outer - bore) / 2 - wall
    step = 2 * math.pi / (7 + (c.u[:, 2] * 4).round())[:, None, None]
    sector = torch.remainder(torch.atan2(c.y, c.x) + draw_one(c, 0, 1), step) - step / 2
    ball = torch.hypot(r * sector.cos() - middle, r * sector.sin())
    size = torch.minimum(gap * 1.12, middle * step * 0.4)
    globe = revolved(size, ball)
    distance = torch.maximum(r - outer, bore - r)
    race = (r - middle).abs() - gap
    ring = chamfered(torch.maximum(distance, -race), 0.035, 0.13)
    sealed = when(c, 3, 0.6, 2)
    shield = 0.09 - 0.03 * c.step((race + 0.05).abs() - 0.015, 1) + 0 * r
    cage = 0.03 * c.step((r - middle).abs() - gap * 0.5, 1)
    open_race = torch.maximum(globe + 0.01, cage)
    inner = c.step(race, 1)
    height = torch.lerp(ring, torch.where(sealed, shield, open_race), inner)
    marks = streaks(c, r)
    face = 0.05 * marks + 0.16 * bow_tie(c, r)
    void = inner * c.step(size - ball, 1) * (1 - cage / 0.03)
    tone = torch.where(sealed, face * (1 - inner) - 0.12 * inner, face * (1 - inner) - 0.75 * void)
    steel = 0.4 + 0.4 * c.colour.mean(1, keepdim=True).expand(-1, 3)
    part = metal(c, distance, height, tone=tone, gloss=0.75, base=plating(steel))
    rubber = (inner * (sealed & when(c, 4, 0.5, 2)))[:, None]
    seal = (0.12 + 0.25 * c.accent)[:, :, None, None]
    gloss = part.gloss * (1 - 0.7 * rubber[:, 0])
    return Surface(
        part.height, torch.lerp(part.albedo, seal.expand_as(part.albedo), rubber), part.inside, gloss
    )


def spring(c: Canvas) -> Surface:
    long, wide, wire = c.p(0, 0.6, 0.76), c.p(1, 0.3, 0.42), c.p(2, 0.055, 0.072)
    coils = (4 + (c.u[:, 3] * 1).round())[:, None, None]
    pitch = 2 * (long - wire) / coils

    def strands(lean: float, shift: Tensor | float) -> Tensor:
        x = c.x - shift - lean * pitch / (4 * wide) * c.y
        x = torch.remainder(x + pitch / 2, pitch) - pitch / 2
        return segment(x + lean * pitch / (4 * wide) * c.y, c.y, lean * pitch / 4, wide - wire, wire)

    parity = torch.where(torch.remainder(coils, 2) > 0, pitch / 2, 0.0)
    ends = c.x.abs() - long + wire
    front = torch.maximum(strands(1.0, parity), ends)
    back = torch.maximum(strands(-1.0, parity + pitch / 2), ends)
    closed = segment(c.x.abs() - long + wire, c.y, 0 * wire, wide - wire, wire)
    front = torch.minimum(front, closed)
    hidden = c.step(-front, 1)
    round_front = revolved(wire, (front + wire).clamp_min(0))
    round_back = revolved(wire, (back + wire).clamp_min(0))
    bulge = revolved(wide * 1.05, c.y) * 0.5
    height = torch.lerp(round_front + bulge + 0.1, round_back, hidden)
    tone = hidden * -0.5 + 0.02 * streaks(c, c.x)
    return metal(c, torch.minimum(front, back), height, tone=tone, shine=0.35, gloss=0.8)
