"""Which pixels of a category's pictures are object: a small pixel classifier that learns it from the border inwards.

The border of a picture shows background, if there is one. What is unlike the border is object at first; a classifier
trained on that, over all normals, then says it better than any one picture does. Its edges are drawn by GrabCut.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.filters import threshold_otsu
from torch import Tensor, nn

from dual_anodiff.images import to_pil
from dual_anodiff.quality.features import Features

RING = 0.06  # width of the border that is taken for background, picture widths
STEM_CHANNELS = 8
HIDDEN = 16
SAMPLES = 400  # pixels of each class, of each picture
TRAIN_STEPS = 200
# One odd pixel must not outweigh where objects always are: a defect makes no hole, a stain on the table no object.
MAX_LOGIT = 3.0
# The classifier sees 7 px across and more by scaling, so its edge lies too far out; GrabCut may move it so far.
INWARD, OUTWARD = 6 / 128, 2 / 128
NOTHING = 0.005  # of the picture: so little object is none
SMALLEST_PART = 0.25  # of the largest part; what is smaller is a speck

EIGHT = np.ones((3, 3), dtype=bool)  # neighbours of a pixel

Mask = NDArray[np.bool_]
Weights = tuple[Tensor, Tensor, Tensor, Tensor]  # shapes: see PixelModel


@dataclass(frozen=True)
class PixelModel:
    """Features' scale, a two-layer classifier, and where the object usually is.

    Shape: basis (c, 8); mean, spread (12,); w1 (12, 16), b1 (16,), w2 (16,), b2 (); prior (px, px), log-odds.
    """

    basis: Tensor
    mean: Tensor
    spread: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    prior: Tensor


@dataclass(frozen=True)
class _Scaled:
    """Features of many pictures in units of their spread. Shape: values (b, 12, px, px)."""

    values: Tensor
    basis: Tensor
    mean: Tensor
    spread: Tensor


def fit_pixels(images: Tensor, seed: int, masks: Tensor | None = None) -> PixelModel:
    """Learn object and background from normals alone, or from their masks. Shape: (b, 3, px, px), (b, px, px) bool."""
    generator = torch.Generator().manual_seed(seed)
    scaled = _scaled(images)
    values = scaled.values
    if masks is None:
        weights = _learn(values, generator)
        odds = _odds(values, weights)
        share = odds.clamp(-MAX_LOGIT, MAX_LOGIT).sigmoid().sum(0)
    else:
        weights = _train(values, masks.float(), generator)
        share = masks.float().sum(0)
    blurred = torch.from_numpy(ndimage.gaussian_filter(share.numpy(), 2, mode="nearest"))
    # Laplace's rule of succession: few pictures make a weak prior.
    prior = (blurred + 1) / (len(images) + 2)
    return PixelModel(scaled.basis, scaled.mean, scaled.spread, *weights, prior=prior.logit())


def pixel_mask(model: PixelModel, image: Tensor) -> Mask:
    """The object's mask: classifier and place together, holes filled, specks dropped, its edge drawn by GrabCut.

    Shape: (3, px, px) in [-1, 1] → (px, px).
    """
    values = _standard(_features(image[None], _stem(image[None]), model.basis), model.mean, model.spread)
    odds = _odds(values, (model.w1, model.b1, model.w2, model.b2))[0]
    coarse = tidy(((odds.clamp(-MAX_LOGIT, MAX_LOGIT) + model.prior) > 0).numpy())
    if not coarse.any():
        coarse = (model.prior > 0).numpy()  # nothing seen, a part may be missing: where it would be
    return tidy(_draw_edge(image, coarse))


def border_ratio(images: Tensor, seed: int) -> float:
    """How often the border looks like object, relative to the inside: near 0 with an object, near 1 on a texture.

    The classifier is learnt on every other picture and asked on those between, so that what it says of a border is
    not learnt by heart. Lamp and lens are taken out before: a vignette is no object. Of the two pairs of opposite
    borders the emptier one counts, since a strip may run from border to border.

    Shape: (b ≥ 4, 3, px, px) in [-1, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    values = _scaled(flat_lit(images)).values
    found = torch.empty(len(values), *values.shape[2:])
    for first in (0, 1):
        found[1 - first :: 2] = _odds(values[1 - first :: 2], _learn(values[first::2], generator))
    x, y = _grid(values.shape[-1])
    edge = 1 - 2 * RING
    share = (found > 0).float().mean(0)
    sides, ends = share[x.abs() > edge].mean(), share[y.abs() > edge].mean()
    inside = share[torch.maximum(x.abs(), y.abs()) < 0.8].mean()
    return float(torch.minimum(sides, ends) / inside) if inside > NOTHING else 1.0


def flat_lit(images: Tensor) -> Tensor:
    """Divide each picture by the quadratic surface that fits its logarithmic brightness. Shape: (b, 3, px, px)."""
    px = images.shape[-1]
    x, y = (t.flatten() for t in _grid(px))
    terms = torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y], dim=1)
    light = (images + 1) / 2 + 0.02
    brightness = light.mean(1).log().flatten(1)
    fitted = brightness @ torch.linalg.pinv(terms).T @ terms.T
    fitted = (fitted - fitted.mean(1, keepdim=True)).view(-1, 1, px, px)
    return ((light * (-fitted).exp() - 0.02) * 2 - 1).clamp(-1, 1)


