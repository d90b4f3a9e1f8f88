"""The bootstrap's figures are the metrics' own, its interval covers, and its verdicts say what it shows."""

from dataclasses import replace

import numpy as np
import pytest

from downstream.errors import PredictionError
from downstream.lift import lift
from downstream.metrics import metrics_table
from downstream.prediction import Predictions

from .test_metrics import random_predictions


def resampled(given: Predictions, rows: np.ndarray) -> Predictions:
    return replace(
        given,
        image_path=given.image_path[rows],
        label=given.label[rows],
        label_index=given.label_index[rows],
        anomaly_map=given.anomaly_map[rows],
        gt_mask=given.gt_mask[rows],
        pred_score=given.pred_score[rows],
    )


@pytest.mark.parametrize("levels", [0, 7])
def test_values_equal_the_metrics_table(levels: int) -> None:
    given = random_predictions(3, levels=levels)
    table = metrics_table(given).set_index(["defect_type", "metric"])["value"]
    for result in lift([given], [given], resamples=5):
        assert result.value == pytest.approx(float(table[("all", result.metric)]), abs=1e-5), result.metric
        assert result.difference == 0


def test_a_redraw_equals_the_metric_on_the_redrawn_pictures() -> None:
    """Weights of 2 and 0 must do what repeating and leaving out pictures does."""
    from downstream.lift import METRICS, _evaluate

    given = random_predictions(4)
    rows = np.array([0, 0, 1, 1, 2, 5, 4, 7, 9, 9, 10, 8])
    weights = np.bincount(rows, minlength=12)[None].astype(np.float64)
    table = metrics_table(resampled(given, rows)).set_index(["defect_type", "metric"])["value"]
    for metric, value in _evaluate(given, weights, METRICS).items():
        assert value[0] == pytest.approx(float(table[("all", metric)]), abs=1e-5), metric


def test_verdicts() -> None:
    weak, strong = random_predictions(5, n=45, signal=0.05), random_predictions(5, n=45, signal=0.8)
    strong = replace(strong, gt_mask=weak.gt_mask)
    by_metric = {r.metric: r for r in lift([weak], [strong], resamples=100)}
    result = by_metric["pixel_ap"]
    assert result.verdict == "helps"
    assert result.low <= result.difference <= result.high
    assert (result.n_good, result.n_defect, result.n_seeds) == (15, 30, 1)
    assert {r.metric: r for r in lift([strong], [weak], resamples=100)}["pixel_ap"].verdict == "hurts"
    same = lift([weak], [weak], resamples=50)
    assert {r.verdict for r in same} == {"no difference shown"}
    few = lift([random_predictions(0)], [random_predictions(0)], resamples=50)
    assert {r.verdict for r in few} == {"too few test pictures"}


def test_fewer_escapes_help() -> None:
    deaf = random_predictions(6, n=60)
    deaf = replace(deaf, image_threshold=2.0)
    keen = replace(deaf, image_threshold=-1.0)
    by_metric = {
        r.metric: r for r in lift([deaf], [keen], resamples=50, metrics=["escape_rate", "overkill_rate"])
    }
    assert (by_metric["escape_rate"].difference, by_metric["escape_rate"].verdict) == (-1, "helps")
    assert (by_metric["overkill_rate"].difference, by_metric["overkill_rate"].verdict) == (1, "hurts")


def test_one_class_gives_no_verdict_and_no_crash() -> None:
    given = random_predictions(0, n=60)
    good = resampled(given, np.flatnonzero(given.label_index == 0))
    for result in lift([good], [good], resamples=20):
        assert result.verdict == "too few test pictures"


def test_several_seeds_are_averaged_and_widen_the_interval() -> None:
    base = [random_predictions(7, n=45, signal=0.3)] * 3
    seeds = [replace(random_predictions(7, n=45, signal=s), gt_mask=base[0].gt_mask) for s in (0.1, 0.3, 0.5)]
    one = {r.metric: r for r in lift(base[:1], seeds[1:2], resamples=200)}["pixel_ap"]
    three = {r.metric: r for r in lift(base, seeds, resamples=200)}["pixel_ap"]
    singles = [{r.metric: r for r in lift(base[:1], [s], resamples=2)}["pixel_ap"].value for s in seeds]
    assert three.value == pytest.approx(np.mean(singles))
    assert three.high - three.low > 2 * (one.high - one.low)
    assert three.n_seeds == 3


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Scores of two equally good models: 0 must lie in most 95 % intervals of the AUROC difference."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        given = random_predictions(0, n=90, size=7)
        noise = generator.normal(size=(2, 90)) + given.label_index
        a, b = (replace(given, pred_score=s.astype(np.float32)) for s in noise)
        (result,) = lift([a], [b], resamples=200, metrics=["image_auroc"])
        covered += result.low <= 0 <= result.high
    assert covered >= 51, "0.95 of 60 is 57, three standard deviations below are 52"


def test_different_pictures_are_refused() -> None:
    given = random_predictions(0)
    with pytest.raises(PredictionError, match="different test pictures"):
        lift([given], [resampled(given, np.arange(11))])
    with pytest.raises(PredictionError, match="at least one seed"):
        lift([], [given])
