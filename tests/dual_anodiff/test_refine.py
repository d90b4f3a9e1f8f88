"""Refined masks against the truth, of drawn pairs through the bundled VAE and of shapes made for it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.masks import background, iou, mask_from_part
from dual_anodiff.refine import REACH_PX, grown, refine
from tests.dual_anodiff.drawn_pairs import drawn_pairs

SIZE = 64
SURFACE = torch.tensor([-0.6, -0.5, -0.55])[:, None, None]


def pair(mask: Tensor, colour: tuple[float, float, float], *, smears: int = 0) -> tuple[Tensor, Tensor]:
    """An image with a defect, and its part on grey, which may be smeared. Shape: mask (h, w) → each (1, 3, h, w)."""
    noise = 0.02 * torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    image = torch.where(mask, torch.tensor(colour)[:, None, None], SURFACE) + noise
    part = (image * mask)[None]
    for _ in range(smears):
        part = F.avg_pool2d(part, 3, 1, 1, count_include_pad=False)
    return image[None], part


def grid() -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return y, x


@pytest.mark.parametrize(("category", "defect"), [("tile", "crack"), ("plate", "scratch")])
def test_thin_defects_are_found_better_than_by_the_threshold_alone(category: str, defect: str) -> None:
    p = drawn_pairs(category, defect)
    refined = refine(p.images, p.parts, p.plain, p.threshold)
    assert iou(refined, p.truth).mean() > iou(p.plain, p.truth).mean() + 0.04


@pytest.mark.parametrize(("category", "defect"), [("tile", "hole"), ("nut", "paint")])
def test_broad_defects_are_found_no_worse(category: str, defect: str) -> None:
    p = drawn_pairs(category, defect)
    refined = refine(p.images, p.parts, p.plain, p.threshold)
    assert iou(refined, p.truth).mean() > iou(p.plain, p.truth).mean() - 0.01


def test_a_smeared_stroke_gets_its_width_back() -> None:
    y, x = grid()
    truth = ((y - 30 - x // 4).abs() < 1) & (x > 8) & (x < 56)  # one pixel wide
    image, part = pair(truth, (0.7, 0.7, 0.6), smears=1)
    plain = mask_from_part(part, 0.05, 4)
    refined = refine(image, part, plain, 0.05)
    assert plain.sum() > 4 * truth.sum()
    assert refined.sum() <= 3 * truth.sum()  # as wide as the smear is at half its height
    assert (refined & truth).sum() > 0.95 * truth.sum()


def test_the_dull_end_of_a_defect_is_found_by_the_images_colours() -> None:
    """Where the image itself is near mid-grey so is the part, and one threshold for all loses it."""
    y, x = grid()
    truth = (y > 20) & (y < 40) & (x > 15) & (x < 50)
    image, part = pair(truth, (0.8, 0.7, 0.75))
    dull = truth & (x > 40)
    image = torch.where(dull, 0.12, image)
    part = torch.where(dull, 0.12, part)
    plain = mask_from_part(part, 0.2, 4)
    assert iou(plain, truth[None]).item() < 0.8
    # It is the defect's colour only once some of it has been seen.
    plain |= dull & (x < 45)
    assert iou(refine(image, part, plain, 0.2), truth[None]).item() > 0.93


def test_grain_of_the_surface_colour_does_not_make_a_mask_grow() -> None:
    y, x = grid()
    truth = (y - 30) ** 2 + (x - 30) ** 2 < 100
    image, part = pair(truth, (0.7, 0.7, 0.6))
    grain = 0.3 * torch.rand(part.shape, generator=torch.Generator().manual_seed(1))
    image, part = torch.where(truth, image, 0.1), torch.where(truth, part, grain)
    plain = mask_from_part(part, 0.2, 4)
    assert refine(image, part, plain, 0.2).sum() <= 1.1 * plain.sum()


def test_empty_stays_empty_and_nothing_else_becomes_it() -> None:
    torch.manual_seed(0)
    image, part = torch.rand(1, 3, SIZE, SIZE) * 2 - 1, torch.zeros(1, 3, SIZE, SIZE)
    empty = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    assert not refine(image, part, empty, 0.1).any()
    dot = empty.clone()
    dot[0, 10:12, 10:12] = True
    part[0, :, 10, 10] = 0.9  # one bright pixel of the four
    assert refine(image, part, dot, 0.1).any()


def test_a_round_speck_is_no_stroke_to_be_thinned() -> None:
    y, x = grid()
    truth = (y - 20) ** 2 + (x - 20) ** 2 <= 6
    image, part = pair(truth, (0.9, 0.8, 0.9), smears=1)
    plain = mask_from_part(part, 0.3, 4)
    assert refine(image, part, plain, 0.3).sum() > 0.6 * plain.sum()


def test_a_mask_reaches_no_further_than_said_and_depends_on_its_own_pair_alone() -> None:
    p = drawn_pairs("plate", "scratch")
    together = refine(p.images, p.parts, p.plain, p.threshold)
    for i, mask in enumerate(together.numpy()):
        assert not (mask & ~grown(p.plain[i].numpy(), REACH_PX)).any()
        alone = refine(p.images[i : i + 1], p.parts[i : i + 1], p.plain[i : i + 1], p.threshold)
        assert np.array_equal(alone[0].numpy(), mask)


def test_the_tint_is_the_parts_own() -> None:
    y, x = grid()
    truth = (y - 30) ** 2 + (x - 30) ** 2 < 100
    _, part = pair(truth, (0.9, 0.9, 0.9))
    tinted = torch.where(truth, part, 0.1)
    torch.testing.assert_close(background(tinted).flatten(), torch.full((3,), 0.1))
