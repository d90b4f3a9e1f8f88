"""Random changes of training pictures with their masks: where the camera stood, how it was lit, how sharp it was."""

import torch
import torch.nn.functional as F
from kornia.enhance import adjust_contrast_with_mean_subtraction, adjust_gamma
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import get_perspective_transform, warp_perspective
from torch import Tensor

from downstream.config import AugmentConfig

# Numbers drawn for each picture, whatever is switched on: a value and a chance for each change.
DRAWS = 30
CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
# A mask is sampled this many times finer a side, and a cell counts if one of its samples does: shrunk or turned, a
# crack one pixel wide would else fall between samples.
FINER = 2
# A sample counts from this share of defect, or from half of the picture's highest: a lone pixel that falls between
# samples has no more in any of them. Below the least share it has left the picture.
MASK_SHARE, LEAST_SHARE = 0.5, 0.05


def augment(
    images: Tensor, masks: Tensor, config: AugmentConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Move each picture with its mask, and change the picture's light and sharpness.

    An option that is "auto" still is off. All draws are made for every picture, used or not, so that switching one
    change off leaves the others' draws alone. Pictures are resampled once, their borders filled by reflection: a black
    corner would be a defect. The generator is the CPU's, whatever device the pictures are on.

    Shape: images (b, 3, s, s) float 0..1, masks (b, 1, s, s) of 0 and 1; the same out.
    """
    draws = torch.rand((len(images), DRAWS), generator=generator).to(images.device)
    grain = torch.randn((len(images), 1, *images.shape[-2:]), generator=generator).to(images.device)
    config = config.settled({})
    moved = moved_corners(draws[:, :20], config)
    if not torch.equal(moved, draws.new_tensor(CORNERS).expand_as(moved)):
        images, masks = _warped(images, masks, moved)
    return _relit(images, draws[:, 20:], grain, config), masks


def moved_corners(draws: Tensor, config: AugmentConfig) -> Tensor:
    """Where a picture's four corners go, clockwise from the upper left: all that moves a picture, in one.

    `config` is settled: no option is "auto".
    Shape: draws (b, 20) of 0..1 → (b, 4, 2) as x, y. Units: half a picture's side from its centre, y down.
    """
    left_right, top_bottom, quarter, turned, angle, scaled, size, shifted, x, y, seen, *_ = draws.unbind(1)
    used = config.probability
    corners = draws.new_tensor(CORNERS).expand(len(draws), 4, 2)
    # In and out alike, so that a picture keeps its size in the mean.
    aslant = (2 * draws[:, 11:19].unflatten(1, (4, 2)) - 1) * 2 * config.perspective
    corners = corners + aslant * (seen < used)[:, None, None]
    mirrored = torch.stack([left_right, top_bottom], dim=1) < 0.5
    mirrored &= mirrored.new_tensor([bool(config.horizontal_flip), bool(config.vertical_flip)])
    corners = corners * (1 - 2 * mirrored.float())[:, None]
    degrees = (2 * angle - 1) * float(config.rotation) * (turned < used)
    radians = torch.deg2rad(degrees + 90 * (4 * quarter).floor() * bool(config.rotate90))
    factor = torch.where(scaled < used, (1 + config.scale) ** (2 * size - 1), 1.0)
    sine, cosine = factor * radians.sin(), factor * radians.cos()
    matrix = torch.stack([cosine, -sine, sine, cosine], dim=1).unflatten(1, (2, 2))
    shift = (2 * torch.stack([x, y], dim=1) - 1) * 2 * config.shift * (shifted < used)[:, None]
    return torch.einsum("bij,bcj->bci", matrix, corners) + shift[:, None]


def _warped(images: Tensor, masks: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    side = images.shape[-1]
    last = side - 1
    # Between the outer pixels' centres; kornia's coordinates count from them.
    source = corners.new_tensor(CORNERS).double().expand_as(corners)
    homography = get_perspective_transform((source + 1) / 2 * last, (corners.double() + 1) / 2 * last)
    images = warp_perspective(images, homography.to(images), (side, side), padding_mode="reflection")
    centre = (FINER - 1) / 2  # of a cell, in samples
    finer = homography.new_tensor([[FINER, 0, centre], [0, FINER, centre], [0, 0, 1]])
    size = (side * FINER, side * FINER)
    share = warp_perspective(
        masks.to(images), (finer @ homography).to(images), size, padding_mode="reflection"
    )
    share = F.max_pool2d(share, FINER)
    counts = share >= (share.amax((1, 2, 3), keepdim=True) / 2).clamp(LEAST_SHARE, MASK_SHARE)
    return images, counts.to(masks)


def _relit(images: Tensor, draws: Tensor, grain: Tensor, config: AugmentConfig) -> Tensor:
    """Brightness, contrast, gamma, blur, noise, in this order: light falls on a part before a sensor adds noise.

    Shape: draws (b, 10), grain (b, 1, s, s), the same in all channels, so that a grey picture stays grey.
    """
    chances, values = draws[:, :5], draws[:, 5:]
    bright, contrast, gamma, blur, noise = (chances < config.probability).unbind(1)
    way = (2 * values - 1).unbind(1)
    if config.brightness:
        factor = 1 + config.brightness * way[0] * bright
        images = (images * factor[:, None, None, None]).clamp(0, 1)
    if config.contrast:
        images = adjust_contrast_with_mean_subtraction(images, 1 + config.contrast * way[1] * contrast)
    if config.gamma:
        images = adjust_gamma(images, torch.where(gamma, (1 + config.gamma) ** way[2], 1.0))
    if config.blur and blur.any():
        sigma = (config.blur * values[blur, 3]).clamp(min=0.05)  # 0.05 blurs nothing, 0 divides by itself
        reach = 2 * int(2 * config.blur + 0.5) + 1
        images = images.clone()
        images[blur] = gaussian_blur2d(images[blur], (max(3, reach),) * 2, sigma[:, None].expand(-1, 2))
    if config.noise:
        strength = config.noise * values[:, 4] * noise
        images = (images + grain * strength[:, None, None, None]).clamp(0, 1)
    return images
