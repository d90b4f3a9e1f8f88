"""Pairs with the defect at a wished place and of a wished size.

Where a defect comes to lie is settled in the first steps, by the coarse part of both branches' noise: it comes where that
leans, by chance and by little, towards what tells the shots' defects from their surroundings: their contrast. So the first
noise is moved round the picture until a place that leans so much by itself lies in the region: as noise it is as
good as before, and form and look are the pair's own. Bumps elsewhere are levelled, and at every step the anomaly branch
outside the region is replaced by the flat part, noised to that step: no second defect gets a mask. That alone (RePaint,
arXiv 2201.09865; blended diffusion, arXiv 2111.14818) is not enough: the image branch does not follow, and draws its
defect where its own noise has it, where no mask can be. So each pair is previewed in a few steps, and drawn from other
noise while the preview has no mask in the region: at first it leans towards one shot's contrast, which keeps rare looks,
after that towards the shots' mean, which pale defects follow sooner; where that fails too, by more (STRENGTHS).
The whole contrast added to the noise, after the signal leak of arXiv 2309.15842, puts defects to the cell, but as boxes,
and darker than any shot.

Places are exact to about one latent cell (8 px at the working size), and so much room is left around the region for a
defect's own outline; the masks are not cut to it.

A thin defect is wished for by a mask file with the line drawn in: the branch is held to the cells along it
(`benchmarks.where --lines`). A box says nothing of a line's course.
"""

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.adapter_card import AdapterCard, ShotTrace
from dual_anodiff.config import WhereConfig
from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.images import load_mask
from dual_anodiff.masks import distance_from_background
from dual_anodiff.objective import encode
from dual_anodiff.pictures import DRAWN_SHARE, mask_from_share
from dual_anodiff.randomness import Stream, seeded

# How far a pair's noise leans towards a defect in the region, in standard deviations of chance, each time from other noise
# until a preview has a mask there: by little, as where a defect comes by itself, and further only where that has failed
# six times. First towards the contrast of the shot that it is like, then towards the shots' mean. From 3 on fewer defects
# look like a shot's (`benchmarks.where --strengths 3`).
STRENGTHS = (*[1.5] * 6, 2.4, 2.4, 3.0, 3.0, 4.0)
PREVIEW_STEPS = 4
# A preview has a mask in the region if it covers such a share of it: less is a scrap of a defect that lies elsewhere.
COVERS = 0.1
# Sizes 'shots': a shot's own extents times a factor from here.
SCALE = (0.8, 1.25)
# Of so many places the first that lies in the wished region wholly is taken, or else the one that lies in it most.
DRAWS = 64


def trace_shots(latents: Tensor, masks: Tensor) -> list[ShotTrace]:
    """What the card keeps of each shot: the box of its mask, and how its defect's latents differ from those around it.

    Shape: latents (n, f=2, c, h, w), image and part; masks (n, H, W) bool.
    """
    share = _cell_share(masks, latents.shape[-2], latents.shape[-1])
    traces = []
    for mask, cells, latent in zip(masks, share, latents, strict=True):
        touched = (cells > 0).float()
        defect = mask_from_share(cells, DRAWN_SHARE).float()
        # Its near surroundings: those of the whole picture would be another object, or none.
        ring = F.max_pool2d(touched, 5, 1, 2) - touched
        ring = ring if ring.any() else torch.ones_like(ring)
        contrast = _mean(latent, defect) - _mean(latent, ring)  # (f, c)
        box = [round(float(x), 5) for x in box_of(mask)]
        traces.append(ShotTrace(box, [[round(float(x), 4) for x in branch] for branch in contrast]))
    return traces


def check_where(where: WhereConfig, card: AdapterCard) -> None:
    """Whether the wish can be had from this adapter.

    Raises: InputError for a region out of the picture, empty or unreadable; AdapterError for an adapter made before
    adapters kept what this needs.
    """
    if not where.on:
        return
    if not card.shots:
        raise AdapterError(
            "generate.where: the adapter's card holds nothing of its shots' defects, it was made by an older version; "
            "fine-tune again, or leave out the region and the size"
        )
    if where.region is not None:
        read_region(where.region, card.size_px)


