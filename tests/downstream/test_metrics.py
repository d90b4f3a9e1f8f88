"""Metrics against scikit-learn and against AUPRO as slowly and plainly as its definition reads."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from downstream.metrics import (
    aupro,
    best_threshold,
    image_metrics,
    metrics_table,
    pixel_metrics,
    threshold_metrics,
)
from downstream.prediction import Predictions


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
        table = metrics_table(part).set_index(["defect_type", "metric"])
        assert np.isnan(table["value"][("all", "image_auroc")])
        assert reason in table["note"][("all", "image_auroc")]
        assert (table["note"] != "").equals(table["value"].isna())


def test_the_table_holds_each_defect_type_beside_the_good_pictures() -> None:
    given = random_predictions(1)
    table = metrics_table(given)
    counts = table.groupby("defect_type")[["n_good", "n_defect"]].first().to_dict("index")
    assert counts == {
        "all": {"n_good": 4, "n_defect": 8},
        "dot": {"n_good": 4, "n_defect": 4},
        "line": {"n_good": 4, "n_defect": 4},
    }
    keep = given.label != "dot"
    expected = pixel_metrics(given.anomaly_map[keep], given.gt_mask[keep])["aupro"]
    of_line = table[(table["defect_type"] == "line") & (table["metric"] == "aupro")]
    assert of_line["value"].item() == pytest.approx(expected)
