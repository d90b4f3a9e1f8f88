"""Light, lens and sensor: from a surface to a picture."""

import math
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dual_anodiff.procedural.noise import fractal_noise, value_noise
from dual_anodiff.procedural.surface import Surface

BLUR_TAPS = 3  # to either side: enough for the widest blur, sigma 1.1 px


@dataclass(frozen=True)
class Exposure:
    """One exposure: drawn once, so that a picture with and without its defect differ in the defect alone.

    Shape: sun and blur hold (b, 1, 1) numbers; table, grain (b, 3, h, w); falloff (b, h, w); tint (b, 3, 1, 1).
    Units: `sun` is the unit vector to the key light, `blur` sigma in px across and along, `quality` JPEG's 1 to 100.
    """

    sun: tuple[Tensor, Tensor, Tensor]
    ambient: Tensor
    key: Tensor
    ring: Tensor
    occlusion: Tensor
    shadow: Tensor
    falloff: Tensor
    tint: Tensor
    gamma: Tensor
    table: Tensor
    blur: tuple[Tensor, Tensor]
    grain: Tensor
    shot_noise: Tensor
    quality: Tensor


def random_exposure(b: int, size_px: int, table: Tensor, generator: torch.Generator) -> Exposure:
    """Draw lamp, lens and sensor. Shape: table (b, 3), its colour in [0, 1]."""

    def one(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(b, 1, 1, generator=generator)

    turn, tilt = one(0, 2 * math.pi), one(0.55, 1.15)
    ring = one(0, 1).square()
    sigma = one(0.3, 0.8)
    belt = 0.08 * one(0, 1).square() * fractal_noise(b, size_px, 8, 3, generator)
    return Exposure(
        sun=(turn.cos() * tilt.cos(), turn.sin() * tilt.cos(), tilt.sin()),
        ambient=one(0.3, 0.5),
        key=0.75 * (1 - ring),
        ring=0.6 * ring,
        occlusion=one(1, 5),
        shadow=one(0.15, 0.5),
        falloff=one(0.02, 0.12) * value_noise(b, size_px, (2, 2), generator),
        tint=torch.stack([one(0.95, 1.05), torch.ones(b, 1, 1), one(0.95, 1.05)], dim=1) * one(0.85, 1.2)[:, None],
        gamma=one(0.85, 1.15)[:, None],
        table=table[:, :, None, None] * (1 + belt)[:, None],
        blur=(sigma, sigma * one(1, 1.4)),
        grain=torch.randn(b, 3, size_px, size_px, generator=generator) * one(0.003, 0.015)[:, None],
        shot_noise=one(0, 1)[:, None],
        quality=torch.randint(55, 100, (b,), generator=generator),
    )  # fmt: skip


def render(s: Surface, e: Exposure) -> Tensor:
    """Light the surface and photograph it. Shape: (b, 3, h, w) in [-1, 1]."""
    picture = _shade(s, e) * (1 + e.falloff)[:, None] * e.tint
    picture = _blur(picture, e.blur).clamp(1e-3, 1) ** e.gamma
    # Photon noise grows with the root of the light, the sensor's own does not.
    noisy = picture + e.grain * (1 + e.shot_noise * (picture.sqrt() - 1))
    return _jpeg(noisy.clamp(0, 1), e.quality) / 127.5 - 1


def _shade(s: Surface, e: Exposure) -> Tensor:
    """Lambert shading of a key light and a ring light, Blinn's highlight, occlusion in hollows, shadow on the table.

    Shape: (b, 3, h, w), about [0, 1].
    """
    per_px = s.height.shape[-1] / 2
    padded = F.pad(s.height[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    nx = (padded[:, 1:-1, :-2] - padded[:, 1:-1, 2:]) * (per_px / 2)
    ny = (padded[:, :-2, 1:-1] - padded[:, 2:, 1:-1]) * (per_px / 2)
    norm = (nx.square() + ny.square() + 1).rsqrt()
    lx, ly, lz = e.sun
    facing = nx * lx + ny * ly
    diffuse = ((facing + lz) * norm).clamp_min(0)
    half = (lx.square() + ly.square() + (lz + 1).square()).sqrt()
    cosine = ((facing + lz + 1) * norm / half).clamp(1e-3, 1)
    highlight = torch.exp(torch.log(cosine) * (12 + 90 * s.gloss))
    hollow = F.avg_pool2d(s.height[:, None], 9, stride=1, padding=4, count_include_pad=False)[:, 0] - s.height
    light = (e.ambient * torch.exp(-e.occlusion * hollow.clamp(0, 0.3)) + e.key * diffuse + e.ring * norm)[
        :, None
    ]
    # The sun's highlight is a point, the ring's an even sheen on what faces the lens.
    lit = s.albedo * light + (s.gloss * (0.4 * e.key * highlight + 0.12 * e.ring * norm**8))[:, None]
    inside = s.inside[:, None]
    table = e.table * (0.95 - e.shadow * _cast(inside, e)[:, 0])[:, None]
    return table + (lit - table) * inside


def _cast(inside: Tensor, e: Exposure) -> Tensor:
    """The part's soft shadow, some pixels away from the light. Shape: (b, 1, h, w)."""
    b = inside.shape[0]
    to_light = torch.stack([e.sun[0].view(b), e.sun[1].view(b)], dim=1) * 0.12
    shift = torch.eye(2, 3).repeat(b, 1, 1)
    shift[:, :, 2] = to_light
    grid = F.affine_grid(shift, [b, 1, *inside.shape[-2:]], align_corners=False)
    moved = F.grid_sample(inside, grid, padding_mode="border", align_corners=False)
    return F.avg_pool2d(moved, 7, stride=1, padding=3)


def _blur(picture: Tensor, sigma: tuple[Tensor, Tensor]) -> Tensor:
    """Gaussian blur, each picture with its own sigma across and along. Shape: (b, 3, h, w)."""
    for axis, s in zip((-1, -2), sigma, strict=True):
        size = picture.shape[axis]
        pad = (BLUR_TAPS, BLUR_TAPS, 0, 0) if axis == -1 else (0, 0, BLUR_TAPS, BLUR_TAPS)
        padded = F.pad(picture, pad, mode="replicate")
        taps = [torch.exp(-(t**2) / (2 * s.square()))[:, None] for t in range(-BLUR_TAPS, BLUR_TAPS + 1)]
        total = torch.stack(taps).sum(0)
        picture = torch.zeros_like(picture)
        for i, tap in enumerate(taps):
            picture = torch.addcmul(picture, padded.narrow(axis, i, size), tap / total)
    return picture


def _jpeg(picture: Tensor, quality: Tensor) -> Tensor:
    """Through JPEG and back. Shape: (b, 3, h, w) in [0, 1] → the same in 0..255, float."""
    frames = (picture * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    for frame, q in zip(frames, quality.tolist(), strict=True):
        file = BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=q)
        frame[:] = np.asarray(Image.open(file))
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float()
