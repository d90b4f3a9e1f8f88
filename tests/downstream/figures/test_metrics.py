"""Metrics against scikit-learn and against AUPRO as slowly and plainly as its definition reads."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from downstream.figures.defect_sizes import SIZES, mask_shares, sizes_of
from downstream.figures.metrics import (
    aupro,
    best_threshold,
    image_metrics,
    metrics_table,
    pixel_metrics,
    threshold_metrics,
)
from downstream.figures.pimo import aupimo
from downstream.figures.predictions import Predictions


def random_predictions(
    seed: int, *, n: int = 12, size: int = 24, signal: float = 0.4, levels: int = 0
) -> Predictions:
    """Noise maps that lean towards the truth by `signal`; `levels` > 0 rounds them, so that scores tie."""
    generator = np.random.default_rng(seed)
    label = np.array([("good", "dot", "line")[i % 3] for i in range(n)])
    masks = np.zeros((n, size, size), dtype=bool)
    for i in np.flatnonzero(label != "good"):
        y, x = generator.integers(0, size - 6, 2)
        masks[i, y : y + 5, x : x + (2 if label[i] == "line" else 5)] = True
        masks[i, 0, 0] = masks[i, 1, 1] = True  # a second region, joined by its corner only
    maps = generator.random((n, size, size)) * (1 - signal) + signal * masks * generator.random((n, 1, 1))
    maps = np.round(maps * levels) / levels if levels else maps
    scores = maps.max(axis=(1, 2))
    return Predictions(
        image_path=np.array([f"{i}.png" for i in range(n)]),
        label=label,
        label_index=(label != "good").astype(np.int64),
        anomaly_map=maps.astype(np.float16).astype(np.float32),
        gt_mask=masks,
        pred_score=scores.astype(np.float32),
        pixel_threshold=0.5,
        image_threshold=float(np.median(scores)),
    )


def plain_aupro(maps: NDArray[np.float32], masks: NDArray[np.bool_], limit: float) -> float:
    """Per threshold: mean share found of each region (flood fill, 8 neighbours), against false positives."""
    regions = []
    for i, mask in enumerate(masks):
        left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
        while left:
            grow, region = [left.pop()], []
            while grow:
                y, x = grow.pop()
                region.append((i, y, x))
                near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
                left -= near
                grow += near
            regions.append(tuple(np.array(region).T))
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        found = maps >= threshold
        points.append((float(found[~masks].mean()), float(np.mean([found[r].mean() for r in regions]))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


@pytest.mark.parametrize("levels", [0, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_equal_an_independent_computation(seed: int, levels: int) -> None:
    given = random_predictions(seed, levels=levels)
    for prefix, scores, truth, values in (
        ("image", given.pred_score, given.label_index, image_metrics(given.pred_score, given.label_index)),
        ("pixel", given.anomaly_map, given.gt_mask, pixel_metrics(given.anomaly_map, given.gt_mask)),
    ):
        y, s = truth.ravel().astype(int), scores.ravel()
        precision, recall, _ = precision_recall_curve(y, s)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        assert values[f"{prefix}_auroc"] == pytest.approx(roc_auc_score(y, s), abs=1e-5)
        assert values[f"{prefix}_ap"] == pytest.approx(average_precision_score(y, s), abs=1e-5)
        assert values[f"{prefix}_f1_max"] == pytest.approx(f1.max(), abs=1e-5)
    assert aupro(given.anomaly_map, given.gt_mask) == pytest.approx(
        plain_aupro(given.anomaly_map, given.gt_mask, 0.3), abs=1e-5
    )


def test_scores_outside_0_to_1_keep_their_ranks() -> None:
    given = random_predictions(2)
    stretched = given.anomaly_map.astype(np.float64) * 900 - 40
    for name, value in pixel_metrics(stretched, given.gt_mask).items():
        assert value == pytest.approx(pixel_metrics(given.anomaly_map, given.gt_mask)[name], abs=1e-5), name


def test_the_best_threshold_has_the_best_f1_and_room_on_both_sides() -> None:
    generator = np.random.default_rng(0)
    scores, truth = generator.random(200).round(2), generator.random(200) < 0.3
    threshold = best_threshold(scores, truth)
    best = max(f1_score(truth, scores >= t) for t in np.unique(scores))
    assert f1_score(truth, scores >= threshold) == pytest.approx(best)
    assert best_threshold(np.array([0.1, 0.2, 0.6, 0.9]), np.array([0, 0, 1, 1])) == pytest.approx(0.4)
    assert best_threshold(np.array([0.5, 0.5]), np.array([0, 1])) == 0.5
    assert np.isnan(best_threshold(np.array([0.5]), np.array([1])))


def test_escape_and_overkill_are_what_a_line_counts() -> None:
    scores, labels = np.array([0.9, 0.5, 0.2, 0.6, 0.1, 0.1, 0.1]), np.array([1, 1, 1, 0, 0, 0, 0])
    rates = threshold_metrics(scores, labels, 0.5)
    assert rates["escape_rate"] == pytest.approx(1 / 3)
    assert rates["overkill_rate"] == pytest.approx(1 / 4)
    assert rates["image_f1"] == pytest.approx(f1_score(labels, scores >= 0.5))


def test_an_absent_class_gives_nan_and_the_reason() -> None:
    given = random_predictions(0)
    for keep, reason in ((given.label_index == 0, "no anomalous"), (given.label_index == 1, "no normal")):
        part = Predictions(
            given.image_path[keep],
            given.label[keep],
            given.label_index[keep],
            given.anomaly_map[keep],
            given.gt_mask[keep],
            given.pred_score[keep],
            0.5,
            0.5,
        )
        table = metrics_table(part)
        table = table[table["size"] == "all"].set_index(["defect_type", "metric"])
        assert np.isnan(table["value"][("all", "image_auroc")])
        assert reason in table["note"][("all", "image_auroc")]
        assert (table["note"] != "").equals(table["value"].isna())


@pytest.mark.parametrize("levels", [0, 7])
def test_the_table_holds_each_defect_type_and_size_as_the_libraries_compute_them(levels: int) -> None:
    """torchmetrics and anomalib on the group's own pictures, against the table's counts."""
    given = random_predictions(1, levels=levels)
    table = metrics_table(given)
    counts = table.groupby(["defect_type", "size"])[["n_good", "n_defect"]].first().to_dict("index")
    assert counts == {
        ("all", "all"): {"n_good": 4, "n_defect": 8},
        ("dot", "all"): {"n_good": 4, "n_defect": 4},
        ("line", "all"): {"n_good": 4, "n_defect": 4},
        ("all", "1-10 %"): {"n_good": 4, "n_defect": 8},  # 11 and 26 pixels of 576
    }
    for defect_type in ("all", "dot", "line"):
        keep = (given.label == "good") | (given.label == defect_type) | (defect_type == "all")
        scores, labels = given.pred_score[keep], given.label_index[keep]
        maps, masks = given.anomaly_map[keep], given.gt_mask[keep]
        rows = table[(table["defect_type"] == defect_type) & (table["size"] == "all")]
        value = rows.set_index("metric")["value"]
        expected = image_metrics(scores, labels) | pixel_metrics(maps, masks)
        expected |= threshold_metrics(scores, labels, given.image_threshold)
        expected["oracle_threshold"] = best_threshold(scores, labels)
        expected["oracle_pixel_threshold"] = best_threshold(maps, masks)
        expected["pixel_f1"] = f1_score(masks.ravel(), maps.ravel() >= given.pixel_threshold)
        expected["oracle_pixel_f1"] = f1_score(masks.ravel(), maps.ravel() >= value["oracle_pixel_threshold"])
        for metric, wanted in expected.items():
            assert value[metric] == pytest.approx(wanted, abs=1e-5), (defect_type, metric)


def test_sizes_are_shares_of_the_picture(tmp_path: Path) -> None:
    assert sizes_of(np.array([0.0005, 0.001, 0.05, 0.1, 0.5])).tolist() == [SIZES[i] for i in (0, 1, 2, 3, 3)]
    mask = np.zeros((20, 50), dtype=np.uint8)
    mask[0, :2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert mask_shares([str(tmp_path / "mask.png"), ""]).tolist() == [0.002, 0.0]
    given = random_predictions(1)
    shares = np.select([given.label == "line", given.label == "dot"], [0.0002, 0.3], 0.0)
    table = metrics_table(given, shares)
    for defect_type, size in (("line", "<0.1 %"), ("dot", ">10 %")):
        of_type, of_size = table["defect_type"] == defect_type, table["size"] == size
        assert of_type.sum() == of_size.sum() > 0
        np.testing.assert_array_equal(table[of_type]["value"], table[of_size]["value"])


def test_the_oracle_shows_what_the_threshold_of_validation_costs() -> None:
    """Scores that part cleanly at 0.5, with a threshold from pairs that lies at 0.8."""
    given = random_predictions(0)
    scores = np.where(given.label == "good", 0.4, np.where(given.label == "dot", 0.6, 0.9)).astype(np.float32)
    table = metrics_table(replace(given, pred_score=scores, image_threshold=0.8))
    value = table[table["size"] == "all"].set_index(["defect_type", "metric"])["value"]
    assert value[("all", "oracle_threshold")] == pytest.approx(0.5)
    assert value[("all", "threshold")] == 0.8
    assert value[("all", "threshold_gap")] == pytest.approx(0.3)
    assert (value[("all", "image_f1")], value[("all", "oracle_image_f1")]) == (pytest.approx(2 / 3), 1.0)
    assert (value[("dot", "escape_rate")], value[("dot", "oracle_escape_rate")]) == (1.0, 0.0)
    assert (value[("line", "escape_rate")], value[("line", "threshold_gap")]) == (0.0, pytest.approx(0.15))


def test_aupimo_equals_anomalibs_own() -> None:
    """anomalib with its own 300,000 evenly spaced thresholds, on noise whose tail they resolve."""
    from anomalib.metrics.pimo.pimo import _AUPIMO

    generator = np.random.default_rng(0)
    maps = -np.log10(1 - generator.random((14, 256, 256)))  # a rate of 1e-4 lies at 4, of 1e-5 at 5
    masks = np.zeros(maps.shape, dtype=bool)
    masks[12:, 100:140, 100:140] = True
    maps[12:] += masks[12:] * np.array([3.5, 4.5])[:, None, None]
    reference = _AUPIMO(num_thresholds=300_000, return_average=False)
    reference.update(torch.from_numpy(maps), torch.from_numpy(masks))
    values, reason = aupimo(maps, masks)
    assert reason == ""
    assert np.isnan(values[:12]).all()
    np.testing.assert_allclose(values[12:], reference.compute()[1].aupimos[12:].numpy(), atol=5e-4)
    assert 0.1 < values[12] < values[13] < 0.9
    stretched, _ = aupimo(maps**3 * 100 - 7, masks)
    np.testing.assert_allclose(stretched, values, atol=1e-6)  # the order of scores is all that counts


def test_aupimo_says_why_it_is_not_defined() -> None:
    masks = np.zeros((3, 256, 256), dtype=bool)
    masks[0, :9, :9] = True
    saturated = np.ones(masks.shape, dtype=np.float32)
    for maps, truth, reason in (
        (saturated[:, :64, :64], masks[:, :64, :64], "needs 100000 pixels of good pictures, has 8192"),
        (saturated, masks, "share the highest score"),
        (saturated, masks & False, "no anomalous"),
        (saturated[:1], masks[:1], "no normal"),
    ):
        values, why = aupimo(maps, truth)
        assert np.isnan(values).all()
        assert reason in why