def read_region(region: Path | tuple[float, float, float, float], size_px: int) -> Tensor:
    """The wished region. Shape: (size_px, size_px) bool, never empty.

    Raises: InputError for a box that is out of the picture, or a file that can't be read or marks nothing.
    """
    if isinstance(region, Path):
        return _marked(F.interpolate(load_mask(region)[None], (size_px, size_px), mode="area"))[0, 0]
    in_px = [x * size_px for x in region] if max(region) <= 1 else list(region)
    if max(in_px) > size_px:
        raise InputError(
            f"generate.where.region: {list(region)} is out of the picture, which is {size_px} px wide and high; "
            "give x0,y0,x1,y1 in shares (0 to 1) or px of it"
        )
    left, top, right, bottom = in_px
    return _rectangle(top, left, bottom, right, size_px)


def draw_regions(where: WhereConfig, card: AdapterCard, seeds: Sequence[int], size_px: int) -> Tensor | None:
    """A region for each pair, from its seed alone; None where nothing is wished.

    With a size, a box of a shot's proportions: at random in the picture, or within the region. Without, the region
    itself. Shape: (len(seeds), size_px, size_px) bool. Raises: as `check_where`.
    """
    if not where.on:
        return None
    check_where(where, card)
    within = None if where.region is None else read_region(where.region, size_px)
    if where.size is None:
        assert within is not None
        return within.expand(len(seeds), -1, -1)
    return torch.stack([_draw(where, card, within, seed, size_px) for seed in seeds])


def _draw(where: WhereConfig, card: AdapterCard, within: Tensor | None, seed: int, size_px: int) -> Tensor:
    """A box of a shot's proportions. Shape: within (size_px, size_px) bool → the same."""
    top, left, bottom, right = like_shot(card, seed).box
    sides = torch.tensor([bottom - top, right - left])
    generator = seeded(seed, Stream.PLACE)
    low, high = where.size if isinstance(where.size, tuple) else SCALE
    drawn = low * (high / low) ** float(torch.rand((), generator=generator))
    sides = sides * (drawn / sides.max() if isinstance(where.size, tuple) else drawn)
    sides = sides.clamp(max=1) * size_px
    places = torch.rand(DRAWS, 2, generator=generator)
    frame = torch.tensor([0.0, 0.0, 1.0, 1.0] if within is None else box_of(within)) * size_px
    room = (frame[2:] - frame[:2] - sides).clamp_min(0)
    # A box larger than the region's lies around its middle, as far as the picture lets it.
    middle = (frame[:2] + frame[2:] - sides) / 2
    start = torch.where(room > 0, frame[:2], middle).clamp_min(0).minimum(size_px - sides)
    spots = [spot.tolist() for spot in start + places * room]
    h, w = sides.tolist()
    boxes = (_rectangle(y, x, y + h, x + w, size_px) for y, x in spots)
    if within is None:
        return next(boxes)
    tried = list(boxes)
    inside = torch.stack([(box & within).sum() / box.sum() for box in tried])
    return tried[int(inside.argmax())]


def like_shot(card: AdapterCard, seed: int) -> ShotTrace:
    """The shot that a pair's defect resembles: drawn from the pair's seed."""
    shots = card.shots or []
    return shots[int(torch.randint(len(shots), (), generator=seeded(seed, Stream.SHOT_LIKENESS)))]


