"""Parts with an outline, lying on a table."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.procedural import hardware as hw
from dual_anodiff.procedural.surface import Canvas, Surface, blend, box, fillet

COPPER = torch.tensor([[0.74, 0.42, 0.27]])
TINNED = torch.tensor([[0.70, 0.71, 0.72]])
CORES = torch.tensor([[0.45, 0.27, 0.16], [0.16, 0.38, 0.72], [0.50, 0.62, 0.16]])
GOLD = torch.tensor([[0.80, 0.64, 0.28]])
FACED = torch.tensor([[0.62, 0.63, 0.64]])

# 3 x 5 dots, as tablet presses cut them.
GLYPHS = [
    "111101101101111", "010110010010111", "111001111100111", "111001011001111", "101101111001001",
    "111100111001111", "111100111101111", "111001010010010", "111101111101111", "111101111001111",
    "010101111101101", "110101110101110", "011100100100011", "110101101101110", "111100110100111",
    "111100110100100", "101101111101101", "100100100100111", "101111111101101", "110101110100100",
    "110101110101101", "101101010101101", "111010010010010", "101010010010010",
]  # fmt: skip


def pastel(colour: Tensor, strength: float = 0.45) -> Tensor:
    """A coated powder's colour: near white, tinted. Shape: (b, 3) to (b, 3)."""
    tint = colour / colour.amax(1, keepdim=True)
    return (0.86 - 0.1 * strength) * (1 - strength + strength * tint)


def pill(c: Canvas) -> Surface:
    long, wide = c.p(0, 0.6, 0.86), c.p(1, 0.29, 0.45)
    distance = box(c.x, c.y, long, wide, wide)
    seam = c.x - long * c.p(3, -0.2, 0.2)
    cap = c.step(seam, 1.2)
    distance = distance + 0.018 * (1 - cap)
    bulge = (0.02 - distance).clamp_min(0)
    height = (wide.square() - (wide - bulge).clamp_min(0).square()).clamp_min(0).sqrt()
    ring = 0.012 * c.step((seam - 0.06 - 0.02).abs() - 0.012, 1)
    first = pastel(c.colour, 0.6)
    second = torch.where(c.u[:, 2:3] > 0.35, pastel(c.accent, 0.6), first)
    tone = 1 + 0.012 * hw.mottle(c, 16) - 0.12 * c.step((seam - 0.012).abs() - 0.012, 1)
    albedo = (blend(second, first, cap) * tone[:, None]).clamp(0, 1)
    return Surface(height - ring, albedo, c.step(distance), torch.full_like(height, 0.75))


def imprint(c: Canvas, x: Tensor, y: Tensor, size: Tensor) -> Tensor:
    """A character for each category, from u[4] and u[5]. Shape: (b, h, w) in [0, 1]."""
    dots = torch.tensor([[float(dot) for dot in glyph] for glyph in GLYPHS]).view(-1, 1, 5, 3)
    chosen = ((c.u[:, 4] + c.u[:, 5]) / 2 * (len(GLYPHS) - 1)).round().long()
    stamp = F.interpolate(F.pad(dots[chosen], (1, 1, 1, 1)), scale_factor=4, mode="nearest")
    grid = torch.stack([x / size * (3 / 5), y / size * (5 / 7)], dim=-1)
    return F.grid_sample(stamp, grid, mode="bilinear", align_corners=False)[:, 0]


def tablet(c: Canvas) -> Surface:
    long = c.p(0, 0.6, 0.86)
    wide = long * c.p(1, 0.68, 1.0)
    r = torch.hypot(c.x / long, c.y / wide)
    distance = (r - 1) * wide
    crown = 0.16 * (1 - r.square()).clamp_min(0) + hw.chamfered(distance, 0.07, 0.14)
    scored = hw.when(c, 2, 0.3, 2)
    groove = (0.05 - c.x.abs()).clamp_min(0) * scored
    left = torch.where(scored, c.x + long * 0.48, c.x)
    size = torch.where(scored, long * 0.17, long * 0.26)
    letter = imprint(c, left, c.y, size)
    letter = torch.where(scored, torch.maximum(letter, imprint(c, c.x - long * 0.48, c.y, size)), letter)
    height = crown - 0.8 * groove - 0.022 * letter
    speckle = (hw.mottle(c, 90) - 1.9).clamp(0, 1) * hw.when(c, 3, 0.6, 2)
    base = pastel(c.colour, 0.5)
    tone = 1 + 0.015 * hw.mottle(c, 50) - 0.14 * letter - 2.2 * groove
    albedo = base[:, :, None, None] * tone[:, None]
    albedo = blend(albedo, 0.7 * c.accent, 0.6 * speckle)
    return Surface(height, albedo.clamp(0, 1), c.step(distance), torch.full_like(height, 0.25))


