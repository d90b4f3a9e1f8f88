"""Defects: masks that are never empty and stay on the part, sizes that grow, kinds that suit."""

import pytest
import torch

from dual_anodiff.procedural import defects, draw, parts

B = 8


def drawn(
    kind: str, defect: str, seed: int, size_range: tuple[float, float] = defects.PRETRAIN_SIZE
) -> draw.Drawn:
    g = torch.Generator().manual_seed(seed)
    return draw.draw(kind, defect, draw.random_look(B, g, parts.PRETRAIN_RANGE), g, size_range=size_range)


def sampled(defect: str) -> tuple[str, ...]:
    """A few suitable kinds, not the same ones for every defect."""
    kinds = defects.SUITS[defect]
    return kinds[len(defect) % 7 % len(kinds) :: 7]


def test_every_defect_suits_some_known_kind() -> None:
    assert set(defects.SUITS) == set(defects.DEFECTS)
    for kinds in defects.SUITS.values():
        assert kinds
        assert set(kinds) <= set(parts.KINDS)


@pytest.mark.parametrize("defect", defects.DEFECTS)
def test_no_mask_is_empty_however_small_the_defect(defect: str) -> None:
    smallest = defects.PRETRAIN_SIZE[0]
    for seed, kind in enumerate(sampled(defect)):
        mask = drawn(kind, defect, seed, (smallest, smallest)).mask
        assert mask.flatten(1).sum(1).min() >= 12, kind


@pytest.mark.parametrize("defect", defects.DEFECTS)
def test_region_is_in_range_and_on_the_old_or_the_new_part(defect: str) -> None:
    kind = sampled(defect)[0]
    sound = drawn(kind, "stain", 3).sound
    g = torch.Generator().manual_seed(3)
    damaged, region = defects.DEFECTS[defect](sound, defects.place(sound, defects.PRETRAIN_SIZE, g))
    assert region.min() >= 0
    assert (region <= torch.maximum(sound.inside, damaged.inside) + 1e-6).all()
    for field in (damaged.albedo, damaged.inside, damaged.gloss):
        assert field.min() >= 0
        assert field.max() <= 1 + 1e-6
    assert damaged.height.isfinite().all()


@pytest.mark.parametrize("defect", defects.DEFECTS)
def test_demo_defects_are_larger_than_those_of_pretraining(defect: str) -> None:
    kind = sampled(defect)[0]
    areas = [
        drawn(kind, defect, 5, sizes).mask.float().sum((1, 2, 3)).median()
        for sizes in (defects.PRETRAIN_SIZE, defects.DEMO_SIZE)
    ]
    assert areas[0] < areas[1]


@pytest.mark.parametrize("defect", defects.DEFECTS)
def test_defects_can_be_seen(defect: str) -> None:
    """At most one picture in eight changes by less than 0.06 of the range [-1, 1] within its mask."""
    d = drawn(sampled(defect)[-1], defect, 11)
    change = ((d.image - d.normal).abs().mean(1, keepdim=True) * d.mask).sum((1, 2, 3)) / d.mask.sum(
        (1, 2, 3)
    )
    assert (change < 0.06).sum() <= 1


def test_surface_beyond_the_region_is_left_as_it_was() -> None:
    """A dent changes no albedo; what it changes lies within two pixels of its mask."""
    sound = drawn("plate", "stain", 0).sound
    g = torch.Generator().manual_seed(0)
    damaged, region = defects.DEFECTS["dent"](sound, defects.place(sound, defects.PRETRAIN_SIZE, g))
    near = torch.nn.functional.max_pool2d((region > 0.5).float(), 5, stride=1, padding=2) > 0
    assert torch.equal(damaged.albedo, sound.albedo)
    assert (damaged.height - sound.height).abs()[~near & (sound.inside > 0.5)].max() < 0.002
