"""Whether pairs repeat the shots or each other: nearest neighbours in every flip, and what counts as a copy.

Two pictures are compared where either mask lies (`features.distance`, "defects"): a copied defect is found on another
background, but not in another place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.quality.features import SIZE_PX, Features, Seen, distance, look, scaled
from dual_anodiff.quality.pairs import PairSet, flipped

BLOCK = 256  # pairs that are held in every flip at once


@dataclass(frozen=True)
class Neighbours:
    """`table`: one row a pair; what it was made of is kept, since other figures need the same.

    Columns: pair (its number), nearest_shot, flip (of the shot), distance, relative (to between_shots' median), copy,
    earlier_pair (the nearest of those before it, −1 for the first), earlier_distance (NaN for the first), repeat (a copy
    of it).
    Shape: between_shots (m,), from each shot to the nearest other one, empty for one shot.
    """

    table: pd.DataFrame
    pairs: Seen
    shots: tuple[Seen, ...]  # in each of the flips, as they are first
    between_shots: Tensor
    threshold: float


def find_neighbours(pairs: PairSet, shots: PairSet, features: Features, flips: Sequence[str]) -> Neighbours:
    """Compare each pair with the shots and with the pairs before it, in each of `flips` ("" first)."""
    seen = look(features, pairs.image, pairs.mask)
    seen_shots = tuple(
        look(features, each.image, each.mask) for each in (flipped(shots, flip) for flip in flips)
    )
    to_shots = torch.stack([_of_defects(seen, seen_shot) for seen_shot in seen_shots], dim=1)  # (n, flips, m)
    nearest, which = to_shots.amin(1).min(1)
    flip = to_shots.amin(2).argmin(1)
    others = nearest_over_flips(seen_shots[0], seen_shots).fill_diagonal_(torch.inf).amin(1)
    between = others[others.isfinite()]
    threshold = copy_threshold(shots, seen_shots[0], features)
    earlier, earlier_pair = _nearest_earlier(pairs, seen, features, flips)
    table = pd.DataFrame(
        {
            "pair": range(len(pairs)),
            "nearest_shot": which.tolist(),
            "flip": [flips[i] for i in flip.tolist()],
            "distance": nearest.tolist(),
            "relative": (nearest / between.median()).tolist() if len(between) else float("nan"),
            "copy": (nearest <= threshold).tolist(),
            "earlier_pair": earlier_pair.tolist(),
            "earlier_distance": earlier.where(earlier.isfinite(), torch.nan).tolist(),
            "repeat": (earlier <= threshold).tolist(),
        }
    )
    return Neighbours(table, seen, seen_shots, between, threshold)


def nearest_over_flips(a: Seen, flipped_b: Sequence[Seen]) -> Tensor:
    """Distance of the defects, the least over b's flips. Shape: (n_a, n_b)."""
    return torch.stack([_of_defects(a, b) for b in flipped_b]).amin(0)


def copy_threshold(shots: PairSet, seen: Seen, features: Features) -> float:
    """The greatest distance between a shot and itself after a light change, median over shots: what is nearer is a copy.

    Of real defects it calls 1 of 51 of magnetic_tile and none of 180 of the demo copies, of shots, mirrored or not, all
    (`benchmarks.curation`).
    """
    changes = [
        _of_defects(look(features, image, mask), seen).diagonal() for image, mask in light_changes(shots)
    ]
    return float(torch.stack(changes).amax(0).median())


def light_changes(shots: PairSet) -> Iterator[tuple[Tensor, Tensor]]:
    """The shots moved by 1/64 of their side each way, 10 % darker and brighter, blurred, and with noise.

    The blur is about what a small VAE does to a picture. Shape: images float in [-1, 1] or uint8, masks (m, h, w).
    """
    size_px = shots.image.shape[-1]
    step = max(1, round(size_px / 64))
    for dy, dx in ((0, step), (0, -step), (step, 0), (-step, 0)):
        # Replicated rather than rolled: the far edge's pixels are no light change.
        image = F.pad(shots.image.float(), (step,) * 4, mode="replicate").byte()
        mask = F.pad(shots.mask, (step,) * 4)
        window = (
            ...,
            slice(step + dy, step + dy + shots.image.shape[-2]),
            slice(step + dx, step + dx + size_px),
        )
        yield image[window], mask[window]
    small = scaled(shots.image)
    for gain in (0.9, 1.1):
        yield ((small + 1) * gain - 1).clamp(-1, 1), shots.mask
    blurred = small
    for _ in range(3):
        blurred = F.avg_pool2d(F.pad(blurred, (1, 0, 1, 0), mode="replicate"), 2, stride=1)
        blurred = F.avg_pool2d(F.pad(blurred, (0, 1, 0, 1), mode="replicate"), 2, stride=1)
    yield blurred, shots.mask
    noise = torch.randn(3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(0))
    yield (small + 0.05 * noise).clamp(-1, 1), shots.mask


def _nearest_earlier(
    pairs: PairSet, seen: Seen, features: Features, flips: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Distance to, and number of, the nearest pair with a smaller number; infinite and −1 for the first."""
    best = torch.full((len(pairs),), torch.inf)
    number = torch.full((len(pairs),), -1)
    for start in range(0, len(pairs), BLOCK):
        stop = min(start + BLOCK, len(pairs))
        block = PairSet(pairs.image[start:stop], pairs.mask[start:stop])
        earlier = torch.arange(start, stop)[None] < torch.arange(start, len(pairs))[:, None]
        for flip in flips:
            mirrored = flipped(block, flip)
            others = look(features, mirrored.image, mirrored.mask) if flip else seen[start:stop]
            found, which = _of_defects(seen[start:], others).masked_fill(~earlier, torch.inf).min(1)
            nearer = found < best[start:]
            best[start:][nearer], number[start:][nearer] = found[nearer], which[nearer] + start
    return best, number


def _of_defects(a: Seen, b: Seen) -> Tensor:
    """Two pictures without a mask have no defect in common: 1, as unlike ones."""
    return distance(a, b, "defects").nan_to_num(1.0)