class RegionGuide:
    """Holds a batch's defects to their regions. Shape: regions (b, H, W) bool, of any size; cells and noise as latents.

    `mask_threshold`: that previews' masks are cut at; None: the adapter's own.

    Raises: AdapterError if the card holds nothing of the shots; InputError if a region is missing or empty.
    """

    def __init__(
        self,
        card: AdapterCard,
        vae: Any,
        regions: Tensor,
        seeds: Sequence[int],
        side: int,
        mask_threshold: float | None = None,
    ) -> None:
        check_where(WhereConfig(size="shots"), card)
        if len(regions) != len(seeds) or not regions.flatten(1).any(1).all():
            raise InputError(
                f"regions: {len(regions)} were given for {len(seeds)} pairs, "
                f"{int((~regions.flatten(1).any(1)).sum())} of them empty; give one for each that marks something"
            )
        share = _cell_share(regions, side, side)
        self.region = _marked(share).float()  # (b, 1, side, side)
        # A cell around it too, for the defect's own outline.
        self.cells = F.max_pool2d(self.region, 3, 1, 1)
        self.own = _directions([like_shot(card, seed) for seed in seeds])
        self.mean = _unit(_directions(card.shots or []).mean(0, keepdim=True))
        # Weaker towards the region's border: a defect is round rather than a box.
        self.weight = _unit(F.avg_pool2d(F.pad(share, (1, 1, 1, 1)), 3, 1) * self.region)
        grey = torch.zeros(1, 3, side * 8, side * 8, device=vae.device, dtype=vae.dtype)
        self.flat = encode(vae, grey)[0].float()  # (1, c, side, side)
        self.mask_threshold = card.mask_threshold if mask_threshold is None else mask_threshold

    def of(self, which: list[int]) -> Self:
        """For these of the pairs."""
        some = copy(self)
        for name in ("region", "cells", "weight", "own"):
            setattr(some, name, getattr(self, name)[which])
        return some

    def settle(
        self,
        noise: Tensor,
        draw: Callable[[list[int]], Tensor],
        preview: Callable[[list[int], Tensor], Tensor],
    ) -> Tensor:
        """First noise whose defect comes to lie in its region, as far as previews can tell.

        Args: draw, other noise for these of the pairs; preview, their anomaly parts as they come from that noise.
        Shape: noise (b, f=2, c, side, side) → the same; preview → (those, 3, h, w) in [-1, 1].
        """
        noise, left = self.steer(noise, STRENGTHS[0], self.own), list(range(len(noise)))
        for strength in STRENGTHS[1:]:
            there = self.of(left).reached(preview(left, noise[left])).tolist()
            left = [i for i, settled in zip(left, there, strict=True) if not settled]
            if not left:
                break
            noise[left] = self.of(left).steer(draw(left), strength, self.mean)
        return noise

    def reached(self, parts: Tensor) -> Tensor:
        """Whether there is a mask in the region; elsewhere none can be. Shape: parts (b, 3, h, w) in [-1, 1] → (b,)."""
        marked = (distance_from_background(parts) > self.mask_threshold).flatten(1).float().mean(1)
        return marked.cpu() >= COVERS * self.region.flatten(1).mean(1)

    def steer(self, noise: Tensor, strength: float, towards: Tensor) -> Tensor:
        """The first noise, leaning so much towards a defect in the region and towards none elsewhere.

        Shape: noise (b, f=2, c, side, side), towards (b or 1, f=2, c, 1, 1), of length 1. Units: strength in standard
        deviations of chance.
        """
        projection = (noise * towards).sum((1, 2))[:, None]  # (b, 1, side, side), each cell standard normal
        shifts = _shifts(projection, self.weight, strength)
        noise, projection = (
            torch.stack([each.roll(shift, (-2, -1)) for each, shift in zip(some, shifts, strict=True)])
            for some in (noise, projection)
        )
        inside = (projection * self.weight).sum((2, 3), keepdim=True)
        raised = (strength - inside).clamp_min(0) * self.weight
        elsewhere = 1 - self.region
        sizes = self.region.flatten(1).sum(1).tolist()
        bumps = [_smooth(each, int(size)) for each, size in zip(projection * elsewhere, sizes, strict=True)]
        levelled = elsewhere * torch.stack(bumps).clamp_min(0)
        return noise + towards * (raised - levelled)[:, None]

    def hold(self, latents: Tensor, noise: Tensor, scheduler: Any, t: Tensor | None) -> Tensor:
        """Replace the anomaly branch outside the regions by the flat part, as noisy as at t; None: clean.

        Shape: latents ((b f), c, h, w), as the scheduler steps them; noise (b, c, h, w), the branch's own.
        """
        flat, cells = self.flat.expand_as(noise), self.cells.to(latents.device)
        if t is not None:
            flat = scheduler.add_noise(flat.contiguous(), noise.to(latents.device), t.expand(len(noise)))
        image, part = latents.unflatten(0, (len(noise), 2)).unbind(1)
        return torch.stack([image, cells * part + (1 - cells) * flat], 1).flatten(0, 1)