def plate(c: Canvas) -> Surface:
    half_x, half_y = c.p(0, 0.52, 0.7), c.p(1, 0.38, 0.53)
    outline = box(c.x, c.y, half_x, half_y, c.p(2, 0.03, 0.18))
    hole = c.p(3, 0.05, 0.085)
    drill = torch.hypot(c.x.abs() - half_x + 0.16, c.y.abs() - half_y + 0.16)
    slot = box(c.x, c.y, half_x * 0.42, c.p(5, 0.05, 0.14), c.p(5, 0.05, 0.14))
    bored = torch.hypot(c.x, c.y) - c.p(5, 0.1, 0.2)
    window = torch.where(hw.when(c, 4, 0.35, 0.65), slot, bored)
    window = torch.where(hw.when(c, 4, 0.0, 0.35), torch.ones_like(window), window)
    distance = torch.maximum(outline, -torch.minimum(drill - hole, window))
    sink = (hole + 0.045 - drill).clamp_min(0)
    rolled = hw.streaks(c, c.y, 300)
    height = hw.chamfered(distance, 0.03, 0.1) - 1.0 * sink + 0.001 * rolled
    tone = 0.03 * rolled + 0.06 * hw.mottle(c, 3)
    return hw.metal(c, distance, height, tone=tone, shine=0.22, gloss=0.4)


def bottle_rim(c: Canvas) -> Surface:
    r, outer = torch.hypot(c.x, c.y), c.p(0, 0.68, 0.88)
    mouth = outer * c.p(1, 0.42, 0.6)
    wall = outer - mouth
    lip, collar = wall * 0.36, wall * c.p(2, 0.54, 0.7)
    edge = r - mouth
    torus, bead = hw.revolved(lip / 2, edge - lip / 2), hw.revolved(wall * 0.13, edge - collar)
    shoulder = 0.5 * hw.revolved(wall * 0.8, (edge - wall * 0.2).clamp_min(0))
    dark = c.step(edge, 1.5)
    height = torch.maximum(torch.maximum(torus + 0.16, 0.8 * bead + 0.09), shoulder) * (1 - dark)
    turn = hw.draw_one(c, 0, 2 * math.pi)
    facing = (c.x * turn.cos() + c.y * turn.sin()) / (r + 0.02)
    fan = facing.square().square()

    def arc(at: Tensor, width: float, low: float) -> Tensor:
        return (1 - ((edge - at) / width).square()).clamp_min(0) * (low + (1 - low) * fan)

    bright = (
        0.75 * arc(lip * 0.5, 0.022, 0.45)
        + 0.5 * arc(0.03 * wall, 0.02, 0.3)
        + 0.45 * arc(collar, 0.02, 0.15)
    )
    bright = bright + 0.4 * arc(wall - 0.035, 0.02, 0.25) + 0.25 * arc(-0.1 * mouth, 0.018, 0.0)
    glass = torch.lerp(c.colour.mean(1, keepdim=True).expand(-1, 3), c.colour, 0.8) * 0.75
    # Glass is dark where one looks through much of it: at the flanks of lip and bead.
    thick = (edge / lip - 0.5).abs().clamp_max(0.5) + 0.35 * hw.zigzag(edge / wall * c.p(4, 2.0, 3.0))
    bottom = c.step(r - mouth * c.p(3, 0.4, 0.75), 6)
    share = torch.lerp(
        1.05 - 0.6 * thick + 0.2 * facing, 0.1 + 0.2 * bottom + 0.12 * facing * edge / mouth, dark
    )
    albedo = (glass[:, :, None, None] * share[:, None] + bright[:, None]).clamp(0, 1)
    return Surface(height, albedo, c.step(r - outer), 0.95 - 0.75 * dark)


