"""From kind, defect and seed to lit pictures with exact masks."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dual_anodiff.procedural import camera, defects, parts
from dual_anodiff.procedural.surface import Canvas, Surface


@dataclass(frozen=True)
class Look:
    """What all pictures of one category share. Shape: u (b, 6) in [0, 1]; colours (b, 3) in [0, 1]."""

    u: Tensor
    colour: Tensor
    accent: Tensor
    table: Tensor


@dataclass(frozen=True)
class Drawn:
    """Shape: image (b, 3, h, w) in [-1, 1]; mask (b, 1, h, w) bool."""

    image: Tensor
    mask: Tensor
    sound: Surface
    exposure: camera.Exposure

    @property
    def normal(self) -> Tensor:
        """The same exposure without the defect, rendered when asked for. Shape: (b, 3, h, w) in [-1, 1]."""
        return camera.render(self.sound, self.exposure)


def random_look(b: int, generator: torch.Generator, shape_range: tuple[float, float]) -> Look:
    """Draw b categories' looks; `shape_range` bounds the first two shape parameters (see `parts`)."""
    u = torch.rand(b, parts.NUM_PARAMETERS, generator=generator)
    low, high = shape_range
    u[:, :2] = low + (high - low) * u[:, :2]

    def colour(saturation: float) -> Tensor:
        hue = torch.rand(b, 1, generator=generator)
        value = 0.25 + 0.6 * torch.rand(b, 1, generator=generator)
        s = saturation * torch.rand(b, 1, generator=generator)
        wheel = 0.5 + 0.5 * torch.cos(2 * math.pi * (hue + torch.tensor([0.0, 1 / 3, 2 / 3])))
        return value * (1 - s + s * wheel)

    return Look(u, colour(0.7), colour(0.9), colour(0.3) * torch.rand(b, 1, generator=generator).add(0.15))


def draw(
    kind: str,
    defect: str | None,
    look: Look,
    generator: torch.Generator,
    *,
    size_px: int = 128,
    max_turn: float = math.pi,
    zoom_range: tuple[float, float] = (0.94, 1.06),
    max_shift: float = 0.06,
    size_range: tuple[float, float] = defects.PRETRAIN_SIZE,
) -> Drawn:
    """Draw one picture for each row of `look`; `defect` None draws good parts with an empty mask.

    Units: `max_turn` radians either way, `max_shift` and `size_range` (the defect's radius) half picture widths.
    Raises: KeyError for a kind or defect that is not in `parts.KINDS` or `defects.DEFECTS`.
    """
    b = look.u.shape[0]
    axis = (torch.arange(size_px) + 0.5) / size_px * 2 - 1
    gy, gx = torch.meshgrid(axis, axis, indexing="ij")

    def one(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(b, 1, 1, generator=generator)

    turn, zoom = one(-max_turn, max_turn), one(*zoom_range)
    x, y = (gx - one(-max_shift, max_shift)) / zoom, (gy - one(-max_shift, max_shift)) / zoom
    canvas = Canvas(
        x * turn.cos() + y * turn.sin(),
        y * turn.cos() - x * turn.sin(),
        look.u,
        look.colour,
        look.accent,
        generator,
    )
    sound = parts.KINDS[kind](canvas)
    exposure = camera.random_exposure(b, size_px, look.table, generator)
    if defect is None:
        image = camera.render(sound, exposure)
        return Drawn(image, torch.zeros(b, 1, size_px, size_px, dtype=torch.bool), sound, exposure)
    where = defects.place(sound, size_range, generator)
    damaged, region = defects.DEFECTS[defect](sound, where)
    return Drawn(camera.render(damaged, exposure), (region > 0.5)[:, None], sound, exposure)
