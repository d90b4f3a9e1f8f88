"""Dose and response: how a metric grows with generated pairs or real shots, and what to advise.

A curve is measured by training with several doses and testing each on the same pictures; all its intervals come
from one bootstrap (downstream/figures/lift.py), so two doses are compared pair by pair. The rules:

1. Nothing is said with fewer than two doses or too few test pictures.
2. The best dose has the highest mean. If the interval of (best − smallest dose) holds 0, no effect of the dose is
   shown, and no number is advised, unless the smallest is the best and larger ones are shown to be worse.
3. Else the dose to stop at is the smallest one which, like all between it and the best, does not differ from the
   best (interval of the difference holds 0). What it may still lose is the interval's upper end, and is said.
4. If the largest dose is the only such one, the curve still rises; if a larger dose than the best is shown to be
   worse, that is said too.
5. More shots: the last step of a shots curve is drawn on along log(1 + dose), as learning curves flatten. It is
   advised only if that step's interval lies above 0 and the gain is more than doubling the pairs would give by
   the same rule (0 where the pairs' last step shows nothing).

The best dose was found on the test pictures: its figure is good for choosing the dose, not for reporting.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal, TypeVar

import numpy as np
import pandas as pd

from downstream.errors import PredictionError
from downstream.figures.class_predictions import ClassPredictions
from downstream.figures.counts import Floats
from downstream.figures.lift import (
    LOWER_IS_BETTER,
    MIN_PICTURES,
    Metric,
    Runs,
    bootstrap,
    interval,
    smallest_kind,
)
from downstream.figures.predictions import Predictions

DoseKind = Literal["pairs", "shots"]
R = TypeVar("R", Predictions, ClassPredictions)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is; False if it is not defined."""
        return self.low > 0

    @property
    def holds_zero(self) -> bool:
        """Whether 0 lies in the interval; True if it is not defined, which shows nothing."""
        return not (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class DosePoint:
    """One dose: the metric, and how much better (in the metric's good direction) other doses are.

    to_best: best dose − this one; from_previous: this one − the next smaller one (None for the smallest).
    """

    dose: int
    metric: Estimate
    to_best: Estimate
    from_previous: Estimate | None
    n_seeds: int


@dataclass(frozen=True)
class DoseCurve:
    """A metric over the doses, smallest first. Counts: test pictures of the rarer kind."""

    kind: DoseKind
    metric: str
    points: tuple[DosePoint, ...]
    n_test: int


@dataclass(frozen=True)
class Advice:
    """What to do, in words; `dose` is the dose advised, None where nothing can be said or only words will do."""

    text: str
    dose: int | None = None


def dose_curve(
    kind: DoseKind, runs: Mapping[int, Runs], metric: Metric, *, resamples: int = 500, seed: int = 0
) -> DoseCurve:
    """Measure one curve: `runs` holds each dose's predictions, one of each seed, all on the same test pictures.

    Raises: PredictionError without a dose, or if pictures differ or a dose has no predictions.
    """
    if not runs:
        raise PredictionError(f"no dose of {kind} was measured: give predictions of at least one.")
    doses = sorted(runs)
    sides = bootstrap([runs[dose] for dose in doses], [metric], resamples=resamples, seed=seed)
    return _curve(
        kind,
        metric,
        {dose: side[metric] for dose, side in zip(doses, sides, strict=True)},
        {dose: len(runs[dose]) for dose in doses},
        smallest_kind(runs[doses[0]][0], metric),
    )


def of_defect_type(run: R, defect_type: str) -> R:
    """The good pictures and those of one defect type, for a curve of that type alone. Raises: PredictionError."""
    chosen = (run.label == "good") | (run.label == defect_type)
    if not (run.label == defect_type).any():
        found = sorted(set(run.label.tolist()) - {"good"})
        raise PredictionError(f"no test picture of defect type {defect_type!r}; there are {found}.")
    arrays = {
        field.name: getattr(run, field.name)[chosen]
        for field in fields(run)
        # A guess may be of any class, also where the pictures are of two.
        if isinstance(getattr(run, field.name), np.ndarray) and field.name != "classes"
    }
    return replace(run, **arrays)


def curve_table(curve: DoseCurve) -> pd.DataFrame:
    """One row a dose: kind, metric, dose, value, low, high, gap to the best with its interval, n_seeds, n_test."""
    rows = []
    for point in curve.points:
        gap = {f"to_best_{name}": value for name, value in asdict(point.to_best).items()}
        rows.append(
            {"kind": curve.kind, "metric": curve.metric, "dose": point.dose, **asdict(point.metric), **gap}
            | {"n_seeds": point.n_seeds, "n_test": curve.n_test}
        )
    return pd.DataFrame(rows)


def advise_dose(curve: DoseCurve, *, min_pictures: int = MIN_PICTURES) -> Advice:
    """Rules 1 to 4 on one curve."""
    unit, points = curve.kind, curve.points
    if len(points) < 2:
        return Advice(
            f"nothing can be said on the number of {unit}: one dose was measured, at least two are needed"
        )
    if curve.n_test < min_pictures:
        return Advice(
            f"nothing can be said on the number of {unit}: {curve.n_test} test pictures of the rarer kind, "
            f"at least {min_pictures} are needed"
        )
    best = _best(points)
    first, top = points[0], points[best]
    worse = [point for point in points[best + 1 :] if not point.to_best.holds_zero]
    tail = f"; {_join(worse)} {unit} are worse than {top.dose}" if worse else ""
    if min(point.n_seeds for point in points) == 1:
        tail += "; one seed: another may differ by more"
    if first.to_best.holds_zero and not (best == 0 and worse):
        differs = f": {top.dose} against {first.dose} {_words(first.to_best)}" if best else ""
        return Advice(f"no effect of the number of {unit} is shown on {curve.metric}{differs}{tail}")
    enough = best
    while enough and points[enough - 1].to_best.holds_zero:
        enough -= 1
    at = points[enough]
    if enough == len(points) - 1:
        step = _words(at.from_previous) if at.from_previous else ""
        text = f"still rising at {at.dose} {unit}: {curve.metric} {step} over {points[-2].dose}"
        return Advice(f"{text}; more may help{tail}")
    if enough == best:
        return Advice(
            f"stop at {at.dose} {unit}: the best on {curve.metric} of those measured{tail}", at.dose
        )
    return Advice(
        f"stop at {at.dose} {unit}: {top.dose} are not shown to be better on {curve.metric} "
        f"({_words(at.to_best)}){tail}",
        at.dose,
    )


def advise_shots(
    shots: Mapping[str, DoseCurve],
    pairs: DoseCurve | None = None,
    *,
    more: int = 3,
    min_pictures: int = MIN_PICTURES,
) -> list[Advice]:
    """Rule 5 for each defect type's curve over its shots, the largest gain first; then what can't be said."""
    by_pairs = 0.0
    if pairs is not None and pairs.n_test >= min_pictures:
        by_pairs = expected_gain(pairs, max(1, pairs.points[-1].dose)) or 0.0
    gains, others = [], []
    for defect_type, curve in sorted(shots.items()):
        if len(curve.points) < 2 or curve.n_test < min_pictures:
            why = (
                "one number of shots was measured"
                if len(curve.points) < 2
                else f"{curve.n_test} test pictures"
            )
            others.append(Advice(f"nothing can be said on more pictures of `{defect_type}`: {why}"))
            continue
        gain = expected_gain(curve, more)
        if gain is None:
            others.append(Advice(f"more pictures of `{defect_type}` are not shown to help {curve.metric}"))
        elif gain <= by_pairs:
            text = f"more pairs would help at least as much as {_number(more)} more of `{defect_type}`"
            others.append(Advice(f"{text} ({by_pairs:+.3f} and {gain:+.3f} {curve.metric} expected)"))
        else:
            than = " than more pairs" if pairs is not None else ""
            text = (
                f"{_number(more)} more pictures of `{defect_type}` would help{' more' if than else ''}{than}"
            )
            text += f" ({gain:+.3f} {curve.metric} expected from {curve.points[-1].dose} to "
            text += f"{curve.points[-1].dose + more} shots, if the curve goes on)"
            gains.append((gain, Advice(text, curve.points[-1].dose + more)))
    return [advice for _, advice in sorted(gains, key=lambda each: -each[0])] + others


def expected_gain(curve: DoseCurve, more: int) -> float | None:
    """What `more` beyond the largest dose would add, drawn on from the last step along log(1 + dose).

    None if that step's interval does not lie above 0.
    """
    step = curve.points[-1].from_previous
    if step is None or not step.above_zero:
        return None
    before, last = curve.points[-2].dose, curve.points[-1].dose
    return step.value * math.log((1 + last + more) / (1 + last)) / math.log((1 + last) / (1 + before))


def _curve(
    kind: DoseKind, metric: str, draws: Mapping[int, Floats], n_seeds: Mapping[int, int], n_test: int
) -> DoseCurve:
    """From each dose's value (row 0) and redraws. Shape: draws (1 + resamples,) each."""
    doses = sorted(draws)
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    means = np.array([sign * draws[dose][0] for dose in doses])
    if np.isnan(means).any():
        raise PredictionError(
            f"{metric} is not defined on these test pictures: no curve over {kind} to draw."
        )
    best = draws[doses[int(np.argmax(means))]]
    points = []
    for i, dose in enumerate(doses):
        step = _estimate(sign * (draws[dose] - draws[doses[i - 1]])) if i else None
        gap = _estimate(sign * (best - draws[dose]))
        points.append(DosePoint(dose, _estimate(draws[dose]), gap, step, n_seeds[dose]))
    return DoseCurve(kind, metric, tuple(points), n_test)


def _estimate(draws: Floats) -> Estimate:
    return Estimate(float(draws[0]), *interval(draws[1:]))


def _best(points: tuple[DosePoint, ...]) -> int:
    """The first point that nothing is better than."""
    return min(range(len(points)), key=lambda i: points[i].to_best.value)


def _words(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f}, 95 % {estimate.low:+.3f} to {estimate.high:+.3f}"


def _join(points: list[DosePoint]) -> str:
    return ", ".join(str(point.dose) for point in points)


def _number(count: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[count] if count < len(words) else str(count)
