"""Defects drawn onto photographs: the same relief, light and lens as on drawn parts; the photograph's own pixels stay.

A photograph is taken for the colour of a flat surface. That surface is rendered with and without the defect, in one
exposure, and the difference is added to the photograph: around the defect it is as the camera saw it, grain and all.
"""

import torch
from torch import Tensor

from dual_anodiff.procedural import camera, defects
from dual_anodiff.procedural.surface import Surface

# Those that need no outline, weave or sheet of their own.
DEFECTS = ("scratch", "crack", "dent", "hole", "stain", "paint", "contamination", "chip", "glue")
GREY_SHARE = 0.4  # of the photographs: most cameras of inspection lines see grey alone


def draw_onto(photographs: Tensor, defect: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw one defect onto each photograph. Shape: (b, 3, s, s) in [-1, 1] → the same, and masks (b, 1, s, s) bool.

    Raises: KeyError for a defect that is not in `defects.DEFECTS`.
    """
    b, _, size_px, _ = photographs.shape
    albedo = (photographs + 1) / 2
    flat = torch.zeros(b, size_px, size_px)
    gloss = flat + 0.4 * torch.rand(b, 1, 1, generator=generator)
    sound = Surface(flat, albedo, torch.ones_like(flat), gloss)
    exposure = camera.random_exposure(b, size_px, torch.zeros(b, 3), generator)
    damaged, region = defects.DEFECTS[defect](sound, defects.place(sound, defects.PRETRAIN_SIZE, generator))
    difference = camera.render(damaged, exposure) - camera.render(sound, exposure)
    return (photographs + difference).clamp(-1, 1), (region > 0.5)[:, None]


def relight(photographs: Tensor, generator: torch.Generator) -> Tensor:
    """Another lamp and camera: grey or not, contrast, brightness, a slope of light. Shape: (b, 3, s, s) in [-1, 1]."""
    b, _, size_px, _ = photographs.shape

    def one(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(b, 1, 1, 1, generator=generator)

    picture = (photographs + 1) / 2
    grey = (one(0, 1) < GREY_SHARE).float()
    picture = torch.lerp(picture, picture.mean(1, keepdim=True).expand_as(picture), grey)
    mean = picture.mean((1, 2, 3), keepdim=True)
    # Inspection lines are lit so that sound surfaces are calm: contrast is lowered more often than raised.
    picture = (picture - mean) * one(0.4, 1.2) + mean * one(0.7, 1.15)
    axis = torch.linspace(-1, 1, size_px)
    slope = one(-0.12, 0.12) * axis + one(-0.12, 0.12) * axis[:, None]
    return (picture * (1 + slope)).clamp(0, 1) * 2 - 1