def tidy(mask: Mask) -> Mask:
    """Fill holes and drop specks, 8-connected. Shape: (h, w)."""
    filled = ndimage.binary_fill_holes(mask)
    labels, count = ndimage.label(filled, structure=EIGHT)
    if count < 2:
        return np.asarray(filled, dtype=bool)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    return np.asarray((areas >= SMALLEST_PART * areas.max())[labels] & filled)


def joined(mask: Mask, defect: Mask) -> Mask:
    """The object with those parts of a defect that touch it, holes filled. Shape: (h, w)."""
    labels, _ = ndimage.label(mask | defect, structure=EIGHT)
    return np.asarray(ndimage.binary_fill_holes(np.isin(labels, labels[mask])))


def _learn(values: Tensor, generator: torch.Generator) -> Weights:
    """From the border's distribution to a classifier: trained on what is far from it, then on what it says itself."""
    px = values.shape[-1]
    ring = _ring(px)
    distance = _distance(values, _draw(values, ring.expand(len(values), px, px), generator))
    unlike = distance > float(threshold_otsu(distance.numpy().ravel()))
    labels = torch.full_like(distance, 0.5)  # what is neither clearly like the border nor clearly unlike
    labels[distance < float(np.quantile(distance[~unlike].numpy(), 0.7))] = 0
    if unlike.any():
        labels[distance > float(np.quantile(distance[unlike].numpy(), 0.3))] = 1
    labels[:, ring] = 0
    labels = _odds(values, _train(values, labels, generator)).sigmoid()
    return _train(values, labels, generator)


def _distance(values: Tensor, border: Tensor) -> Tensor:
    """Logarithm of the squared Mahalanobis distance from the border's pixels. Shape: (b, d, h, w), (n, d) → (b, h, w)."""
    kept = border
    for _ in range(2):  # an object may reach the border: the farthest 15 % do not count
        centre = kept.median(0).values
        spread = (kept - centre).T @ (kept - centre) / len(kept)
        ridge = 0.05 * spread.diagonal().diag() + 1e-3 * torch.eye(len(spread))
        inverse = torch.linalg.inv(spread + ridge)
        away = border - centre
        squared = (away @ inverse * away).sum(1)
        kept = border[squared <= squared.kthvalue(round(0.85 * len(squared))).values]
    away = values.movedim(1, -1) - centre
    return (away @ inverse * away).sum(-1).clamp_min(1e-3).log()


