"""Did it help? The difference of a metric between two models on the same test pictures, with an interval.

Paired bootstrap: pictures are drawn with replacement within their label, the same draw for all models
(and, with several seeds, seeds are drawn too, each model's by themselves); the spread of the difference is its 95 %
interval. Three trainings tell little of how far a fourth would lie: redrawn as they are, 95 % intervals of three seeds
that differ more than pictures do hold the truth four times in five. So seeds' deviations are widened (`_widened`). Each
picture is reduced to counts once (downstream/figures/counts.py), so that a redraw is a weighted sum of counts and not
another sort of all pixels; for maps that hold float16 values (ours) the result is exact, not binned.
One computation for localization, detection and classification: what differs is which counts a picture leaves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, t

from downstream.errors import PredictionError
from downstream.figures.class_predictions import ClassPredictions
from downstream.figures.counts import Floats, curve_areas, image_counts, pixel_counts
from downstream.figures.predictions import Predictions

MapMetric = Literal[
    "image_auroc", "image_ap", "image_f1_max", "escape_rate", "overkill_rate",
    "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro",
]  # fmt: skip
ClassMetric = Literal["accuracy", "balanced_accuracy", "macro_f1"]
Metric = MapMetric | ClassMetric
METRICS: tuple[MapMetric, ...] = get_args(MapMetric)
CLASS_METRICS: tuple[ClassMetric, ...] = get_args(ClassMetric)
LOWER_IS_BETTER = {"escape_rate", "overkill_rate"}
Verdict = Literal["helps", "hurts", "no difference shown", "too few test pictures"]
# Below ten of a kind one picture moves a rate by more than 10 points and percentile intervals are too short.
MIN_PICTURES = 10
# What needs no generator. Whatever has generated pairs is compared with each of them, all else against the first alone.
BASELINES = ("real", "copy-paste+real", "perlin+real", "copy-paste", "perlin")
GENERATED = "generated"

Runs = Sequence[Predictions] | Sequence[ClassPredictions]
Run = Predictions | ClassPredictions


@dataclass(frozen=True)
class LiftResult:
    """value − baseline of one metric, its 95 % interval, and what may be said of it."""

    metric: str
    baseline: float
    value: float
    difference: float
    low: float
    high: float
    n_good: int
    n_defect: int
    n_seeds: int
    verdict: Verdict


def lift(
    baseline: Runs,
    value: Runs,
    *,
    metrics: Sequence[Metric] | None = None,
    resamples: int = 500,
    min_pictures: int = MIN_PICTURES,
    seed: int = 0,
) -> list[LiftResult]:
    """Compare two models, each given as its predictions of one or more seeds, all on the same test pictures.

    Without `metrics` all that the predictions have: METRICS for maps and scores, CLASS_METRICS for classes.
    Baseline and value are means over seeds. With one seed the interval is over pictures only. The interval
    is a percentile one of `resamples` draws. No verdict is given with fewer than `min_pictures` good or
    defect pictures, nor, where every class counts alike, with a smaller class. Raises: PredictionError if a
    side is empty or the pictures differ.
    """
    metrics = metrics or metrics_of([*baseline, *value])
    sides = bootstrap([baseline, value], metrics, resamples=resamples, seed=seed)
    return _results(sides, value[0], metrics, min(len(baseline), len(value)), min_pictures)


def _results(
    sides: Sequence[Mapping[str, Floats]],
    pictures: Run,
    metrics: Sequence[Metric],
    n_seeds: int,
    min_pictures: int,
) -> list[LiftResult]:
    """Differences of two sides' redraws; `pictures`: any run, for the test pictures that all share."""
    n_good, n_defect = n_pictures(pictures)
    results = []
    for metric in metrics:
        a, b = sides[0][metric], sides[1][metric]
        low, high = interval((b - a)[1:])
        verdict = verdict_of(metric, low, high)
        if smallest_kind(pictures, metric) < min_pictures:
            verdict = "too few test pictures"
        results.append(
            LiftResult(
                metric,
                float(a[0]),
                float(b[0]),
                float(b[0] - a[0]),
                low,
                high,
                n_good,
                n_defect,
                n_seeds,
                verdict,
            )
        )
    return results


