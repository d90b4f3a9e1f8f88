"""Did it help? The difference of a metric between two models on the same test pictures, with an interval.

Paired bootstrap: pictures are drawn with replacement within their label, the same draw for both models
(and, with several seeds, seeds are drawn too); the spread of the difference is its 95 % interval. Each
picture is reduced to counts by score level once, so that a redraw is a weighted sum of counts and not
another sort of all pixels. Levels are the float16 values of the maps: for maps that hold float16 values
(ours) the result is exact, not binned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from downstream.errors import PredictionError
from downstream.metrics import FPR_LIMIT
from downstream.prediction import Predictions

Metric = Literal[
    "image_auroc", "image_ap", "image_f1_max", "escape_rate", "overkill_rate",
    "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro",
]  # fmt: skip
METRICS: tuple[Metric, ...] = (
    "image_auroc", "image_ap", "image_f1_max", "escape_rate", "overkill_rate",
    "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro",
)  # fmt: skip
LOWER_IS_BETTER = {"escape_rate", "overkill_rate"}
Verdict = Literal["helps", "hurts", "no difference shown", "too few test pictures"]
# Below ten of a kind one picture moves a rate by more than 10 points and percentile intervals are too short.
MIN_PICTURES = 10

Floats = NDArray[np.float64]


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


@dataclass(frozen=True)
class Counts:
    """Pixels (or pictures) of each picture by score level, highest level first.

    Shape: defect, good (n, levels); overlap (n, levels) sums pixel / area of its region; regions (n,).
    """

    defect: Floats
    good: Floats
    overlap: Floats
    regions: Floats


def lift(
    baseline: Sequence[Predictions],
    value: Sequence[Predictions],
    *,
    metrics: Sequence[Metric] = METRICS,
    resamples: int = 500,
    min_pictures: int = MIN_PICTURES,
    seed: int = 0,
) -> list[LiftResult]:
    """Compare two models, each given as its predictions of one or more seeds, all on the same test pictures.

    Baseline and value are means over seeds. With one seed the interval is over pictures only. The interval
    is a percentile one of `resamples` draws. Raises: PredictionError if a side is empty or the pictures
    differ.
    """
    _check_same_pictures([*baseline, *value])
    if not baseline or not value:
        raise PredictionError("lift needs predictions of at least one seed on each side.")
    generator = np.random.default_rng(seed)
    first = value[0]
    n_defect = int(first.label_index.sum())
    n_good = len(first.label_index) - n_defect
    # Row 0 is the test set itself, each picture once.
    weights = np.vstack([np.ones(len(first.label)), _redraws(first.label, resamples, generator)])
    sides = []
    for runs in (baseline, value):
        of_run = [_evaluate(run, weights, metrics) for run in runs]
        drawn = generator.integers(0, len(runs), (resamples, len(runs)))
        sides.append({metric: _mean_over_seeds([r[metric] for r in of_run], drawn) for metric in metrics})
    n_seeds = min(len(baseline), len(value))
    enough = min(n_good, n_defect) >= min_pictures
    results = []
    for metric in metrics:
        a, b = sides[0][metric], sides[1][metric]
        low, high = _interval((b - a)[1:])
        verdict = _verdict(metric, low, high) if enough else "too few test pictures"
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


def _verdict(metric: str, low: float, high: float) -> Verdict:
    """What an interval of value − baseline lets one say."""
    if np.isnan(low):
        return "too few test pictures"
    if low <= 0 <= high:
        return "no difference shown"
    return "helps" if (low > 0) != (metric in LOWER_IS_BETTER) else "hurts"


def _interval(differences: Floats) -> tuple[float, float]:
    """2.5 and 97.5 percentiles; NaN if any redraw leaves the metric undefined."""
    if np.isnan(differences).any():
        return float("nan"), float("nan")
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


def _check_same_pictures(runs: Sequence[Predictions]) -> None:
    for run in runs[1:]:
        if not np.array_equal(run.image_path, runs[0].image_path):
            raise PredictionError(
                "predictions are of different test pictures, or in another order "
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


def _mean_over_seeds(per_run: Sequence[Floats], drawn: NDArray[np.int64]) -> Floats:
    """Row 0: mean over all seeds; then that over each redraw's seeds. Shape: (1 + resamples,)."""
    table = np.stack(per_run)  # (runs, 1 + resamples)
    redrawn = np.take_along_axis(table[:, 1:].T, drawn, axis=1).mean(1)
    return np.concatenate([[table[:, 0].mean()], redrawn])


