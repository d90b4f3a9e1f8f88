"""A shot's defect cut out, changed and pasted."""

import numpy as np
import pytest
from scipy import ndimage

from dual_anodiff.errors import InputError
from dual_anodiff.paste import Change, borders, box_of, cut_out, paste

SHOT = np.full((60, 80, 3), 100, dtype=np.uint8)
MASK = np.zeros((60, 80), dtype=bool)
MASK[20:26, 30:50] = True
MASK[20:32, 30:34] = True  # an L: mirrored and turned it is another
SHOT[MASK] = 220


def test_an_unchanged_defect_keeps_its_pixels_and_lies_where_it_was_wished() -> None:
    picture, mask = paste(np.full((90, 70, 3), 100, dtype=np.uint8), cut_out(SHOT, MASK), 40, 10)
    box = box_of(mask)
    assert (box.top, box.left, box.height, box.width) == (40, 10, 12, 20)
    np.testing.assert_array_equal(mask[40:52, 10:30], MASK[20:32, 30:50])
    assert (picture[mask] == 220).all()
    assert (picture[~ndimage.binary_dilation(mask, iterations=8)] == 100).all()


def test_flips_mirror_picture_and_mask_alike() -> None:
    mirrored = cut_out(SHOT, MASK, Change(flip_x=True, flip_y=True))
    np.testing.assert_array_equal(mirrored.mask, cut_out(SHOT[::-1, ::-1], MASK[::-1, ::-1]).mask)
    assert (mirrored.pixels[mirrored.mask] == 220).all()
    assert (mirrored.pixels[~mirrored.mask] == 100).all()


def test_a_quarter_turn_against_the_clock_is_numpys() -> None:
    turned = cut_out(SHOT, MASK, Change(turn_deg=90))
    box, expected = turned.box, np.rot90(MASK[20:32, 30:50])
    np.testing.assert_array_equal(turned.mask[box.top : box.bottom, box.left : box.right], expected)
    assert (turned.pixels[turned.mask] > 200).mean() > 0.95


@pytest.mark.parametrize("scale", [0.5, 1.6])
def test_scale_changes_both_sides(scale: float) -> None:
    box = cut_out(SHOT, MASK, Change(turn_deg=0.0, scale=scale)).box
    np.testing.assert_allclose((box.height, box.width), (12 * scale, 20 * scale), atol=1.5)


def test_a_turned_scratch_of_one_pixel_stays_one() -> None:
    scratch = np.zeros_like(MASK)
    scratch[30, 10:70] = True
    turned = cut_out(SHOT, scratch, Change(turn_deg=33))
    assert ndimage.label(turned.mask, np.ones((3, 3)))[1] == 1
    assert turned.mask.sum() >= 50


def test_a_defect_at_a_border_is_not_doubled_by_the_mirror_beyond_it() -> None:
    at_edge = np.zeros_like(MASK)
    at_edge[:7, 20:40] = True
    assert borders(at_edge) == (True, False, False, False)
    cutout = cut_out(SHOT, at_edge)
    assert cutout.mask.sum() == at_edge.sum()
    picture, mask = paste(np.full((90, 70, 3), 100, dtype=np.uint8), cutout, 0, 12)
    assert mask[:7, 12:32].all()
    assert picture.shape == (90, 70, 3)


def test_brightness_follows_the_place_and_grey_normals_stay_grey() -> None:
    dark = np.full((90, 70, 3), 50, dtype=np.uint8)
    coloured = SHOT.copy()
    coloured[MASK] = (220, 180, 200)
    picture, mask = paste(dark, cut_out(coloured, MASK), 40, 10)
    assert (picture == picture[..., :1]).all()
    assert 80 < picture[mask].mean() < 130, "half as bright a place, half as bright a defect"


def test_what_cannot_be_pasted_is_refused() -> None:
    with pytest.raises(InputError, match="mask: 0 pixels are marked"):
        cut_out(SHOT, MASK & False)
    with pytest.raises(InputError, match=r"top, left: .*out of a picture of 80x60 px"):
        paste(SHOT, cut_out(SHOT, MASK), 61, 0)
