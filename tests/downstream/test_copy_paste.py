"""A pasted defect looks as if it had been there: as bright as its spot, without a seam, where defects are."""

import numpy as np
import pytest
from scipy import ndimage

from downstream.copy_paste import BEND, FADE_PX, Mask, Pixels, cut_out, paste_defect

SIZE = (90, 120)


def picture(level: float, seed: int = 0) -> Pixels:
    noise = np.random.default_rng(seed).normal(0, 0.01, (*SIZE, 3))
    return (level + noise).clip(0, 1).astype(np.float32)


def shot_with(mask: Mask, level: float = 0.3, depth: float = 0.2) -> Pixels:
    return (
        np.where(mask[..., None], picture(level, 1) - depth, picture(level, 2)).clip(0, 1).astype(np.float32)
    )


def box(top: int, left: int, height: int, width: int) -> Mask:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.mark.parametrize("seed", range(12))
def test_its_surroundings_are_as_bright_as_the_spot_and_nothing_else_changes(seed: int) -> None:
    mask = box(40, 50, 14, 20)
    normal = picture(0.7)
    pasted, where = paste_defect(normal, cut_out(shot_with(mask), mask), np.random.default_rng(seed))
    beyond = ndimage.distance_transform_edt(~where)
    ring = (beyond > 1.5) & (beyond < 4)
    assert pasted[ring].mean() == pytest.approx(0.7, abs=0.02), "the shot was much darker"
    assert pasted[ndimage.binary_erosion(where, iterations=2)].mean() < 0.62, "the defect keeps its contrast"
    far = beyond > FADE_PX[1] + 2
    np.testing.assert_array_equal(pasted[far], normal[far])
    step = np.abs(np.diff(pasted.mean(-1), axis=1))[:, :][
        (~where[:, 1:]) & (~where[:, :-1]) & (beyond[:, 1:] > 2)
    ]
    assert step.max() < 0.08, "no seam"


@pytest.mark.parametrize("seed", range(20))
def test_a_defect_at_a_border_stays_at_a_border(seed: int) -> None:
    mask = box(30, 0, 20, 12)  # at the left one
    _, where = paste_defect(picture(0.5), cut_out(shot_with(mask), mask), np.random.default_rng(seed))
    columns = np.flatnonzero(where.any(0))
    most = 2 + BEND * 20
    assert min(columns[0], SIZE[1] - 1 - columns[-1]) <= most
    lines = np.flatnonzero(where.any(1))
    assert min(lines[0], SIZE[0] - 1 - lines[-1]) >= 0


def test_an_inner_defect_keeps_its_place_about_or_lies_anywhere() -> None:
    mask = box(5, 5, 8, 8)
    cut = cut_out(shot_with(mask), mask)
    centres = []
    for seed in range(60):
        _, where = paste_defect(picture(0.5), cut, np.random.default_rng(seed))
        centres.append(np.argwhere(where).mean(0) / SIZE)
    spread = np.array(centres)
    assert spread.max() > 0.7, "some lie far from the shot's place"
    assert 0.3 < (np.minimum(spread, 1 - spread).max(1) < 0.35).mean() < 0.95, "many near it, or mirrored"


@pytest.mark.parametrize("seed", range(20))
def test_a_line_one_pixel_wide_stays_a_line(seed: int) -> None:
    mask = box(20, 60, 40, 1)
    _, where = paste_defect(picture(0.5), cut_out(shot_with(mask), mask), np.random.default_rng(seed))
    pieces = ndimage.label(where, np.ones((3, 3)))[1]
    assert pieces == 1, "no gap"
    extent = np.hypot(*(np.ptp(np.argwhere(where), axis=0) + 1))
    assert extent > 0.6 * 40
    assert where.sum() < 4 * extent


@pytest.mark.parametrize("seed", range(10))
def test_it_lies_on_the_part(seed: int) -> None:
    mask = box(40, 50, 10, 10)
    part = box(10, 20, 60, 80)
    _, where = paste_defect(picture(0.5), cut_out(shot_with(mask), mask), np.random.default_rng(seed), part)
    assert (part & where).sum() / where.sum() > 0.9


def test_a_mask_of_the_whole_picture_is_pasted_without_surroundings() -> None:
    mask = np.ones(SIZE, dtype=bool)
    pasted, where = paste_defect(picture(0.7), cut_out(shot_with(mask), mask), np.random.default_rng(0))
    assert where.mean() > 0.3
    assert pasted[where].mean() < 0.3


def test_a_defect_larger_than_the_normal_is_made_to_fit() -> None:
    mask = box(5, 5, 80, 110)
    small = picture(0.5)[:40, :50]
    _, where = paste_defect(small, cut_out(shot_with(mask), mask), np.random.default_rng(0))
    assert where.shape == (40, 50)
    assert where.any()