def _train(values: Tensor, labels: Tensor, generator: torch.Generator) -> Weights:
    """A two-layer classifier of pixels; labels between 0.3 and 0.7 are left out.

    Shape: values (b, d, h, w), labels (b, h, w) in [0, 1].
    """
    background, objects = (_draw(values, (labels - side).abs() < 0.3, generator) for side in (0, 1))
    samples = torch.cat([background, objects])
    truth = torch.cat([torch.zeros(len(background)), torch.ones(len(objects))])
    d = values.shape[1]
    weights = (
        torch.randn(d, HIDDEN, generator=generator) / d**0.5,
        torch.zeros(HIDDEN),
        torch.randn(HIDDEN, generator=generator) / HIDDEN**0.5,
        torch.zeros(()),
    )
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, lr=2e-2, weight_decay=3e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, TRAIN_STEPS)
    for _ in range(TRAIN_STEPS):
        batch = torch.randint(len(samples), (1024,), generator=generator)
        loss = F.binary_cross_entropy_with_logits(_classify(samples[batch], weights), truth[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return weights[0].detach(), weights[1].detach(), weights[2].detach(), weights[3].detach()


def _draw(values: Tensor, where: Tensor, generator: torch.Generator) -> Tensor:
    """Random pixels of each picture, as many of each. Shape: (b, d, h, w), (b, h, w) bool → (n, d)."""
    drawn = []
    for picture, chosen in zip(values.flatten(2), where.flatten(1), strict=True):
        places = chosen.nonzero()[:, 0]
        if len(places):
            drawn.append(picture[:, places[torch.randint(len(places), (SAMPLES,), generator=generator)]].T)
    return torch.cat(drawn) if drawn else values.new_zeros(0, values.shape[1])


def _classify(pixels: Tensor, weights: Weights) -> Tensor:
    """Log-odds of being object. Shape: (n, d) → (n,)."""
    w1, b1, w2, b2 = weights
    return torch.relu(pixels @ w1 + b1) @ w2 + b2


@torch.no_grad()
def _odds(values: Tensor, weights: Weights) -> Tensor:
    """Shape: (b, d, h, w) → (b, h, w)."""
    return torch.stack([_classify(picture.movedim(0, -1), weights) for picture in values])


def _scaled(images: Tensor) -> _Scaled:
    """Features of the normals, and the scale that other pictures' will be brought to."""
    stem = torch.cat([_stem(part) for part in images.split(8)])
    pixels = _from_border(stem).movedim(1, -1).flatten(0, 2)
    spread = pixels.std(0) + 1e-6
    covariance = torch.cov((pixels / spread).T)
    basis = torch.linalg.eigh(covariance).eigenvectors[:, -STEM_CHANNELS:] / spread[:, None]
    features = _features(images, stem, basis)
    mean, scale = features.mean((0, 2, 3)), features.std((0, 2, 3)) + 1e-6
    return _Scaled(_standard(features, mean, scale), basis, mean, scale)


def _standard(features: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    return ((features - mean[:, None, None]) / spread[:, None, None]).clamp(-5, 5)


def _features(images: Tensor, stem: Tensor, basis: Tensor) -> Tensor:
    """Colour, its local unrest, and what the encoder's first layers see, each relative to the picture's own border.

    Shape: (b, 3, px, px) in [-1, 1] → (b, 12, px, px).
    """
    lab = (
        torch.from_numpy(rgb2lab((images.movedim(1, -1).numpy() + 1) / 2).astype(np.float32)).movedim(-1, 1)
        / 100
    )
    lightness = F.pad(lab[:, :1], (1, 1, 1, 1), mode="reflect")
    variance = F.avg_pool2d(lightness.square(), 3, 1) - F.avg_pool2d(lightness, 3, 1).square()
    unrest = (variance.clamp_min(0).sqrt() + 0.004).log()
    # First less the border: what is alike everywhere must be zero, and the basis makes much of rounding errors.
    seen = torch.einsum("bchw,ck->bkhw", _from_border(stem), basis)
    seen = F.interpolate(seen, images.shape[-2:], mode="bilinear", align_corners=False)
    return _from_border(torch.cat([lab, unrest, seen], dim=1))


def _from_border(maps: Tensor) -> Tensor:
    """Less the median of each picture's border: exposure and table differ from picture to picture."""
    return maps - maps[:, :, _ring(maps.shape[-1])].median(-1).values[:, :, None, None]


@torch.no_grad()
def _stem(images: Tensor) -> Tensor:
    """The encoder's stem and first block; mirrored beyond the border, else it would be seen for what it is.

    Shape: (b, 3, px, px) → (b, c, px/2, px/2).
    """
    seen: Tensor = _encoder()(F.pad(images, (8, 8, 8, 8), mode="reflect"))
    return seen[:, :, 4:-4, 4:-4]


@lru_cache(maxsize=1)
def _encoder() -> nn.Module:
    encoder = Features().encoder
    return nn.Sequential(encoder.conv_stem, encoder.bn1, encoder.blocks[0])


def _draw_edge(image: Tensor, mask: Mask) -> Mask:
    """GrabCut in a band about a mask's edge; the mask itself where that finds nothing. Shape: (3, h, w), (h, w)."""
    import cv2  # comes with anomalib, and is not needed to import us

    px = mask.shape[0]
    within, beyond = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    sides = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    sides[within > INWARD * px] = cv2.GC_FGD
    sides[beyond > OUTWARD * px] = cv2.GC_BGD
    if not mask.any() or not (sides == cv2.GC_BGD).any():
        return mask
    cv2.setRNGSeed(0)
    pixels = np.ascontiguousarray(np.asarray(to_pil(image))[:, :, ::-1])
    cv2.grabCut(pixels, sides, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    drawn = (sides == cv2.GC_FGD) | (sides == cv2.GC_PR_FGD)
    return drawn if drawn.any() else mask


def _ring(px: int) -> Tensor:
    """The border that is taken for background. Shape: (px, px) bool."""
    x, y = _grid(px)
    return torch.maximum(x.abs(), y.abs()) > 1 - 2 * RING


def _grid(px: int) -> tuple[Tensor, Tensor]:
    """Each pixel's x and y, from -1 to 1. Shape: (px, px) each."""
    axis = (torch.arange(px) + 0.5) / px * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y
