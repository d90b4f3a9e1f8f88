"""The figures of a base, against cases whose answer is known."""

import numpy as np
import pytest
import torch

from dual_anodiff.pretrain import fidelity
from dual_anodiff.pretrain.corpus import KIND_NAMES, suitable_defects


def test_contrast_kept_is_the_share_of_the_defect_that_is_left() -> None:
    torch.manual_seed(0)
    contrast, mask = torch.randn(4, 3, 16, 16), torch.zeros(4, 1, 16, 16)
    mask[..., 4:9, 3:12] = 1
    for share in (0.0, 0.4, 1.0):
        kept = fidelity.contrast_kept(contrast, share * contrast, mask)
        torch.testing.assert_close(kept, torch.full((4,), share))
    outside = share * contrast + 5 * (1 - mask)  # what happens outside of the mask does not count
    torch.testing.assert_close(fidelity.contrast_kept(contrast, outside, mask), torch.ones(4))


def test_psnr_of_a_known_error() -> None:
    picture = torch.zeros(2, 3, 8, 8)
    # an error of 0.2 in [-1, 1] is 0.1 of the full range: 20 dB
    torch.testing.assert_close(fidelity.psnr(picture + 0.2, picture), torch.full((2,), 20.0))


def test_kid_tells_drawn_parts_from_noise_and_not_from_drawn_parts() -> None:
    features = fidelity.Features()
    mix = fidelity.caption_mix([0, 5, 20], 48, seed=0)
    first, second = (
        [fidelity.draw_held_out(k, d, n + i).image for i, (k, d) in enumerate(mix)] for n in (0, 500)
    )
    noise = list(torch.rand(6, 8, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    same, _ = fidelity.kid(features, first, second, 48)
    other, _ = fidelity.kid(features, first, noise, 48)
    assert other > 20 * abs(same)


def test_held_out_pictures_are_the_same_each_time_and_differ_by_number() -> None:
    a, b, c = (fidelity.draw_held_out(3, 2, n).image for n in (7, 7, 8))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_caption_mix_asks_only_for_defects_that_suit() -> None:
    mix = fidelity.caption_mix(range(len(KIND_NAMES)), 1000, seed=0)
    assert len(mix) == 125
    assert {k for k, _ in mix} == set(range(len(KIND_NAMES)))
    assert all(d == 0 or d in suitable_defects(k) for k, d in mix)


@pytest.mark.parametrize(("spread", "low", "high"), [(0.01, 0.99, 1.0), (100.0, 0.2, 0.47)])
def test_probe_reads_what_is_in_the_features_and_no_more(spread: float, low: float, high: float) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(150) % 3
    features = (np.eye(3)[labels] + spread * rng.normal(size=(150, 3))).astype(np.float32)
    assert low <= fidelity.probe(features, labels.tolist()) <= high
