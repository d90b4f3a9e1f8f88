"""Defects drawn onto photographs: the mask shows where, and the photograph's own pixels stay."""

import pytest
import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor

from dual_anodiff.procedural.photographs import DEFECTS, draw_onto, relight


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Real brick, grass and gravel, 128 px crops of each. Shape: (6, 3, 128, 128)."""
    crops = [
        torch.from_numpy(picture[at : at + 128, at : at + 128].copy())
        for picture in (data.brick(), data.grass(), data.gravel())
        for at in (0, 200)
    ]
    return (torch.stack(crops)[:, None].float() / 127.5 - 1).expand(-1, 3, -1, -1)


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_picture_changes_inside_the_mask_and_hardly_around_it(defect: str, photographs: Tensor) -> None:
    image, mask = draw_onto(photographs, defect, torch.Generator().manual_seed(0))
    assert mask.flatten(1).any(1).all()
    change = (image - photographs).abs().mean(1, keepdim=True)
    far = F.max_pool2d(mask.float(), 17, 1, 8) == 0
    assert change[mask].mean() > 0.05
    assert change[far].mean() < 0.005
    assert change[mask].mean() > 15 * change[far].mean()


def test_the_same_seed_draws_the_same(photographs: Tensor) -> None:
    first, again = (draw_onto(photographs, "crack", torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_another_light_keeps_what_is_shown(photographs: Tensor) -> None:
    lit = relight(photographs, torch.Generator().manual_seed(0))
    assert lit.abs().max() <= 1
    for before, after in zip(photographs.mean(1).flatten(1), lit.mean(1).flatten(1), strict=True):
        assert torch.corrcoef(torch.stack([before, after]))[0, 1] > 0.9
