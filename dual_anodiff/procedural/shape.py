"""Damage to the outline of an object: burrs, bites, lost and bent pieces."""

from dataclasses import replace

import torch
from torch import Tensor

from dual_anodiff.procedural.place import (
    Place,
    across,
    at_end,
    contrasting,
    moved,
    nearby,
    on_outline,
    rough_field,
    tint,
)
from dual_anodiff.procedural.surface import Surface, warp


def burr(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """Thin ragged material that stands out of the outline."""
    p = on_outline(s, p)
    long = 1.3 * p.size + 2 * p.px
    teeth = p.curve(2.5 * p.y).abs()
    out = p.size * p.uniform(0.3, 0.5) + 2.5 * p.px
    window = (1.6 * (1 - (p.y / long).square())).clamp(0, 1) * (1 - (p.x / (2 * out)).square()).clamp(
        0, 1
    ).sqrt()
    dx, dy = across(p, out * (0.35 + 0.6 * teeth).clamp_max(1.0) * window, torch.zeros_like(p.x))
    grown = moved(torch.cat([s.inside[:, None], s.albedo], 1), dx, dy)
    inside = torch.maximum(s.inside, grown[:, 0])
    new = (inside - s.inside).clamp(0, 1)
    light = contrasting(nearby(s, p), p, 0.3, 0.8)
    colour = light * (grown[:, 1:] * 0.5 + 0.42) + (1 - light) * grown[:, 1:] * 0.5
    foil = 0.02 + 0.012 * p.ragged + 0.02 * teeth
    return Surface(
        height=torch.lerp(s.height, foil, new),
        albedo=tint(s.albedo, colour.clamp(0, 1), (2 * new).clamp_max(1)),
        inside=inside,
        gloss=torch.lerp(s.gloss, p.uniform(0.2, 0.8), new),
    ), (grown[:, 0] > 0.4).float() * (2.2 * new).clamp(0, 1)


def broken_edge(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """A rough bite out of the outline, with a face of fractured material."""
    p = on_outline(s, p)
    rough = rough_field(p.b, p.size_px, 14, 2, p.generator)
    wide = p.uniform(0.9, 1.4)
    facet = torch.maximum((p.x / 0.95 + 0.4 * p.y).abs(), torch.hypot(p.x * wide.sqrt(), p.y / wide))
    distance = facet - p.size * (1.0 + 0.16 * p.ragged + 0.1 * rough)
    return _broken(s, p, distance, p.uniform(2.0, 4.5) * p.px + 0.08 * p.size, rough)


def missing_part(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """A whole end of the part is gone, cut straight or to a wedge."""
    p = at_end(s, p, 2.0 * p.size, 2)
    wedge = p.chance(0.4) * p.uniform(0.15, 0.6) * (p.y.square() + 0.002).sqrt()
    distance = wedge + p.uniform(0.0, 0.02) * p.curve(p.y) - p.x
    return _broken(s, p, distance / (1 + wedge.square()).sqrt(), 1.5 * p.px, 0.3 * p.ragged)


def bent(s: Surface, p: Place) -> tuple[Surface, Tensor]:
    """An end of the part pushed aside and up."""
    p = at_end(s, p, 2.3 * p.size, 6)
    curl = p.size * p.uniform(0.4, 1.2)
    ramp = torch.where(p.x < curl, p.x.clamp_min(0).square() / (2 * curl), p.x - curl / 2)
    aside = p.sign() * p.uniform(0.35, 0.65) * ramp
    dx, dy = across(p, torch.zeros_like(aside), aside)
    laid = warp(s, dx, dy)
    far = p.soft(1.2 * p.px - aside.abs())
    height = laid.height + p.uniform(0.35, 0.7) * ramp * laid.inside
    return replace(laid, height=height), far * torch.maximum(s.inside, laid.inside)


def _broken(
    s: Surface, p: Place, distance: Tensor, face: Tensor | float, rough: Tensor
) -> tuple[Surface, Tensor]:
    """Nothing left where the distance is below -face; down to there a face of bare material falls to the table."""
    region, gone = p.soft(distance), p.soft(distance + face)
    down = (-distance / face).clamp(0, 1)
    around = nearby(s, p).mean(1, keepdim=True)
    light = contrasting(around, p, 0.25, 0.7)
    bare = (light * (around * 0.5 + 0.4) + (1 - light) * around * 0.35) * (1 + 0.2 * rough)[:, None]
    low = s.height * (1 - down) + 0.02 * rough * region
    return Surface(
        height=low,
        albedo=tint(s.albedo, bare.clamp(0, 1), 0.85 * region),
        inside=s.inside * (1 - gone),
        gloss=s.gloss * (1 - 0.8 * region),
    ), region
