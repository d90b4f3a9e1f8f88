"""The bootstrap's figures are the metrics' own, its interval covers, and its verdicts say what it shows."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from downstream.errors import PredictionError
from downstream.figures.class_predictions import ClassPredictions
from downstream.figures.lift import CLASS_METRICS, bootstrap, lift, lift_table
from downstream.figures.metrics import image_metrics, metrics_table, pixel_metrics, threshold_metrics
from downstream.figures.predictions import Predictions
from tests.downstream.figures.test_metrics import random_predictions


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


def by_the_libraries(given: Predictions) -> dict[str, float]:
    """Every metric of lift, by torchmetrics, anomalib and plain counting."""
    return {
        **image_metrics(given.pred_score, given.label_index),
        **pixel_metrics(given.anomaly_map, given.gt_mask),
        **threshold_metrics(given.pred_score, given.label_index, given.image_threshold),
    }


@pytest.mark.parametrize("levels", [0, 7])
def test_values_equal_the_metrics_table_and_the_libraries(levels: int) -> None:
    given = random_predictions(3, levels=levels)
    table = metrics_table(given)
    table = table[(table["defect_type"] == "all") & (table["size"] == "all")].set_index("metric")
    expected = by_the_libraries(given)
    for result in lift([given], [given], resamples=5):
        assert result.value == pytest.approx(expected[result.metric], abs=1e-5), result.metric
        assert result.value == pytest.approx(table["value"][result.metric], abs=1e-12), result.metric
        assert result.difference == 0


def test_a_redraw_equals_the_metric_on_the_redrawn_pictures() -> None:
    """Weights of 2 and 0 must do what repeating and leaving out pictures does."""
    from downstream.figures.lift import METRICS, _evaluate

    given = random_predictions(4)
    rows = np.array([0, 0, 1, 1, 2, 5, 4, 7, 9, 9, 10, 8])
    weights = np.bincount(rows, minlength=12)[None].astype(np.float64)
    expected = by_the_libraries(resampled(given, rows))
    for metric, value in _evaluate(given, weights, METRICS).items():
        assert value[0] == pytest.approx(expected[metric], abs=1e-5), metric


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


def test_seeds_are_redrawn_alike_where_two_sides_score_the_same_and_else_by_themselves() -> None:
    seeds = [random_predictions(7, n=45, signal=signal) for signal in (0.1, 0.3, 0.5)]
    stricter = [replace(each, image_threshold=each.image_threshold + 0.1) for each in seeds]
    by_metric = {r.metric: r for r in lift(seeds, stricter, resamples=100)}
    assert (by_metric["pixel_ap"].low, by_metric["pixel_ap"].high) == (0, 0)
    assert by_metric["escape_rate"].low < by_metric["escape_rate"].high
    (turned,) = lift(seeds, seeds[::-1], resamples=100, metrics=["pixel_ap"])
    assert turned.low < 0 < turned.high, "no seed of one side belongs to one of the other"


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_the_interval_covers_the_truth_where_seeds_differ_more_than_pictures(num_seeds: int) -> None:
    assert 0.9 <= covered_of_200(num_seeds) / 200 < 1, "0.95, three standard deviations are 0.046"


def test_three_seeds_redrawn_plainly_would_cover_it_four_times_in_five(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("downstream.figures.lift._widened", lambda num_seeds: 1.0)
    assert 0.72 <= covered_of_200(3) / 200 <= 0.88, "0.8, three standard deviations are 0.085"


def covered_of_200(num_seeds: int) -> int:
    """Of 200 comparisons those whose interval holds 0, the truth.

    Both trainings hit 70 % on average, the easy pictures first; how many is the seed's luck.
    """
    generator = np.random.default_rng(num_seeds)
    classes = np.array(["bad", "good"])
    label = np.repeat(classes, 300)
    names = np.array([f"{i}.png" for i in range(len(label))])
    difficulty = generator.permutation(len(label)) / len(label)

    def trained() -> ClassPredictions:
        hit = difficulty < generator.normal(0.7, 0.07)
        probability = ((label[:, None] == classes) == hit[:, None]).astype(np.float32)
        return ClassPredictions(names, label, classes, probability)

    covered = 0
    for _ in range(200):
        a, b = ([trained() for _ in range(num_seeds)] for _ in range(2))
        (result,) = lift(a, b, resamples=200, metrics=["accuracy"])
        covered += result.low <= 0 <= result.high
    return covered


def test_different_pictures_are_refused() -> None:
    given = random_predictions(0)
    with pytest.raises(PredictionError, match="different test pictures"):
        lift([given], [resampled(given, np.arange(11))])
    with pytest.raises(PredictionError, match="at least one seed"):
        lift([], [given])


def random_classes(seed: int, *, n: int = 60, signal: float = 2.0, rare: int = 0) -> ClassPredictions:
    """Random probabilities that lean towards the truth by `signal`; the last `rare` pictures are of class "rare"."""
    generator = np.random.default_rng(seed)
    classes = np.array(["good", "crack", "hole", "rare"])
    label = np.array([classes[i % 3] for i in range(n - rare)] + ["rare"] * rare)
    logits = generator.normal(size=(n, 4)) + signal * (label[:, None] == classes)
    probability = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    return ClassPredictions(np.array([f"{i}.png" for i in range(n)]), label, classes, probability)


def test_redraws_of_class_metrics_equal_scikit_learn_on_the_redrawn_pictures() -> None:
    from downstream.figures.lift import _evaluate

    given = random_classes(0, signal=1.0)
    rows = np.concatenate([np.arange(0, 60, 2), np.arange(0, 60, 2)])  # each class keeps its number
    weights = np.vstack([np.ones(60), np.bincount(rows, minlength=60)]).astype(np.float64)
    values = _evaluate(given, weights, CLASS_METRICS)
    for row, chosen in enumerate((np.arange(60), rows)):
        truth, guess = given.label[chosen], given.pred_label[chosen]
        present = ["good", "crack", "hole"]  # "rare" is guessed at times, but no picture is of it
        macro_f1 = f1_score(truth, guess, labels=present, average="macro")
        recalls = [accuracy_score(truth[truth == name], guess[truth == name]) for name in present]
        assert values["accuracy"][row] == pytest.approx(accuracy_score(truth, guess))
        assert values["balanced_accuracy"][row] == pytest.approx(np.mean(recalls))
        assert values["macro_f1"][row] == pytest.approx(macro_f1)
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        wanted = balanced_accuracy_score(given.label, given.pred_label)
    assert values["balanced_accuracy"][0] == pytest.approx(wanted)


def test_verdicts_on_classes() -> None:
    weak, strong = random_classes(1, signal=0.3), random_classes(2, signal=3.0)
    assert {r.metric: r.verdict for r in lift([weak], [strong], resamples=100)} == dict.fromkeys(
        CLASS_METRICS, "helps"
    )
    assert {r.verdict for r in lift([strong], [weak], resamples=100)} == {"hurts"}
    assert {r.verdict for r in lift([weak], [weak], resamples=20)} == {"no difference shown"}
    (result,) = lift([weak], [strong], resamples=20, metrics=["accuracy"])
    assert (result.n_good, result.n_defect) == (20, 40)


def test_a_class_of_few_pictures_withholds_the_verdict_where_every_class_counts_alike() -> None:
    weak, strong = random_classes(1, signal=0.3, rare=3), random_classes(2, signal=3.0, rare=3)
    verdicts = {r.metric: r.verdict for r in lift([weak], [strong], resamples=100)}
    few = "too few test pictures"
    assert verdicts == {"accuracy": "helps", "balanced_accuracy": few, "macro_f1": few}


def test_the_table_compares_each_set_with_real_and_pairs_with_each_baseline_over_common_seeds() -> None:
    runs = {
        "real": {0: random_classes(1, signal=0.3), 1: random_classes(2, signal=0.3)},
        "perlin": {0: random_classes(3, signal=0.3)},
        "generated": {0: random_classes(4), 1: random_classes(5), 2: random_classes(6)},
        "copy-paste": {7: random_classes(7)},
    }
    table = lift_table(runs, resamples=20)
    of_accuracy = table[table["metric"] == "accuracy"]
    found = of_accuracy.set_index(["training_set", "against"])["n_seeds"].to_dict()
    assert found == {
        ("perlin", "real"): 1,
        ("generated", "real"): 2,
        ("generated", "perlin"): 1,
    }
    (one,) = lift([runs["perlin"][0]], [runs["generated"][0]], resamples=20, metrics=["accuracy"])
    row = of_accuracy[(of_accuracy["training_set"] == "generated") & (of_accuracy["against"] == "perlin")]
    assert row["difference"].item() == one.difference
    assert list(lift_table({"real": runs["real"]}).columns) == list(table.columns)


def test_all_sides_share_the_redrawn_pictures() -> None:
    """A side equal to another has the very same draws, or a difference of nothing would get an interval."""
    given = random_predictions(8, n=45)
    a, b, c = bootstrap([[given], [given], [given]], ["image_ap"], resamples=30, seed=1)
    np.testing.assert_array_equal(a["image_ap"], b["image_ap"])
    np.testing.assert_array_equal(a["image_ap"], c["image_ap"])


def test_classes_and_maps_are_not_compared() -> None:
    with pytest.raises(PredictionError, match="cannot be compared"):
        lift([random_classes(0)], [random_predictions(0, n=60)])
    other = replace(random_classes(0), label=np.roll(random_classes(0).label, 1))
    with pytest.raises(PredictionError, match="labelled otherwise"):
        lift([random_classes(0)], [other])
