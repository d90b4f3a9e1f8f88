"""The number of steps that held-out shots choose: best over all folds, fewest of equals, no single lucky score."""

import pytest

from downstream.training_curve import Curve, best_steps, steps_to_try


def test_steps_to_try_grow_by_the_root_of_two_between_the_bounds() -> None:
    assert steps_to_try(50, 800) == [50, 71, 100, 141, 200, 283, 400, 566, 800]
    assert steps_to_try(100, 150) == [100, 122, 150]
    assert steps_to_try(7, 7) == [7]


def test_the_best_mean_over_folds_is_chosen() -> None:
    steps = [1, 2, 4, 8]
    assert best_steps(steps, [{1: 0.1, 2: 0.3, 4: 0.6, 8: 0.5}, {1: 0.1, 2: 0.4, 4: 0.5, 8: 0.2}]) == 4
    assert best_steps(steps, [dict.fromkeys(steps, 0.5)]) == 1, "fewest of equals"


def test_a_single_high_score_does_not_choose() -> None:
    steps = [1, 2, 4, 8, 16, 32]
    lucky = {1: 0.0, 2: 0.65, 4: 0.0, 8: 0.5, 16: 0.6, 32: 0.55}
    assert best_steps(steps, [lucky]) == 16


def test_a_fold_that_ended_early_keeps_its_last_score() -> None:
    steps = [1, 2, 4, 8]
    early, late = {1: 0.8, 2: 0.5}, {1: 0.1, 2: 0.2, 4: 0.3, 8: 0.9}
    assert best_steps(steps, [early, late]) == 8


def test_without_a_fold_nothing_is_chosen() -> None:
    with pytest.raises(ValueError, match="no fold"):
        best_steps([1, 2], [])


def test_a_curve_goes_on_over_the_first_quarter_of_its_steps() -> None:
    curve = Curve([1, 2, 3, 4, 16])
    assert [curve.add(step, score) for step, score in [(1, 0.9), (2, 0.1), (3, 0.1)]] == [False] * 3
    assert curve.add(4, 0.1)


def test_a_curve_ends_two_looks_after_its_best() -> None:
    curve = Curve([1, 2, 4, 8])
    ends = [curve.add(step, score) for step, score in [(1, 0.2), (2, 0.3), (4, 0.3), (8, 0.1)]]
    assert ends == [False, False, False, True]
