"""Which mirrorings and rotations a category bears: after which of them its normals still look like normals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, radians, sin
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.images import load_image
from dual_anodiff.objects.masks import square
from dual_anodiff.quality.features import BATCH, Features

# Twice the encoder's side: rotated there and then halved, a picture is hardly blurred, and blur would count as a change.
PX = 256
MAX_NORMALS = 64
MIN_NORMALS = 4  # two to be like, two to look at
# Measured (benchmarks/symmetries.py) on the demo's five categories, magnetic_tile and hazelnut_toy: what a category
# bears changes the distance by a factor of up to 1.09, what shows the part as it never lies by 1.52 or more.
FACTOR = 1.25
SMALL, LARGE = 5.0, 15.0  # no part lies exactly, so a few degrees are always borne


@dataclass(frozen=True)
class Symmetries:
    """What a category bears, and the distances that say so.

    Units: rotation in degrees either way, 5, 15 or 180 (any); ratios by change, 1 where it can't be told from a normal.
    """

    horizontal_flip: bool
    vertical_flip: bool
    rotate90: bool
    rotation: float
    ratios: dict[str, float]


Change = Callable[[Tensor], Tensor]
# Those of one name are all to be borne.
CHANGES: dict[str, tuple[Change, ...]] = {
    "horizontal_flip": (lambda images: images.flip(3),),
    "vertical_flip": (lambda images: images.flip(2),),
    "rotate90": tuple(lambda images, k=k: images.rot90(k, (2, 3)) for k in (1, 2, 3)),  # type: ignore[misc]
    "rotation_15": (lambda images: rotated(images, LARGE), lambda images: rotated(images, -LARGE)),
    "rotation_45": (lambda images: rotated(images, 45.0),),
}


@torch.no_grad()
def find_symmetries(features: Features, normals: Tensor) -> Symmetries:
    """Every second normal is held back, changed, and compared with the others in the same places.

    A change is borne if the changed ones are no further from the others than FACTOR times what they are unchanged: 1 −
    the cosine of a place's feature with the nearest of the others', mean over places, median over pictures, mean ratio
    over the encoder's levels. With fewer than MIN_NORMALS nothing but the smallest rotation is.

    Shape: normals (n, 3, h, w) in [-1, 1]. Source: PaDiM (Defard et al. 2021) compares place by place, too; its
    Gaussian needs more normals than there may be, so the nearest counts, as in PatchCore (Roth et al. 2022).
    """
    if len(normals) < MIN_NORMALS:
        return Symmetries(False, False, False, SMALL, {})
    others, held_back = _maps(features, normals[0::2]), normals[1::2]
    unchanged = _distances(_maps(features, held_back), others)
    ratios = {}
    for name, changes in CHANGES.items():
        changed = [_distances(_maps(features, change(held_back)), others) for change in changes]
        # The same picture twice is at no distance: nothing is borne then but what changes no picture at all.
        ratios[name] = max(float((each / unchanged.clamp(min=1e-6)).mean()) for each in changed)
    borne = {name: ratio <= FACTOR for name, ratio in ratios.items()}
    any_angle = borne["rotate90"] and borne["rotation_15"] and borne["rotation_45"]
    rotation = 180.0 if any_angle else LARGE if borne["rotation_15"] else SMALL
    return Symmetries(borne["horizontal_flip"], borne["vertical_flip"], borne["rotate90"], rotation, ratios)


def load_normals(paths: Sequence[Path]) -> Tensor:
    """At most MAX_NORMALS, evenly spaced by name, in the square that is compared. Shape: (n, 3, PX, PX) in [-1, 1].

    Raises: InputError for a picture that can't be read.
    """
    chosen = sorted(paths)[:: max(1, -(-len(paths) // MAX_NORMALS))]
    return torch.stack([square(load_image(path), PX) for path in chosen])


def rotated(images: Tensor, degrees: float) -> Tensor:
    """About the centre; the corners filled by reflection, as augmentation fills them. Shape: (n, 3, h, h)."""
    sine, cosine = sin(radians(degrees)), cos(radians(degrees))
    matrix = torch.tensor([[cosine, -sine, 0], [sine, cosine, 0]]).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _maps(features: Features, images: Tensor) -> list[Tensor]:
    """Shape: for each level (n, c, cells), unit vectors along c."""
    batches = [features.maps(part) for part in images.split(BATCH)]
    return [F.normalize(torch.cat(level).flatten(2), dim=1) for level in zip(*batches, strict=True)]


def _distances(maps: list[Tensor], others: list[Tensor]) -> Tensor:
    """Of the median picture. Shape: (levels,)."""
    medians = []
    for level, of_others in zip(maps, others, strict=True):
        nearest = [torch.einsum("cp,mcp->mp", picture, of_others).amax(0) for picture in level]
        medians.append((1 - torch.stack(nearest)).mean(1).median())
    return torch.stack(medians)
