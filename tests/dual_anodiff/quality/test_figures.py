"""Quality figures on drawn defects, where what is good and what is damaged is known."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.config import QualityConfig
from dual_anodiff.demo_data import draw_demo
from dual_anodiff.errors import InputError
from dual_anodiff.quality.distribution import density_and_coverage, expected_coverage, fid, kid
from dual_anodiff.quality.features import Features, look
from dual_anodiff.quality.figures import Quality, quality
from dual_anodiff.quality.neighbours import find_neighbours
from dual_anodiff.quality.pairs import FLIPS, PairSet, flip_names, flipped, to_bytes
from dual_anodiff.quality.placement import centres, log_areas, mask_agreement, share_inside, within_shots
from dual_anodiff.quality.standard import Lpips, inception_features, load_inception, squared_distances

STANDARD = {"is", "kid", "fid", "ic_lpips"}
ALL_FLIPS = tuple(FLIPS)


def drawn(defect: str | None, count: int, seed: int) -> PairSet:
    """Pairs as good as real ones: drawn defects with their own masks."""
    made = draw_demo("tile", defect, count, torch.Generator().manual_seed(seed))
    mask = made.mask[:, 0].bool()
    return PairSet(to_bytes(made.image), mask, to_bytes(made.image * made.mask))


def joined(*sets: PairSet) -> PairSet:
    return PairSet(torch.cat([each.image for each in sets]), torch.cat([each.mask for each in sets]))


def changed(pairs: PairSet, change: Callable[[Tensor, Tensor], Tensor]) -> PairSet:
    """`change` gets the pictures in [-1, 1] and the masks (n, 1, h, w)."""
    images = change(pairs.image.float() / 127.5 - 1, pairs.mask[:, None].float())
    return PairSet(to_bytes(images), pairs.mask, pairs.anomaly)


def value(measured: Quality, metric: str) -> float:
    return float(measured.figures.set_index("metric")["value"][metric])


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def features() -> Features:
    return Features()


@pytest.fixture(scope="module")
def shots() -> PairSet:
    return drawn("hole", 5, seed=1)


@pytest.fixture(scope="module")
def pairs() -> PairSet:
    return drawn("hole", 16, seed=2)


@pytest.fixture(scope="module")
def normals() -> Tensor:
    return drawn(None, 12, seed=3).image


@pytest.fixture(scope="module")
def good(pairs: PairSet, shots: PairSet, normals: Tensor, features: Features) -> Quality:
    return quality(pairs, shots, normals, features=features)


def test_copies_of_shots_are_found_in_every_flip_and_nothing_else_is(
    pairs: PairSet, shots: PairSet, features: Features
) -> None:
    blurred = changed(shots, lambda x, _: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
    copies = [flipped(shots, flip) for flip in ALL_FLIPS]
    noise = PairSet(torch.randint(0, 256, (4, 3, 128, 128), dtype=torch.uint8), pairs.mask[:4])
    found = find_neighbours(joined(*copies, blurred, pairs, noise), shots, features, ALL_FLIPS).table
    of_shots, others = found.iloc[:25], found.iloc[25:]
    assert of_shots["copy"].all()
    assert of_shots["nearest_shot"].tolist() == list(range(5)) * 5
    assert of_shots["flip"].tolist() == [flip for flip in ALL_FLIPS for _ in range(5)] + [""] * 5
    assert not others["copy"].any()
    # Drawn anew they are about as far from the shots as these from each other, noise is further than all of them.
    assert 0.5 < others["relative"].iloc[:16].median() < 2
    assert others["distance"].iloc[16:].min() > others["distance"].iloc[:16].max()


def test_a_mirrored_copy_counts_only_where_the_shots_were_seen_mirrored(
    shots: PairSet, features: Features
) -> None:
    mirrored = flipped(shots, "horizontal")
    assert not find_neighbours(mirrored, shots, features, flip_names(False, True)).table["copy"].any()
    assert find_neighbours(mirrored, shots, features, flip_names(True, False)).table["copy"].all()


def test_a_defect_is_a_copy_on_another_background_but_not_in_another_place(
    shots: PairSet, features: Features
) -> None:
    lighter = changed(shots, lambda x, m: x * m + (1 - m) * (x * 0.9 + 0.05))
    away = PairSet(shots.image.roll(40, -1), shots.mask.roll(40, -1))
    assert find_neighbours(lighter, shots, features, ALL_FLIPS).table["copy"].all()
    assert not find_neighbours(away, shots, features, [""]).table["copy"].any()


def test_of_pairs_alike_the_first_is_no_repeat(
    pairs: PairSet, shots: PairSet, features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dual_anodiff.quality.neighbours.BLOCK", 4)  # so that repeats lie in other blocks
    few = PairSet(pairs.image[:5], pairs.mask[:5])
    found = find_neighbours(joined(few, flipped(few, "vertical"), few), shots, features, ALL_FLIPS).table
    assert found["repeat"].tolist() == [False] * 5 + [True] * 10
    assert found["earlier_pair"].iloc[5:10].tolist() == list(range(5))


def test_kid_and_fid_of_halves_of_one_set_are_about_zero(pairs: PairSet, features: Features) -> None:
    seen = look(features, pairs.image, pairs.mask).pooled
    noise = features(torch.randint(0, 256, (8, 3, 128, 128), dtype=torch.uint8))
    same, _ = kid(seen[:8], seen[8:], subset_size=8)
    other, _ = kid(seen[:8], noise, subset_size=8)
    assert abs(same) < 0.05
    assert other > 20 * abs(same)
    # In few dimensions and many pictures, where it is hardly biased: two draws, then two a unit apart.
    a, b = (torch.randn(2000, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert fid(a, b) == pytest.approx(0, abs=0.02)
    assert fid(a, b + 0.5) == pytest.approx(4 * 0.5**2, abs=0.1)


def test_coverage_is_what_is_expected_of_real_pictures() -> None:
    g = torch.Generator().manual_seed(0)
    found = []
    for _ in range(200):
        real, fake = torch.randn(5, 2, generator=g), torch.randn(12, 2, generator=g)
        own = torch.cdist(real, real).fill_diagonal_(torch.inf).amin(1)
        found.append(density_and_coverage(own, torch.cdist(real, fake)))
    density, coverage = torch.tensor(found).mean(0).tolist()
    assert coverage == pytest.approx(expected_coverage(5, 12), abs=0.03)
    assert density == pytest.approx(1, abs=0.1)


def test_figures_of_pairs_as_good_as_real_ones(good: Quality) -> None:
    assert abs(value(good, "kid_encoder")) < 0.1 * value(good, "kid_encoder_normals")
    assert value(good, "background_distance") == pytest.approx(1, abs=0.15)
    assert value(good, "coverage") > 0.5
    assert value(good, "mask_alignment") > 0.98
    assert value(good, "near_copies") == value(good, "near_copies_earlier") == 0
    assert value(good, "placement_size") > 0.6


def test_figures_fall_with_the_quality_that_they_are_of(
    pairs: PairSet, shots: PairSet, normals: Tensor, features: Features, good: Quality
) -> None:
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(pairs.image.shape, generator=g)

    def measured(damaged: PairSet) -> Quality:
        return quality(damaged, shots, normals, features=features)

    noisy = [
        measured(changed(pairs, lambda x, m, s=s: x + s * noise * (1 - m)))  # type: ignore[misc]
        for s in (0.05, 0.15)
    ]
    for metric in ("background_distance", "kid_encoder", "fid_encoder"):
        assert value(good, metric) < value(noisy[0], metric) < value(noisy[1], metric), metric
    assert value(noisy[1], "mask_outside") == value(good, "mask_outside")  # the parts are as they were

    # Noise looks like diversity; the figures of the background say that it is not the defects'.
    for metric in ("ic_distance_encoder", "ic_background_encoder"):
        assert value(noisy[1], metric) > 1.1 * value(good, metric), metric

    blotches = F.interpolate(torch.rand(len(pairs), 3, 5, 5, generator=g) * 2 - 1, pairs.image.shape[-2:])
    blotched = measured(changed(pairs, lambda x, m: x * m + (1 - m) * (x + blotches) / 2))
    for metric in ("kid_encoder", "background_distance"):
        assert value(blotched, metric) > 1.1 * value(good, metric), metric

    defects_gone = measured(changed(pairs, lambda x, m: x * (1 - m) + m * x.mean((2, 3), keepdim=True)))
    assert value(defects_gone, "mask_inside") < 0.6 < value(good, "mask_inside")
    assert value(defects_gone, "coverage") < value(good, "coverage")

    one = torch.zeros(16, dtype=torch.int64)
    assert pairs.anomaly is not None
    collapsed = measured(PairSet(pairs.image[one], pairs.mask[one], pairs.anomaly[one]))
    assert value(collapsed, "near_copies_earlier") == pytest.approx(15 / 16)
    assert value(collapsed, "ic_distance_encoder") == pytest.approx(0, abs=1e-4)
    assert value(collapsed, "coverage") < value(good, "coverage")

    wrong_defect = measured(drawn("crack", 16, seed=4))
    assert value(wrong_defect, "coverage") < 0.4
    assert value(wrong_defect, "density") < value(good, "density") / 2


def test_without_weights_no_standard_name_appears(good: Quality) -> None:
    metrics = set(good.figures["metric"])
    assert not metrics & STANDARD
    assert {"kid_encoder", "fid_encoder", "ic_distance_encoder"} <= metrics
    assert "is_encoder" not in metrics  # 128 px are too few for ImageNet's classes
    assert good.figures["metric"].is_unique


def test_too_few_pictures_are_said_to_be_too_few(
    pairs: PairSet, shots: PairSet, normals: Tensor, features: Features
) -> None:
    few = PairSet(pairs.image[:1], pairs.mask[:1])
    single = quality(few, PairSet(shots.image[:1], shots.mask[:1]), normals[:1], features=features)
    figures = single.figures.set_index("metric")
    for metric in ("kid_encoder", "fid_encoder", "coverage", "ic_distance_encoder", "placement_centre"):
        assert figures["value"].isna()[metric]
        assert figures["note"][metric] == "too few pictures"
    assert figures["value"]["near_copies"] == 0
    assert figures["note"]["near_copies"] == "few pictures"
    with pytest.raises(InputError, match="normals: none"):
        quality(few, shots, normals[:0], features=features)


def test_pairs_with_empty_masks_are_counted_and_left_out(
    pairs: PairSet, shots: PairSet, normals: Tensor, features: Features
) -> None:
    mask = pairs.mask[:8].clone()
    mask[:2] = False
    assert pairs.anomaly is not None
    measured = quality(
        PairSet(pairs.image[:8], mask, pairs.anomaly[:8]), shots, normals, features=features,
        objects=torch.ones(128, 128, dtype=torch.bool),
    )  # fmt: skip
    figures = measured.figures.set_index("metric")
    assert figures["value"]["mask_empty"] == 0.25
    assert figures["n"][["mask_alignment", "placement_centre", "coverage", "placement_in_object"]].eq(6).all()
    assert figures["value"]["placement_in_object"] == 1
    assert measured.pairs["mask_inside"].isna().tolist() == [True] * 2 + [False] * 6


def test_mask_agreement_of_known_parts() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 16, 16, generator=g) * 2 - 1
    m = torch.zeros(1, 16, 16, dtype=torch.bool)
    m[:, 4:10, 4:10] = True

    def agreement(part: Tensor) -> tuple[float, float]:
        inside, outside = mask_agreement(to_bytes(x), to_bytes(part), m)
        return float(inside), float(outside)

    assert agreement(x * m) == pytest.approx((1, 1), abs=1e-3)
    assert agreement(-x * m) == pytest.approx((0, 1), abs=1e-3)
    assert agreement(x * m / 2) == pytest.approx((2 * 0.5 / 1.25, 1), abs=1e-2)
    assert agreement(torch.full_like(x, 0.5))[1] == pytest.approx(36 / 256, abs=1e-3)


def test_placement_of_known_masks() -> None:
    def square(x: int, y: int, side: int) -> Tensor:
        mask = torch.zeros(1, 64, 64, dtype=torch.bool)
        mask[:, y : y + side, x : x + side] = True
        return mask

    assert centres(square(8, 24, 8)).tolist() == [[12 / 64, 28 / 64]]
    shots = torch.cat([square(4, 4, 8), square(10, 6, 12)])
    mirrored = [shots, shots.flip(-1)]
    near, mirrored_near, middle = square(6, 6, 8), square(50, 6, 8), square(28, 28, 8)
    asked = torch.cat([near, mirrored_near, middle])
    assert within_shots(centres(asked), [centres(m) for m in mirrored]).tolist() == [True, True, False]
    assert within_shots(centres(asked), [centres(shots)]).tolist() == [True, False, False]
    sizes = torch.cat([square(0, 0, 9), square(0, 0, 40), square(0, 0, 2), torch.zeros_like(near)])
    assert within_shots(log_areas(sizes), [log_areas(shots)]).tolist() == [True, False, False, False]
    assert share_inside(middle, square(28, 28, 4)[0]).tolist() == [0.25]


def backbone(net: str, seed: int, path: Path) -> Path:
    """Random weights of torchvision's network, named as in its state dict; the classifier is not asked for."""
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: Any = torchvision.models.alexnet if net == "alex" else torchvision.models.vgg16
        layers = made(init_weights=False).features if net == "vgg" else made().features
    torch.save({f"features.{name}": tensor for name, tensor in layers.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_is_torchmetrics_own_with_the_weights_of_the_file(
    net: Any, pairs: PairSet, tmp_path: Path
) -> None:
    small = pairs.image[:3, :, ::2, ::2]
    lpips = Lpips(net, backbone(net, 0, tmp_path / "0.pth"))
    vectors = lpips.embed(small)
    images = small.float() / 127.5 - 1
    expected = torch.stack([lpips.network(images, each[None].expand_as(images)).flatten() for each in images])
    torch.testing.assert_close(squared_distances(vectors, vectors), expected, atol=1e-4, rtol=1e-3)
    assert expected.max() > 0.01
    other = Lpips(net, backbone(net, 1, tmp_path / "1.pth")).embed(small)
    assert not torch.allclose(squared_distances(other, other), expected, rtol=1e-2)


def test_ic_lpips_appears_with_weights_and_falls_when_pairs_are_alike(
    pairs: PairSet, shots: PairSet, normals: Tensor, features: Features, tmp_path: Path
) -> None:
    config = QualityConfig(lpips_weights=backbone("alex", 0, tmp_path / "alex.pth"), lpips_net="alex")
    few = PairSet(shots.image[:1], shots.mask[:1])
    images = pairs.image[:6]
    alike = torch.cat([images[:2], images[:1].expand(4, -1, -1, -1)])
    measured = [
        quality(PairSet(each, pairs.mask[:6]), few, normals[:2], config, features=features)
        for each in (images, alike)
    ]
    assert value(measured[0], "ic_lpips") > value(measured[1], "ic_lpips") > 0
    with pytest.raises(InputError, match=r"quality\.lpips_weights: .*VGG-16's state dict"):
        quality(pairs, few, normals, config.model_copy(update={"lpips_net": "vgg"}), features=features)


@pytest.mark.parametrize("field", ["inception_weights", "lpips_weights"])
def test_weights_that_cannot_be_used_are_refused_by_name(
    field: str, pairs: PairSet, shots: PairSet, normals: Tensor, tmp_path: Path
) -> None:
    missing, pickled = tmp_path / "missing.pth", tmp_path / "pickled.pth"
    torch.save({"run": pd.DataFrame()}, pickled)
    for path in (missing, pickled):
        with pytest.raises(InputError, match=rf"quality\.{field}: .*{path.name}"):
            quality(pairs, shots, normals, QualityConfig.model_validate({field: path}))


@pytest.mark.skipif(find_spec("torch_fidelity") is not None, reason="torch-fidelity is installed")
def test_inception_weights_without_their_package_say_what_to_install(tmp_path: Path) -> None:
    torch.save({"fc.bias": torch.zeros(1008)}, tmp_path / "inception.pth")
    with pytest.raises(InputError, match="pip install torch-fidelity"):
        load_inception(tmp_path / "inception.pth")


@pytest.mark.slow
def test_inception_figures_bear_the_standard_names_and_are_of_the_file(
    pairs: PairSet, shots: PairSet, normals: Tensor, features: Features, tmp_path: Path
) -> None:
    layers = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

    class Random(layers.FeatureExtractorInceptionV3):  # type: ignore[name-defined]
        """The network with its random start, whatever it is told to load."""

        def load_state_dict(self, *_: object) -> None:
            return None

    empty, weights = tmp_path / "empty.pth", tmp_path / "inception.pth"
    torch.save({}, empty)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(Random("random", ["2048"], str(empty)).state_dict(), weights)
    few = PairSet(pairs.image[:4], pairs.mask[:4])
    reference = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(weights)).inception
    found, _ = inception_features(few.image, weights)
    torch.testing.assert_close(found, reference(few.image))

    measured = quality(
        few, PairSet(shots.image[:2], shots.mask[:2]), normals[:2], QualityConfig(inception_weights=weights),
        features=features,
    )  # fmt: skip
    assert STANDARD - {"ic_lpips"} <= set(measured.figures["metric"])
    logits = NoTrainInceptionV3("inception-v3-compat", ["logits_unbiased"], str(weights))(few.image)
    kl = (logits.softmax(1) * (logits.log_softmax(1) - logits.softmax(1).mean(0).log())).sum(1)
    assert value(measured, "is") == pytest.approx(float(kl.mean().exp()), rel=1e-4)
    with pytest.raises(InputError, match="weights-inception-2015-12-05"):
        load_inception(empty)
