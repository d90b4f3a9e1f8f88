"""An anomaly detector of normals alone: how far each place of a picture is from all places that the normals show.

PatchCore's (Roth et al. 2022, eq. 6) in two of the ImageNet encoder's maps, without its core-set: few normals are enough
for rules of thumb. A score is in units of what held-back normals have in the same cells: 1 is a normal's.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.errors import InputError
from dual_anodiff.quality.features import Seen

BANK = 6144  # places of normals kept, drawn from all of them
# The worst cells beside the mask, of 256: a single one is chance, the mean of all hides a damaged spot.
WORST = 8


@dataclass(frozen=True)
class Memory:
    """Shape: places (k, c), unit vectors; owner (k,), which normal each is of; normals (n, cells), held-back scores."""

    places: Tensor
    owner: Tensor
    normals: Tensor


def memory_of(normals: Seen) -> Memory:
    """Keep the normals' places; each normal's own score is against the others'. Raises: InputError for fewer than 2."""
    if len(normals) < 2:
        raise InputError(
            f"normals: {len(normals)}; the anomaly detector needs 2 or more, add some to train/good"
        )
    all_places = _places(normals).transpose(1, 2).flatten(0, 1)  # ((n cells), c)
    kept = torch.randperm(len(all_places), generator=torch.Generator().manual_seed(0))[:BANK]
    owner = kept // normals.maps[0].shape[2]
    memory = Memory(all_places[kept], owner, torch.empty(0))
    return Memory(memory.places, owner, anomaly_score(memory, normals, held_back=True))


def anomaly_score(memory: Memory, pictures: Seen, *, held_back: bool = False) -> Tensor:
    """1 − cosine to the nearest place; `held_back`: the pictures are the memory's own, in order, each left out for itself.

    Shape: (n, cells).
    """
    found = []
    for number, picture in enumerate(_places(pictures).transpose(1, 2)):
        cosines = picture @ memory.places.T
        if held_back:
            cosines[:, memory.owner == number] = -1
        found.append(1 - cosines.amax(1))
    return torch.stack(found)


def in_mask(memory: Memory, scores: Tensor, masked: Tensor) -> Tensor:
    """Logarithm of the highest score in the mask, against the middle normal's there; NaN for an empty mask.

    Shape: scores (n, cells); masked (n, cells), 0 or 1 → (n,).
    """
    found = _highest(scores, masked) / torch.stack([_highest(memory.normals, m).median() for m in masked])
    return found.log().masked_fill(masked.sum(1) == 0, torch.nan)


def beside_mask(memory: Memory, scores: Tensor, masked: Tensor) -> Tensor:
    """Logarithm of the mean of the WORST scores clear of the mask, against the middle normal's there; NaN if none is.

    Cells next to the mask are left out, since the encoder sees the defect from there. Shape: as `in_mask`.
    """
    side = round(masked.shape[1] ** 0.5)
    near = F.max_pool2d(masked.unflatten(1, (1, side, side)), 3, stride=1, padding=1).flatten(1)
    clear = 1 - near
    found = _worst(scores, clear) / torch.stack([_worst(memory.normals, c).median() for c in clear])
    return found.log().masked_fill(clear.sum(1) < WORST, torch.nan)


def under(masks: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Every mask laid on every picture. Shape: (m, cells), (n, cells) → (m n, cells) scores, and masks."""
    return pictures.repeat(len(masks), 1), masks.repeat_interleave(len(pictures), 0)


def _places(pictures: Seen) -> Tensor:
    """Both levels at the finer one's cells: the fine one sees grain, the coarse one what it belongs to.

    Shape: (n, c, cells), unit vectors along c.
    """
    fine, coarse = pictures.maps
    sides = [round(level.shape[-1] ** 0.5) for level in (fine, coarse)]
    wider = F.interpolate(coarse.unflatten(2, (sides[1], sides[1])), (sides[0], sides[0]), mode="bilinear")
    return torch.cat([fine, F.normalize(wider.flatten(2), dim=1)], dim=1) / 2**0.5


def _highest(scores: Tensor, where: Tensor) -> Tensor:
    return (scores * where).amax(-1)


def _worst(scores: Tensor, where: Tensor) -> Tensor:
    return (scores * where).topk(WORST, -1).values.mean(-1)
