"""A model's change on a real picture's own pixels, and the masks that must agree about it."""

import numpy as np
import pytest
import torch

from dual_anodiff.demo_data import draw_demo
from dual_anodiff.errors import InputError
from dual_anodiff.residual import agree, changed, feather, transfer
from tests.dual_anodiff.drawn_pairs import through_vae

SIZE = 32


def grainy(height: int, width: int, *, grey: bool = False) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.repeat(pixels[..., :1], 3, axis=2) if grey else pixels


def square(top: int, left: int, side: int, size: int = SIZE) -> torch.Tensor:
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[0, top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize("shape", [(20, 20), (32, 32), (75, 50)])
def test_outside_of_the_region_no_pixel_changes_and_inside_the_difference_is_added(
    shape: tuple[int, int],
) -> None:
    real = (grainy(*shape) // 4 + 96).astype(np.uint8)
    normal = torch.full((3, SIZE, SIZE), 0.3)
    region = np.zeros(shape, dtype=bool)
    region[5:15, 5:15] = True
    image = transfer(real, normal, normal - 20 / 127.5, feather(region, 3))
    np.testing.assert_array_equal(image[~region], real[~region])
    # Amid the region all of the difference shows, grain and all; nearer to its edge less.
    np.testing.assert_array_equal(image[9:11, 9:11], real[9:11, 9:11] - 20)
    added = real.astype(int)[10, 5:11].mean(-1) - image.astype(int)[10, 5:11].mean(-1)
    assert (np.diff(added) >= 0).all()
    assert 0 < added[0] < 10


def test_without_a_difference_a_picture_stays_what_it_was() -> None:
    real, normal = grainy(40, 30), torch.rand(3, SIZE, SIZE)
    np.testing.assert_array_equal(transfer(real, normal, normal, np.ones((40, 30), np.float32)), real)


def test_what_is_added_is_clipped_and_not_wrapped() -> None:
    real, normal = grainy(SIZE, SIZE), torch.full((3, SIZE, SIZE), -1.0)
    image = transfer(real, normal, torch.ones(3, SIZE, SIZE), np.ones((SIZE, SIZE), np.float32))
    assert (image == 255).all()


def test_a_grey_picture_stays_grey() -> None:
    real, normal = grainy(40, 30, grey=True), torch.zeros(3, SIZE, SIZE)
    tinted = normal + torch.tensor([0.2, 0.0, -0.1])[:, None, None]
    image = transfer(real, normal, tinted, np.ones((40, 30), np.float32))
    assert (image == image[..., :1]).all()
    assert (image != real).any()
    coloured = transfer(grainy(40, 30), normal, tinted, np.ones((40, 30), np.float32))
    assert (coloured != coloured[..., :1]).any()


def test_a_region_fades_to_its_edge_but_not_to_the_pictures_border() -> None:
    region = np.zeros((20, 20), dtype=bool)
    region[:, :10] = True
    alpha = feather(region, 4)
    assert (alpha[:, 10:] == 0).all()
    assert (alpha[:, :6] == 1).all()
    assert (np.diff(alpha[0, 5:11]) < 0).all()
    assert (feather(np.ones((4, 4), dtype=bool), 3) == 1).all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"transfer: .*alpha"):
        transfer(grainy(8, 8), torch.zeros(3, 4, 4), torch.zeros(3, 4, 4), np.zeros((4, 4), np.float32))


def test_a_drawn_defect_is_found_where_it_was_drawn_and_nothing_without_one() -> None:
    drawn = draw_demo("tile", "hole", 3, torch.Generator().manual_seed(11))
    everywhere = torch.ones(3, 128, 128, dtype=torch.bool)
    trip, truth = through_vae(drawn.normal), drawn.mask[:, 0]
    loss = trip - drawn.normal
    found = changed(trip, through_vae(drawn.image), loss, everywhere, 4)
    assert agree(found, truth).score.min() > 0.9
    assert not changed(trip, trip, loss, everywhere, 4).any()
    # Of a change outside of the regions nothing is said.
    beyond = torch.zeros_like(everywhere)
    assert not changed(trip, through_vae(drawn.image), loss, beyond, 4).any()


def test_grain_that_the_vae_loses_raises_the_limit() -> None:
    """The same faint change is one on a smooth part, and none where the round trip itself changes as much."""
    normal = torch.zeros(1, 3, SIZE, SIZE)
    result = normal + 0.15 * square(8, 8, 10)[:, None]
    grain = 0.8 * torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones(1, SIZE, SIZE, dtype=torch.bool)
    assert changed(normal, result, 0.01 * grain, everywhere, 4).sum() >= 64
    assert not changed(normal, result, grain, everywhere, 4).any()


@pytest.mark.parametrize(
    ("part", "change", "score"),
    [
        (square(8, 8, 4), square(8, 8, 4), 1.0),
        (square(8, 8, 4), square(10, 12, 4), 1.0),  # within a cell of 8 px
        (square(2, 2, 4), square(24, 24, 4), 0.0),
        (square(8, 8, 4), square(8, 8, 4) & False, 0.0),
        (square(8, 8, 4) & False, square(8, 8, 4), 0.0),
        (square(0, 0, 4), square(0, 0, 4) | square(20, 20, 4), 0.5),  # half of the change has no mask
    ],
)
def test_masks_agree_as_far_as_each_lies_within_a_cell_of_the_other(
    part: torch.Tensor, change: torch.Tensor, score: float
) -> None:
    assert agree(part, change).score.tolist() == [score]