def _evaluate(run: Predictions, weights: Floats, metrics: Sequence[Metric]) -> dict[str, Floats]:
    """Every metric under every row of picture weights. Shape: weights (r, n) → each (r,)."""
    truth = run.label_index.astype(bool)
    refused = run.pred_score >= run.image_threshold
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is how an undefined metric becomes NaN
        values = {
            "escape_rate": weights[:, truth & ~refused].sum(1) / weights[:, truth].sum(1),
            "overkill_rate": weights[:, ~truth & refused].sum(1) / weights[:, ~truth].sum(1),
        }
        values |= {f"image_{k}": v for k, v in _from_counts(_image_counts(run), weights).items()}
        if any(metric.startswith(("pixel", "aupro")) for metric in metrics):
            pixel = _from_counts(_pixel_counts(run), weights)
            values |= {f"pixel_{k}": v for k, v in pixel.items()} | {"aupro": pixel["aupro"]}
    return {metric: values[metric] for metric in metrics}


def _image_counts(run: Predictions) -> Counts:
    """One count a picture, at its score's level."""
    levels, level = np.unique(run.pred_score, return_inverse=True)
    one = np.zeros((len(level), len(levels)))
    one[np.arange(len(level)), len(levels) - 1 - level] = 1.0
    truth = run.label_index.astype(bool)[:, None]
    return Counts(one * truth, one * ~truth, one * 0, truth[:, 0].astype(np.float64))


def _pixel_counts(run: Predictions) -> Counts:
    """Each picture's pixels by the float16 level of the map."""
    maps = run.anomaly_map
    if maps.min() < 0 or maps.max() > 1:  # distances and the like; ranks are all that counts
        maps = (maps - maps.min()) / (maps.max() - maps.min())
    # The bits of non-negative float16 numbers, read as integers, are in the numbers' order.
    levels, level = np.unique((maps.astype(np.float16) + np.float16(0)).view(np.uint16), return_inverse=True)
    n, k = len(maps), len(levels)
    level = (k - 1 - level).reshape(n, -1)
    defect, good, overlap, regions = np.zeros((n, k)), np.zeros((n, k)), np.zeros((n, k)), np.zeros(n)
    for i in range(n):
        region, count = ndimage.label(run.gt_mask[i], structure=np.ones((3, 3)))
        region = region.ravel()
        area = np.bincount(region, minlength=count + 1)
        inside = region > 0
        good[i] = np.bincount(level[i][~inside], minlength=k)
        defect[i] = np.bincount(level[i][inside], minlength=k)
        overlap[i] = np.bincount(level[i][inside], weights=1 / area[region[inside]], minlength=k)
        regions[i] = count
    return Counts(defect, good, overlap, regions)


def _from_counts(counts: Counts, weights: Floats) -> dict[str, Floats]:
    """auroc, ap, f1_max and aupro for each row of weights, some rows at a time to bound memory.

    Shape: weights (r, n) → each (r,).
    """
    parts = [_curve_areas(counts, rows) for rows in np.array_split(weights, max(1, len(weights) // 50))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _curve_areas(counts: Counts, weights: Floats) -> dict[str, Floats]:
    """The curves' areas out of counts summed over pictures.

    With t, f the defect and good pixels at a level and T, F their sums from the top:
    AUROC = Σ f·(T − t/2) / (T_all·F_all), AP = Σ t·T/(T+F) / T_all, F1-max = max 2T / (T_all + T + F).
    """
    t, f = weights @ counts.defect, weights @ counts.good  # (r, levels)
    tp, fp = t.cumsum(1), f.cumsum(1)
    defects, goods = tp[:, -1], fp[:, -1]
    found = np.maximum(tp + fp, 1e-300)
    undefined = (defects == 0) | (goods == 0)
    areas = {
        "auroc": (f * (tp - t / 2)).sum(1) / (defects * goods),
        "ap": (t * tp / found).sum(1) / defects,
        "f1_max": (2 * tp / (defects[:, None] + tp + fp)).max(1),
        "aupro": _pro_area(
            fp / goods[:, None], (weights @ counts.overlap).cumsum(1) / (weights @ counts.regions)[:, None]
        ),
    }
    return {name: np.where(undefined, np.nan, area) for name, area in areas.items()}


def _pro_area(fpr: Floats, pro: Floats) -> Floats:
    """Trapezoids under pro(fpr) up to FPR_LIMIT, over FPR_LIMIT. Shape: (r, levels) → (r,)."""
    zero = np.zeros((len(fpr), 1))
    x0, x1 = np.hstack([zero, fpr[:, :-1]]), fpr
    y0, y1 = np.hstack([zero, pro[:, :-1]]), pro
    width = np.clip(np.minimum(x1, FPR_LIMIT) - x0, 0, None)
    slope = (y1 - y0) / np.where(x1 > x0, x1 - x0, 1)
    return (width * (y0 + slope * width / 2)).sum(1) / FPR_LIMIT