def casting(c: Canvas) -> Surface:
    r, hub, reach = torch.hypot(c.x, c.y), c.p(1, 0.3, 0.42), c.p(0, 0.56, 0.66)
    ears = 2 + (c.u[:, 2] * 2).round()[:, None, None]
    step = 2 * math.pi / ears
    sector = torch.remainder(torch.atan2(c.y, c.x), step) - step / 2
    x, y = r * sector.cos(), r * sector.sin()
    boss, bolt = c.p(3, 0.17, 0.21), c.p(4, 0.065, 0.095)
    ear = torch.hypot(x - reach, y)
    arm = torch.hypot((x - reach).clamp_min(0) + x.clamp_max(0), y) - boss * 0.92
    outline = fillet(torch.minimum(arm, ear - boss), r - hub - 0.09, 0.3)
    bore = hub * c.p(5, 0.4, 0.68)
    distance = torch.maximum(outline, -torch.minimum(ear - bolt, r - bore))
    faced = torch.maximum(c.step(r - hub, 1), c.step(ear - boss * 0.82, 1))
    raised = torch.maximum(
        0.16 * (-(r - hub) / 0.06).clamp(0, 1), 0.07 * (-(ear - boss * 0.86) / 0.04).clamp(0, 1)
    )
    rib = 0.09 * (1 - y.abs() / 0.05).clamp(0, 1) * (x < reach)
    sand = hw.mottle(c, 80) + 0.7 * hw.mottle(c, 30)
    rough = 1 - faced
    base = 0.1 * (1 - (1 + distance / 0.1).clamp(0, 1).square())
    height = base + torch.maximum(raised, rib) + 0.006 * sand * rough
    marks = hw.streaks(c, torch.minimum(r, ear + 0.5))
    iron = c.colour.mean(1, keepdim=True) * 0.8 + 0.2 * c.colour
    painted = torch.where(c.u[:, 5:6] > 0.8, c.colour, 0.12 + 0.6 * iron)
    tone = 1 + 0.06 * sand * rough
    albedo = blend(painted, FACED, faced * 0.85)
    albedo = albedo * (tone + 0.05 * marks * faced + 0.1 * faced * hw.bow_tie(c, r))[:, None]
    return Surface(height, albedo.clamp(0, 1), c.step(distance), 0.12 + 0.4 * faced)


def lattice(x: Tensor, y: Tensor, pitch: Tensor) -> Tensor:
    """Distance to the nearest point of a hexagonal lattice: bundled strands."""
    high = pitch * math.sqrt(3)

    def nearest(dx: Tensor, dy: Tensor) -> Tensor:
        wx = torch.remainder(dx + pitch / 2, pitch) - pitch / 2
        return torch.hypot(wx, torch.remainder(dy + high / 2, high) - high / 2)

    return torch.minimum(nearest(x, y), nearest(x - pitch / 2, y - high / 2))


def cable(c: Canvas) -> Surface:
    r, outer = torch.hypot(c.x, c.y), c.p(0, 0.64, 0.88)
    core = outer * c.p(1, 0.375, 0.42)
    ring = core * 1.16 + 0.005
    turn = hw.draw_one(c, 0, 2 * math.pi)
    near = torch.full_like(r, 9.0)
    lx, ly, which = near, near, torch.zeros_like(r)
    for wire in range(3):
        dx, dy = c.x - ring * torch.cos(turn + wire * 2.0944), c.y - ring * torch.sin(turn + wire * 2.0944)
        d = torch.hypot(dx, dy)
        closer = d < near
        near, lx, ly = torch.minimum(d, near), torch.where(closer, dx, lx), torch.where(closer, dy, ly)
        which = torch.where(closer, float(wire), which)
    bundle = core * c.p(2, 0.58, 0.7)
    pitch = bundle * c.p(3, 0.3, 0.42)
    wobble = 0.012 * hw.mottle(c, 14)
    strand = lattice(lx + wobble, ly - wobble, pitch) - pitch * 0.47
    copper = c.step(near - bundle, 1)
    insulated = c.step(near - core, 1) * (1 - copper)
    cavity = outer * 0.92
    sheath = c.step(cavity - r, 1)
    domes = hw.revolved(pitch * 0.5, (strand + pitch * 0.47))
    height = copper * (0.1 + 1.1 * domes) + insulated * 0.13 + sheath * 0.14
    height = height + 0.004 * hw.mottle(c, 60) * (1 - copper) - hw.chamfered(-(r - outer + 0.03), 0.03, 0.05)
    metal = torch.where(c.u[:, 4:5] > 0.75, TINNED, COPPER)
    coats = 0.75 * CORES + 0.25 * torch.stack([c.accent, c.accent.roll(1, 1), c.accent.flip(1)], 1)
    jacket = c.colour * 0.4 + 0.6 * c.colour.mean(1, keepdim=True)
    albedo = blend(torch.full_like(jacket, 0.1), jacket, sheath)
    for wire in range(3):
        albedo = blend(albedo, coats[:, wire], insulated * (which == wire))
    cut = 0.75 + 0.4 * (-strand / (pitch * 0.3)).clamp(-1, 1) + 0.06 * hw.mottle(c, 40)
    albedo = blend(albedo, metal[:, :, None, None] * cut[:, None], copper).clamp(0, 1)
    return Surface(height, albedo, c.step(r - outer), 0.15 + 0.5 * copper)


