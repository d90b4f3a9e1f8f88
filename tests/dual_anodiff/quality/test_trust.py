"""Trust in masks, and what is wrong with broken ones."""

import pytest
import torch

from dual_anodiff.images import to_pil
from dual_anodiff.masks import mask_from_part
from dual_anodiff.quality.trust import LARGEST_SHARE, failures, largest_share, mask_evidence, trust
from dual_anodiff.refine import refine
from tests.dual_anodiff.drawn_pairs import DrawnPairs, drawn_pairs, through_vae


@pytest.fixture(scope="module")
def pairs() -> DrawnPairs:
    return drawn_pairs("nut", "paint")


def masks_of(p: DrawnPairs, images: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    return refine(images, parts, mask_from_part(parts, p.threshold, 4), p.threshold)


def test_right_pairs_are_trusted_and_pass(pairs: DrawnPairs) -> None:
    masks = masks_of(pairs, pairs.images, pairs.parts)
    w = mask_evidence(pairs.images, pairs.parts, masks, pairs.threshold, pairs.objects)
    assert trust(w).min() > 0.5
    assert failures(w) == [""] * len(masks)


def test_a_part_that_the_image_does_not_show_is_unrelated_and_trusted_less(pairs: DrawnPairs) -> None:
    """On other nuts' pictures, and on the same part without its defect."""
    images = pairs.images.roll(1, 0)
    masks = masks_of(pairs, images, pairs.parts)
    w = mask_evidence(images, pairs.parts, masks, pairs.threshold)
    right = mask_evidence(pairs.images, pairs.parts, masks, pairs.threshold)
    assert failures(w).count("unrelated") >= len(masks) - 1
    assert (trust(w) < trust(right)).all()


def test_trust_falls_as_the_part_is_shifted_against_the_image(pairs: DrawnPairs) -> None:
    mean = []
    for by in (0, 4, 12):
        parts = pairs.parts.roll(by, -1)
        masks = mask_from_part(parts, pairs.threshold, 4)
        mean.append(float(trust(mask_evidence(pairs.images, parts, masks, pairs.threshold)).mean()))
    assert mean[0] > mean[1] > mean[2]


def test_empty_full_and_the_object_are_told_apart(pairs: DrawnPairs) -> None:
    objects = pairs.objects[:1]
    cases = {
        "empty": torch.zeros_like(objects),
        "full": torch.ones_like(objects),
        "object": objects,
    }
    assert 0.1 < objects.float().mean() < LARGEST_SHARE
    for name, mask in cases.items():
        image = pairs.images[:1]
        part = through_vae(image * mask[:, None])
        w = mask_evidence(image, part, mask, pairs.threshold, objects)
        assert failures(w) == [name]
    nothing = mask_evidence(image, torch.zeros_like(image), cases["empty"], pairs.threshold, objects)
    assert trust(nothing).item() == 0


def test_a_part_that_shows_the_whole_image_is_full_whatever_its_mask(pairs: DrawnPairs) -> None:
    """Where the image is as grey as a part's background no threshold parts the two."""
    images = 0.4 * pairs.images
    masks = masks_of(pairs, images, images)
    w = mask_evidence(images, images, masks, pairs.threshold)
    assert (w.share < LARGEST_SHARE).any()
    assert failures(w) == ["full"] * len(masks)


def test_an_object_that_is_the_whole_picture_is_none(pairs: DrawnPairs) -> None:
    whole = torch.ones_like(pairs.objects[:1])
    w = mask_evidence(pairs.images[:1], pairs.images[:1], whole, pairs.threshold, whole)
    assert w.object_iou.item() == 0
    assert failures(w) == ["full"]


def test_a_mask_off_the_object_is_not_trusted(pairs: DrawnPairs) -> None:
    masks = masks_of(pairs, pairs.images, pairs.parts)
    evidence = [
        mask_evidence(pairs.images, pairs.parts, masks, pairs.threshold, objects)
        for objects in (None, pairs.objects, torch.zeros_like(pairs.objects))
    ]
    free, on, off = (trust(w) for w in evidence)
    torch.testing.assert_close(on, free, atol=0.1, rtol=0)
    assert not off.any()


def test_saved_pictures_give_the_same_verdicts(pairs: DrawnPairs) -> None:
    """Curation reads 8-bit files."""

    def saved(x: torch.Tensor) -> torch.Tensor:
        return ((x + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1

    assert to_pil(pairs.images[0]).mode == "RGB"
    masks = masks_of(pairs, pairs.images, pairs.parts)
    w, again = (
        mask_evidence(f(pairs.images), f(pairs.parts), masks, pairs.threshold) for f in (torch.clone, saved)
    )
    torch.testing.assert_close(trust(w), trust(again), atol=0.05, rtol=0)
    assert failures(w) == failures(again)


def test_the_largest_share_follows_the_shots() -> None:
    shots = torch.zeros(2, 10, 10)
    shots[0, 0, :5] = 1
    assert largest_share(shots) == pytest.approx(0.2)
    assert largest_share(torch.ones(1, 4, 4)) == LARGEST_SHARE
    w = mask_evidence(
        torch.ones(1, 3, 10, 10), torch.ones(1, 3, 10, 10), torch.ones(1, 10, 10, dtype=torch.bool), 0.1
    )
    assert failures(w, max_share=1.0) == ["unrelated"]  # nothing around it to be seen against
