"""The advice follows its stated rules, and says nothing where nothing is shown."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from downstream.errors import PredictionError
from downstream.figures.dose import (
    DoseCurve,
    DoseKind,
    _curve,
    advise_dose,
    advise_shots,
    curve_table,
    dose_curve,
    expected_gain,
    of_defect_type,
)
from downstream.figures.lift import lift
from downstream.figures.metrics import image_metrics
from tests.downstream.figures.test_metrics import random_predictions

from .test_lift import random_classes


def drawn(
    values: Mapping[int, float],
    spread: float = 0.005,
    *,
    kind: DoseKind = "pairs",
    n_test: int = 40,
    metric: str = "pixel_ap",
    n_seeds: int = 3,
) -> DoseCurve:
    """A curve through these values, each with independent noise of `spread` on its redraws."""
    generator = np.random.default_rng(0)
    draws = {
        dose: np.append(value, value + spread * generator.normal(size=400)) for dose, value in values.items()
    }
    return _curve(kind, metric, draws, dict.fromkeys(values, n_seeds), n_test)


def test_stop_where_more_is_not_shown_to_be_better() -> None:
    advice = advise_dose(drawn({0: 0.3, 25: 0.4, 50: 0.5, 100: 0.55, 200: 0.6, 500: 0.603}))
    assert advice.dose == 200
    assert advice.text.startswith(
        "stop at 200 pairs: 500 are not shown to be better on pixel_ap (+0.003, 95 %"
    )


def test_a_dose_between_that_is_worse_is_not_jumped_over() -> None:
    """25 happens to equal the best, 50 does not: chance, so the rule starts after 50."""
    assert advise_dose(drawn({0: 0.3, 25: 0.6, 50: 0.4, 100: 0.6, 200: 0.601})).dose == 100


def test_a_rising_curve_is_not_stopped() -> None:
    advice = advise_dose(drawn({0: 0.3, 50: 0.4, 200: 0.5}))
    assert advice.dose is None
    assert "still rising at 200 pairs" in advice.text


def test_too_many_pairs_are_named_as_worse() -> None:
    advice = advise_dose(drawn({0: 0.3, 50: 0.6, 200: 0.5, 500: 0.4}))
    assert advice.dose == 50
    assert "200, 500 pairs are worse than 50" in advice.text
    advice = advise_dose(drawn({0: 0.6, 50: 0.5, 200: 0.4}))
    assert advice.dose == 0, "pairs that hurt are not recommended"
    assert "stop at 0 pairs" in advice.text


@pytest.mark.parametrize("values", [{0: 0.3, 50: 0.32, 200: 0.31}, {0: 0.32, 50: 0.31, 200: 0.3}])
def test_nothing_is_advised_where_no_effect_is_shown(values: dict[int, float]) -> None:
    advice = advise_dose(drawn(values, spread=0.1))
    assert advice.dose is None
    assert advice.text.startswith("no effect of the number of pairs is shown on pixel_ap")


def test_too_little_evidence_is_said() -> None:
    assert "at least two" in advise_dose(drawn({50: 0.3})).text
    few = advise_dose(drawn({0: 0.3, 50: 0.9}, n_test=4))
    assert few.dose is None
    assert "4 test pictures" in few.text
    assert "one seed" in advise_dose(drawn({0: 0.3, 50: 0.9, 100: 0.9}, n_seeds=1)).text


def test_lower_is_better_for_escapes() -> None:
    assert advise_dose(drawn({0: 0.5, 50: 0.2, 200: 0.2}, metric="escape_rate")).dose == 50


def test_more_shots_are_advised_where_their_curve_rises() -> None:
    shots = {
        "crack": drawn({1: 0.1, 3: 0.3, 5: 0.4, 10: 0.5}, kind="shots"),
        "hole": drawn({1: 0.5, 3: 0.7, 5: 0.8, 10: 0.8}, kind="shots"),
        "fray": drawn({1: 0.5, 10: 0.8}, kind="shots", n_test=3),
        "stain": drawn({1: 0.1, 3: 0.3, 5: 0.4, 10: 0.6}, kind="shots"),
    }
    flat = drawn({0: 0.3, 100: 0.6, 200: 0.6})
    first, second, *others = (advice.text for advice in advise_shots(shots, flat))
    assert first.startswith("three more pictures of `stain` would help more than more pairs (+0.080 pixel_ap")
    assert second.startswith("three more pictures of `crack` would help more")
    assert any("`hole` are not shown to help" in text for text in others)
    assert any("nothing can be said on more pictures of `fray`: 3 test pictures" in text for text in others)
    steep = drawn({0: 0.1, 100: 0.4, 200: 0.8})
    assert all("would help more" not in advice.text for advice in advise_shots(shots, steep))


def test_the_expected_gain_flattens_as_learning_curves_do() -> None:
    curve = drawn({1: 0.0, 3: 0.1, 7: 0.2}, kind="shots")  # 0.1 for each doubling of 1 + dose
    assert expected_gain(curve, 8) == pytest.approx(0.1)
    assert expected_gain(curve, 1) == pytest.approx(0.1 * np.log2(9 / 8))
    assert expected_gain(drawn({1: 0.2, 3: 0.1}), 8) is None


def test_a_measured_curve_agrees_with_lift() -> None:
    truth = random_predictions(0, n=45)
    runs = {
        dose: [replace(random_predictions(0, n=45, signal=signal), gt_mask=truth.gt_mask)]
        for dose, signal in ((0, 0.05), (50, 0.5), (100, 0.8))
    }
    curve = dose_curve("pairs", runs, "pixel_ap", resamples=100)
    (result,) = lift(runs[0], runs[100], metrics=["pixel_ap"], resamples=100)
    gap = curve.points[0].to_best
    assert gap.value == pytest.approx(result.difference)
    assert (gap.low, gap.high) == pytest.approx((result.low, result.high))
    table = curve_table(curve)
    assert table["dose"].tolist() == [0, 50, 100]
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    assert curve.n_test == 15
    classes = {dose: [random_classes(dose, signal=signal)] for dose, signal in ((1, 0.3), (5, 3.0))}
    assert (
        "still rising at 5 shots" in advise_dose(dose_curve("shots", classes, "macro_f1", resamples=50)).text
    )


def test_a_curve_of_one_defect_type_holds_its_pictures_only() -> None:
    given = random_predictions(0, n=30)
    part = of_defect_type(given, "line")
    assert set(part.label.tolist()) == {"good", "line"}
    keep = given.label != "dot"
    assert image_metrics(part.pred_score, part.label_index) == image_metrics(
        given.pred_score[keep], given.label_index[keep]
    )
    with pytest.raises(PredictionError, match="no test picture of defect type 'rust'"):
        of_defect_type(given, "rust")


def test_a_curve_of_one_defect_type_is_of_classes_too() -> None:
    given = random_classes(0, signal=1.0)
    wanted = next(each for each in given.classes.tolist() if each != "good")
    part = of_defect_type(given, wanted)
    assert set(part.label.tolist()) == {"good", wanted}
    assert part.classes.tolist() == given.classes.tolist(), "another type may still be guessed"
    assert len(part.probability) == len(part.label) < len(given.label)
    assert np.array_equal(part.probability, given.probability[np.isin(given.label, ["good", wanted])])


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(PredictionError, match="no dose"):
        dose_curve("pairs", {}, "pixel_ap")
    given = random_predictions(0)
    good = of_defect_type(given, "line")
    good = replace(good, label_index=good.label_index * 0, gt_mask=good.gt_mask & False)
    with pytest.raises(PredictionError, match="not defined"):
        dose_curve("pairs", {0: [good], 5: [good]}, "pixel_ap", resamples=5)
