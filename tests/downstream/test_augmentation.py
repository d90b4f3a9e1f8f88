"""Random changes: picture and mask alike, thin defects kept, no border filled with black, draws of their own."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from downstream.augmentation import augment, moved_corners
from downstream.config import AugmentConfig

SIDE = 64
OFF: dict[str, Any] = {
    "horizontal_flip": False, "vertical_flip": False, "rotate90": False, "rotation": 0.0, "scale": 0.0, "shift": 0.0,
    "perspective": 0.0, "brightness": 0.0, "contrast": 0.0, "gamma": 0.0, "blur": 0.0, "noise": 0.0,
}  # fmt: skip
MOVES: dict[str, Any] = {
    "horizontal_flip": True, "vertical_flip": True, "rotate90": True, "rotation": 180.0, "scale": 0.25, "shift": 0.1,
    "perspective": 0.1,
}  # fmt: skip
LIGHT: dict[str, Any] = {"brightness": 0.3, "contrast": 0.3, "gamma": 0.5, "blur": 2.0, "noise": 0.05}


def only(**on: Any) -> AugmentConfig:
    """These changes alone, made to every picture."""
    return AugmentConfig.model_validate(OFF | {"probability": 1.0} | on)


def changed(images: Tensor, masks: Tensor, config: AugmentConfig, seed: int = 0) -> tuple[Tensor, Tensor]:
    return augment(images, masks, config, torch.Generator().manual_seed(seed))


def smooth(count: int) -> Tensor:
    """Soft random pictures. Shape: (count, 3, SIDE, SIDE) in .2..0.8."""
    coarse = torch.rand((count, 3, 6, 6), generator=torch.Generator().manual_seed(7)) * 0.6 + 0.2
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear")


@pytest.mark.parametrize("move", [*MOVES, "all"])
def test_picture_and_mask_move_alike(move: str) -> None:
    masks = torch.zeros(32, 1, SIDE, SIDE)
    masks[:, :, 20:36, 30:40] = 1
    moves = MOVES if move == "all" else {move: MOVES[move]}
    images, marks = changed(masks.repeat(1, 3, 1, 1), masks, only(**moves))
    marked = marks > 0.5
    assert set(marks.unique().tolist()) == {0, 1}
    assert marked[images[:, :1] > 0.51].all(), "all of the square is marked"
    assert (images[:, :1][marked] > 0.05).all(), "and no more than its soft rim"
    assert (marked != (masks > 0.5)).flatten(1).any(1).float().mean() > 0.4, "and they do move"
    area = marked.float().sum((1, 2, 3)) / 160
    assert 0.5 < area.min() <= area.max() < 2.2


@pytest.mark.parametrize("move", [*MOVES, "all"])
def test_a_defect_of_one_pixel_s_width_stays_and_stays_whole(move: str) -> None:
    """A straight crack, a slanting one, and a single pixel; well inside, so that none leaves nor is mirrored at the rim."""
    masks = torch.zeros(96, 1, SIDE, SIDE)
    masks[:32, :, 24:40, 31] = 1
    masks[32:64, :, range(24, 40), range(24, 40)] = 1
    masks[64:, :, 30, 33] = 1
    milder = MOVES | {"shift": 0.05, "scale": 0.2, "perspective": 0.03}
    moves = milder if move == "all" else {move: MOVES[move]}
    _, marks = changed(masks.repeat(1, 3, 1, 1), masks, only(**moves))
    area = marks.sum((1, 2, 3))
    assert area.min() >= 1
    for crack in marks[:64, 0]:
        _, pieces = ndimage.label(crack.numpy(), np.ones((3, 3)))
        assert pieces == 1
        assert max(crack.any(0).sum(), crack.any(1).sum()) >= 16 / 1.3 / 2**0.5
    assert area[:32].max() <= 2.5 * 16 * 1.3


def test_a_white_picture_has_no_black_corners() -> None:
    white = torch.ones(64, 3, SIDE, SIDE)
    images, _ = changed(white, white[:, :1], only(**MOVES))
    torch.testing.assert_close(images, white)


def test_off_changes_nothing_and_neither_does_auto_where_nothing_was_found() -> None:
    images, masks = smooth(8), (smooth(8)[:, :1] > 0.5).float()
    auto = only(**dict.fromkeys(("horizontal_flip", "vertical_flip", "rotate90", "rotation"), "auto"))
    flips = ("horizontal_flip", "vertical_flip", "rotate90")
    never = only(**MOVES | LIGHT | dict.fromkeys(flips, False) | {"probability": 0.0})
    for config in (only(), auto, never):
        out_images, out_masks = changed(images, masks, config)
        torch.testing.assert_close(out_images, images, rtol=0, atol=1e-6)
        assert torch.equal(out_masks, masks)


@pytest.mark.parametrize("light", LIGHT)
def test_light_and_sharpness_change_pictures_within_bounds_and_no_mask(light: str) -> None:
    images, masks = smooth(32), (smooth(32)[:, :1] > 0.5).float()
    lit, marks = changed(images, masks, only(**{light: LIGHT[light]}))
    assert torch.equal(marks, masks)
    assert 0 <= lit.min() <= lit.max() <= 1
    difference = (lit - images).abs().mean((1, 2, 3))
    assert (difference > 0).float().mean() > 0.9
    assert difference.max() < 0.2
    half, _ = changed(images, masks, AugmentConfig.model_validate(OFF | {light: LIGHT[light]}))
    share = ((half - images).abs().amax((1, 2, 3)) > 0).float().mean()
    assert 0.2 < share < 0.8, "made to half of the pictures"


def test_brightness_is_drawn_over_its_whole_range() -> None:
    grey = torch.full((256, 3, 4, 4), 0.5)
    level = changed(grey, grey[:, :1], only(brightness=0.2))[0].mean((1, 2, 3))
    assert level.min() == pytest.approx(0.4, abs=0.005)
    assert level.max() == pytest.approx(0.6, abs=0.005)


def test_grey_pictures_stay_grey() -> None:
    images = smooth(8)[:, :1].repeat(1, 3, 1, 1)
    lit, _ = changed(images, images[:, :1], only(**MOVES, **LIGHT))
    torch.testing.assert_close(lit[:, 0], lit[:, 2])


def test_the_same_seed_gives_the_same_batch() -> None:
    images, masks = smooth(8), (smooth(8)[:, :1] > 0.5).float()
    config = only(**MOVES, **LIGHT)
    once, again, other = (changed(images, masks, config, seed) for seed in (1, 1, 2))
    assert torch.equal(once[0], again[0])
    assert torch.equal(once[1], again[1])
    assert not torch.equal(once[0], other[0])


@pytest.mark.parametrize("switched_off", [*MOVES, *LIGHT])
def test_switching_a_change_off_leaves_the_others_draws_alone(switched_off: str) -> None:
    """The generator stands where it stood, and each other change alone is what it was."""
    images, masks = smooth(4), torch.zeros(4, 1, SIDE, SIDE)
    everything = only(**MOVES, **LIGHT)
    states = []
    for config in (everything, everything.model_copy(update={switched_off: OFF[switched_off]})):
        generator = torch.Generator().manual_seed(3)
        augment(images, masks, config, generator)
        states.append(generator.get_state())
    assert torch.equal(*states)
    draws = torch.rand((16, 20), generator=torch.Generator().manual_seed(3))
    for move in set(MOVES) - {switched_off}:
        alone = moved_corners(draws, only(**{move: MOVES[move]}))
        assert not torch.equal(alone, moved_corners(draws, only()))


def test_corners_go_where_each_change_says() -> None:
    draws = torch.rand((512, 20), generator=torch.Generator().manual_seed(0))
    still = moved_corners(draws, only())
    turned = moved_corners(draws, only(rotation=15))
    cosine = (turned[:, 0] * still[:, 0]).sum(1) / 2
    assert torch.rad2deg(torch.arccos(cosine.clamp(max=1))).max() == pytest.approx(15, abs=0.2)
    factor = moved_corners(draws, only(scale=0.25))[:, 2, 0]
    assert factor.min() == pytest.approx(0.8, abs=0.01)
    assert factor.max() == pytest.approx(1.25, abs=0.01)
    shift = (moved_corners(draws, only(shift=0.1)) - still)[:, 0] / 2
    assert shift.abs().max() == pytest.approx(0.1, abs=0.001)
    quarters = moved_corners(draws, only(rotate90=True))
    assert len(quarters.unique(dim=0)) == 4
    assert len(moved_corners(draws, only(horizontal_flip=True, vertical_flip=True)).unique(dim=0)) == 4


def test_auto_takes_what_was_found_and_leaves_what_the_user_set() -> None:
    found = {"horizontal_flip": True, "vertical_flip": True, "rotate90": True, "rotation": 15.0}
    settled = AugmentConfig(vertical_flip=False).settled(found)
    assert (settled.horizontal_flip, settled.vertical_flip, settled.rotate90, settled.rotation) == (
        True,
        False,
        True,
        15.0,
    )
    assert AugmentConfig().asks_normals
    assert not settled.asks_normals
    alone = AugmentConfig().settled({})
    assert (alone.horizontal_flip, alone.rotation) == (False, 0.0)