def _cell_share(regions: Tensor, height: int, width: int) -> Tensor:
    """Share of each latent cell that is marked. Shape: (n, H, W) bool → (n, 1, height, width)."""
    return F.interpolate(regions[:, None].float().cpu(), (height, width), mode="area")


def _marked(share: Tensor) -> Tensor:
    """Which cells, marked in part, count: those marked half as much as the most marked one next to them, or more.

    A line thinner than a cell stays a line, where one limit for all of it would leave dots. Shape: (n, 1, h, w) → bool.
    """
    return (share > 0) & (share >= F.max_pool2d(share, 3, 1, 1) / 2)


def _unit(some: Tensor) -> Tensor:
    """Each of length 1; what is zero stays so."""
    return some / some.flatten(1).norm(dim=1).clamp_min(1e-9).view(-1, *[1] * (some.dim() - 1))


def _directions(shots: Sequence[ShotTrace]) -> Tensor:
    """Of each shot's contrast. Shape: (n, f=2, c, 1, 1), each of length 1."""
    return _unit(torch.tensor([shot.contrast for shot in shots]))[..., None, None]


def _shifts(projection: Tensor, weight: Tensor, strength: float) -> list[tuple[int, int]]:
    """How far to roll each so that what comes under the weight leans most nearly so much.

    Shape: projection and weight (b, 1, side, side) → b of (down, right), each from 1 − side to 0.
    """
    spectra = torch.fft.rfft2(projection) * torch.fft.rfft2(weight).conj()
    under = torch.fft.irfft2(spectra, s=projection.shape[-2:])[:, 0]  # [b, y, x]: rolled by (−y, −x)
    side = under.shape[-1]
    return [
        (-(best // side), -(best % side)) for best in (under - strength).abs().flatten(1).argmin(1).tolist()
    ]


def _smooth(projection: Tensor, num_cells: int) -> Tensor:
    """Means over squares of about so many cells, 3 by 3 or more. Shape: (1, h, w) → (1, h, w)."""
    side = max(3, 2 * round((num_cells**0.5 - 1) / 2) + 1)
    side = min(side, 2 * (min(projection.shape[-2:]) // 2) - 1)
    return F.avg_pool2d(projection, side, 1, side // 2, count_include_pad=False)


def _mean(latents: Tensor, weight: Tensor) -> Tensor:
    """Shape: (f, c, h, w), (1, h, w) → (f, c)."""
    return (latents.float().cpu() * weight).sum((-1, -2)) / weight.sum()


def box_of(mask: Tensor) -> tuple[float, float, float, float]:
    """Top, left, bottom, right of what is marked, in shares of the picture. Shape: (h, w) bool."""
    lines, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    h, w = mask.shape
    return int(lines[0]) / h, int(columns[0]) / w, (int(lines[-1]) + 1) / h, (int(columns[-1]) + 1) / w


def _rectangle(top: float, left: float, bottom: float, right: float, size_px: int) -> Tensor:
    """Of at least one pixel. Shape: (size_px, size_px) bool."""
    box = torch.zeros(size_px, size_px, dtype=torch.bool)
    y, x = min(round(top), size_px - 1), min(round(left), size_px - 1)
    box[y : max(round(bottom), y + 1), x : max(round(right), x + 1)] = True
    return box