def connector(c: Canvas) -> Surface:
    half_x, half_y = c.p(0, 0.52, 0.72), c.p(1, 0.25, 0.34)
    pins = (4 + (c.u[:, 2] * 4).round())[:, None, None]
    pitch = 1.8 * half_x / pins
    y = c.y + 0.15
    place = (c.x / pitch + pins / 2 - 0.5).round().clamp_min(0).minimum(pins - 1)
    x = c.x - (place - pins / 2 + 0.5) * pitch
    body = box(c.x, y, half_x, half_y, 0.03 * torch.ones_like(half_x))
    latch = box(c.x, y + half_y, half_x * 0.3, 0.05 + 0 * half_x, 0.02 + 0 * half_x)
    latch = torch.where(hw.when(c, 4, 0.5, 2), latch, body)
    housing = torch.minimum(body, latch)
    half_pin = pitch * 0.2
    pin = box(x, y - half_y - 0.1, half_pin, 0.2 + 0 * pitch, 0.4 * half_pin)
    window = box(x, y + half_y * 0.15, pitch * 0.34, half_y * 0.52, 0.02 + 0 * pitch)
    contact = box(x, y + half_y * 0.15, pitch * 0.13, half_y * 0.4, 0.01 + 0 * pitch)
    open_ = c.step(window, 1)
    inside_metal = c.step(contact, 1)
    legs = c.step(pin, 1) * c.step(-housing, 1)
    ledge = 0.03 * c.step((y - half_y * 0.78).abs() - 0.02, 1)
    block = hw.chamfered(housing, 0.035, 0.24) - ledge - 0.16 * open_ + 0.05 * inside_metal
    height = torch.where(housing < 0, block, hw.chamfered(pin, 0.5 * half_pin, 0.07))
    lead = torch.where(c.u[:, 5:6] > 0.5, GOLD, TINNED)
    plastic = torch.lerp(c.colour.mean(1, keepdim=True).expand(-1, 3), c.colour, 0.6) * (
        0.35 + 0.65 * (c.u[:, 3:4] > 0.5)
    )
    tone = 1 + 0.02 * hw.mottle(c, 50) - 0.55 * open_
    metal = torch.maximum(legs, inside_metal * 0.9)
    shine = 0.8 + 0.25 * hw.lustre(c, height) + 0.1 * hw.mottle(c, 24)
    moulded = plastic[:, :, None, None] * tone[:, None]
    albedo = blend(moulded, lead[:, :, None, None] * shine[:, None], metal).clamp(0, 1)
    return Surface(height, albedo, c.step(torch.minimum(housing, pin)), 0.3 + 0.4 * metal)


OBJECTS: dict[str, Callable[[Canvas], Surface]] = {
    "washer": hw.washer,
    "nut": hw.nut,
    "gear": hw.gear,
    "pill": pill,
    "plate": plate,
    "screw head": hw.screw_head,
    "bottle rim": bottle_rim,
    "threaded rod": hw.threaded_rod,
    "screw": hw.screw,
    "casting": casting,
    "cable": cable,
    "bearing": hw.bearing,
    "turned part": hw.turned_part,
    "connector": connector,
    "tablet": tablet,
    "spring": hw.spring,
}