def lift_table(
    runs: Mapping[str, Mapping[int, Run]],
    *,
    baselines: Sequence[str] = BASELINES,
    resamples: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """Each training set against `real`, those with generated pairs against each baseline, over the seeds that both have.

    `runs`: one model's predictions by training set and seed. A seed that failed on one side must not tilt the
    comparison, so it is left out on both. Columns: training_set, against, and LiftResult's fields.
    """
    columns = ["training_set", "against", *(field.name for field in fields(LiftResult))]
    rows = []
    drawn: dict[tuple[str, tuple[int, ...]], dict[str, Floats]] = {}

    def draws(name: str, seeds: tuple[int, ...], metrics: Sequence[Metric]) -> dict[str, Floats]:
        """A set's redraws, made once: those of one `seed` and the same pictures belong together."""
        if (name, seeds) not in drawn:
            of_set = _one_kind([runs[name][each] for each in seeds])
            (drawn[name, seeds],) = bootstrap([of_set], metrics, resamples=resamples, seed=seed)
        return drawn[name, seeds]

    for against in baselines:
        for name, of_seed in runs.items():
            common = tuple(sorted(set(of_seed) & set(runs.get(against, {}))))
            if name == against or not common or (against != BASELINES[0] and GENERATED not in name):
                continue
            sides = [_one_kind([runs[side][each] for each in common]) for side in (against, name)]
            _check_same_pictures([*sides[0], *sides[1]])
            metrics = metrics_of([*sides[0], *sides[1]])
            both = [draws(side, common, metrics) for side in (against, name)]
            for result in _results(both, sides[1][0], metrics, len(common), MIN_PICTURES):
                rows.append({"training_set": name, "against": against, **asdict(result)})
    return pd.DataFrame(rows, columns=columns)


def bootstrap(
    sides: Sequence[Runs], metrics: Sequence[Metric], *, resamples: int, seed: int
) -> list[dict[str, Floats]]:
    """Each side's metrics on the test set (row 0) and on redraws of its pictures, the same for all sides.

    A side's value is the mean over its seeds, which are redrawn, too: each side's by themselves, but alike where two sides
    score the same with every seed. Sides of several calls with the same `seed` and pictures belong together, too. Shape:
    each (1 + resamples,). Range: as the metric, 0 to 1. Raises: PredictionError if a side is empty or pictures differ.
    """
    if not all(sides):
        raise PredictionError("lift needs predictions of at least one seed on each side.")
    first = sides[0][0]
    _check_same_pictures([run for side in sides for run in side])
    # Row 0 is the test set itself, each picture once.
    redraws = _redraws(first.label, resamples, np.random.default_rng(seed))
    weights = np.vstack([np.ones(len(first.label)), redraws])
    values: list[dict[str, Floats]] = []
    for runs in sides:
        of_run = [_evaluate(run, weights, metrics) for run in runs]
        values.append({metric: _mean_over_seeds([r[metric] for r in of_run], seed) for metric in metrics})
    return values


def metrics_of(runs: Sequence[Run]) -> Sequence[Metric]:
    """All metrics of these runs' kind. Raises: PredictionError if they are of two kinds."""
    return CLASS_METRICS if _one_kind(runs) and isinstance(runs[0], ClassPredictions) else METRICS


def n_pictures(run: Run) -> tuple[int, int]:
    """Good and defect pictures."""
    good = run.label == "good" if isinstance(run, ClassPredictions) else run.label_index == 0
    return int(good.sum()), int((~good).sum())


def smallest_kind(run: Run, metric: str) -> int:
    """Pictures of the rarest kind that this metric weighs on its own: good, defect, or every class alike."""
    if metric in ("balanced_accuracy", "macro_f1"):
        return int(np.unique(run.label, return_counts=True)[1].min(initial=len(run.label)))
    return min(n_pictures(run))


def interval(draws: Floats) -> tuple[float, float]:
    """2.5 and 97.5 percentiles; NaN if any redraw leaves the metric undefined."""
    if np.isnan(draws).any():
        return float("nan"), float("nan")
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def verdict_of(metric: str, low: float, high: float) -> Verdict:
    """What an interval of value − baseline lets one say."""
    if np.isnan(low):
        return "too few test pictures"
    if low <= 0 <= high:
        return "no difference shown"
    return "helps" if (low > 0) != (metric in LOWER_IS_BETTER) else "hurts"


def _one_kind(runs: Sequence[Run]) -> Runs:
    """The runs, all of the first one's kind. Raises: PredictionError."""
    if len({type(run) for run in runs}) > 1:
        raise PredictionError(
            "predictions of classes and of anomaly maps cannot be compared with each other."
        )
    return runs  # type: ignore[return-value]  # checked just now, at run time


def _check_same_pictures(runs: Sequence[Run]) -> None:
    for run in runs[1:]:
        same = np.array_equal(run.image_path, runs[0].image_path)
        if not same or not np.array_equal(run.label, runs[0].label):
            raise PredictionError(
                "predictions are of different test pictures, or in another order or labelled otherwise "
                f"({len(runs[0].image_path)} and {len(run.image_path)} rows): evaluate both on the same rows."
            )


def _redraws(labels: NDArray[np.str_], resamples: int, generator: np.random.Generator) -> Floats:
    """How often each picture is drawn in each redraw; every label keeps its number. Shape: (resamples, n)."""
    weights = np.zeros((resamples, len(labels)))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        weights[:, members] = generator.multinomial(
            len(members), np.full(len(members), 1 / len(members)), resamples
        )
    return weights


def _mean_over_seeds(per_run: Sequence[Floats], seed: int) -> Floats:
    """Row 0: mean over all seeds; then that over each redraw's seeds. Shape: (1 + resamples,)."""
    table = np.stack(per_run)  # (runs, 1 + resamples)
    all_seeds = table.mean(0)
    # Models that differ by nothing but their threshold are the same to most metrics: no chance lies between them.
    scores = (np.nan_to_num(table[:, 0]) * 1e9).round().astype(np.int64).tolist()
    drawn = np.random.default_rng([seed, *scores]).integers(0, len(table), (table.shape[1] - 1, len(table)))
    redrawn = np.take_along_axis(table[:, 1:].T, drawn, axis=1).mean(1)
    redrawn = all_seeds[1:] + _widened(len(table)) * (redrawn - all_seeds[1:])
    return np.concatenate([all_seeds[:1], redrawn.clip(0, 1)])


def _widened(num_seeds: int) -> float:
    """By how much a redraw's mean over seeds is moved away from that over all, for differences of two such means.

    √(n / (n − 1)), since redraws of n spread that much less than n new ones, times Student's t over the normal quantile,
    since that spread is itself known from 2 n − 2 degrees of freedom only: 3.1 for two seeds, 1.7 for three, 1.3 for five.
    """
    if num_seeds < 2:
        return 1.0
    free = 2 * num_seeds - 2
    return float(np.sqrt(num_seeds / (num_seeds - 1)) * t.ppf(0.975, free) / norm.ppf(0.975))


def _evaluate(run: Run, weights: Floats, metrics: Sequence[Metric]) -> dict[str, Floats]:
    """Every metric under every row of picture weights. Shape: weights (r, n) → each (r,)."""
    if isinstance(run, ClassPredictions):
        values = _evaluate_classes(run, weights)
    else:
        values = _evaluate_maps(run, weights, pixels=any(m.startswith(("pixel", "aupro")) for m in metrics))
    return {metric: values[metric] for metric in metrics}


def _evaluate_maps(run: Predictions, weights: Floats, *, pixels: bool) -> dict[str, Floats]:
    truth = run.label_index.astype(bool)
    refused = run.pred_score >= run.image_threshold
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is how an undefined metric becomes NaN
        values = {
            "escape_rate": weights[:, truth & ~refused].sum(1) / weights[:, truth].sum(1),
            "overkill_rate": weights[:, ~truth & refused].sum(1) / weights[:, ~truth].sum(1),
        }
    of_images = curve_areas(image_counts(run.pred_score, run.label_index), weights)
    values |= {f"image_{name}": value for name, value in of_images.items()}
    if pixels:
        of_pixels = curve_areas(pixel_counts(run.anomaly_map, run.gt_mask), weights)
        values |= {f"pixel_{name}": value for name, value in of_pixels.items()}
        values["aupro"] = of_pixels["aupro"]
    return values


def _evaluate_classes(run: ClassPredictions, weights: Floats) -> dict[str, Floats]:
    """Recall and F1 = 2·TP / (true + predicted) of each class that the pictures hold, and their means."""
    guess = run.pred_label
    correct = guess == run.label
    recall, f1 = [], []
    for label in np.unique(run.label):
        true, hits = weights[:, run.label == label].sum(1), weights[:, correct & (run.label == label)].sum(1)
        recall.append(hits / true)  # a redraw keeps each label's number: never 0 / 0
        f1.append(2 * hits / (true + weights[:, guess == label].sum(1)))
    return {
        "accuracy": weights[:, correct].sum(1) / weights.sum(1),
        "balanced_accuracy": np.mean(recall, axis=0),
        "macro_f1": np.mean(f1, axis=0),
    }
