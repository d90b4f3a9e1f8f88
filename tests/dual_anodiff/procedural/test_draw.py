"""Drawn parts: exact masks, seeds, and ranges that pretraining and demo do not share."""

import pytest
import torch

from dual_anodiff.procedural import defects, draw, parts


def drawn(kind: str, defect: str | None, seed: int = 0, b: int = 4) -> draw.Drawn:
    g = torch.Generator().manual_seed(seed)
    return draw.draw(kind, defect, draw.random_look(b, g, parts.PRETRAIN_RANGE), g, size_px=64)


@pytest.mark.parametrize("kind", parts.KINDS)
def test_every_kind_gives_pictures_in_range_and_no_two_alike(kind: str) -> None:
    d = drawn(kind, None)
    assert d.image.shape == (4, 3, 64, 64)
    assert d.image.min() >= -1
    assert d.image.max() <= 1
    assert not d.mask.any()
    assert (d.image[0] - d.image[1]).abs().mean() > 0.01


@pytest.mark.parametrize("defect", defects.DEFECTS)
def test_the_mask_is_where_the_picture_changed(defect: str) -> None:
    """Against the same exposure without the defect: strong change lies within 3 px of the mask.

    But for shadows: where the outline changes, so does the table's shading, and there a few pixels may differ.
    """
    for seed, kind in enumerate(defects.SUITS[defect][::3]):
        d = drawn(kind, defect, seed, b=8)
        change = (d.image - d.normal).abs().mean(1, keepdim=True)
        near = torch.nn.functional.max_pool2d(d.mask.float(), 7, stride=1, padding=3) > 0
        assert d.mask.flatten(1).any(1).all(), kind
        assert (change[~near] > 0.15).float().mean() < 0.01, kind
        assert change[d.mask].mean() > 4 * change[~near].mean(), kind


def test_same_seed_same_picture() -> None:
    assert torch.equal(drawn("gear", "crack").image, drawn("gear", "crack").image)
    assert not torch.equal(drawn("gear", "crack").image, drawn("gear", "crack", seed=1).image)


def test_demo_parameters_never_meet_those_of_pretraining() -> None:
    assert parts.PRETRAIN_RANGE[1] < parts.DEMO_RANGE[0]
    assert defects.PRETRAIN_SIZE[1] < defects.DEMO_SIZE[0]
    g = torch.Generator().manual_seed(0)
    u = draw.random_look(500, g, parts.DEMO_RANGE).u[:, :2]
    assert u.min() >= parts.DEMO_RANGE[0]
    assert u.max() <= parts.DEMO_RANGE[1]
