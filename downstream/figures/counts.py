"""Each picture reduced once to counts by score level, so that any weighting of pictures is a sum and no new sort.

With t, f the defect and good pixels at a level and T, F their sums from the highest level down:
AUROC = Σ f·(T − t/2) / (T_all·F_all), AP = Σ t·T/(T+F) / T_all, F1-max = max 2T / (T_all + T + F).
Levels are the float16 values of the maps: for maps that hold float16 values (ours) all is exact, not binned.
A table of metrics weighs the pictures of a group by 1 and the others by 0, a bootstrap by how often it drew each.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FPR_LIMIT = 0.3  # AUPRO integrates false-positive rates up to here (Bergmann et al. 2021)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Pixels (or pictures) of each picture by score level, highest level first.

    Shape: defect, good (n, levels); overlap (n, levels) sums pixel / area of its region; regions (n,);
    values (levels,), the scores that the levels stand for.
    """

    defect: Floats
    good: Floats
    overlap: Floats
    regions: Floats
    values: Floats


def image_counts(pred_score: NDArray[np.floating], label_index: NDArray[np.integer]) -> Counts:
    """One count a picture, at its score's level. Shape: (n,) each."""
    levels, level = np.unique(pred_score, return_inverse=True)
    one = np.zeros((len(level), len(levels)))
    one[np.arange(len(level)), len(levels) - 1 - level] = 1.0
    truth = label_index.astype(bool)[:, None]
    return Counts(
        one * truth, one * ~truth, one * 0, truth[:, 0].astype(np.float64), levels[::-1].astype(np.float64)
    )


def pixel_counts(maps: NDArray[np.floating], masks: NDArray[np.bool_]) -> Counts:
    """Each picture's pixels by the float16 level of the map; regions are 8-connected. Shape: (n, h, w) each."""
    low, span = 0.0, 1.0
    if maps.min() < 0 or maps.max() > 1:  # distances and the like; ranks are all that counts
        low, span = float(maps.min()), float(maps.max()) - float(maps.min())
        maps = (maps - low) / span
    # The bits of non-negative float16 numbers, read as integers, are in the numbers' order.
    bits = (maps.astype(np.float16) + np.float16(0)).view(np.uint16)
    present = np.flatnonzero(np.bincount(bits.ravel(), minlength=2**16))[::-1]
    n, k = len(maps), len(present)
    level_of = np.zeros(2**16, dtype=np.int64)
    level_of[present] = np.arange(k)
    defect, good, overlap, regions = np.zeros((n, k)), np.zeros((n, k)), np.zeros((n, k)), np.zeros(n)
    for i in range(n):
        region, count = ndimage.label(masks[i], structure=np.ones((3, 3)))
        region, level = region.ravel(), level_of[bits[i].ravel()]
        area = np.bincount(region, minlength=count + 1)
        inside = region > 0
        good[i] = np.bincount(level[~inside], minlength=k)
        if count:
            defect[i] = np.bincount(level[inside], minlength=k)
            overlap[i] = np.bincount(level[inside], weights=1 / area[region[inside]], minlength=k)
            regions[i] = count
    values = low + span * present.astype(np.uint16).view(np.float16).astype(np.float64)
    return Counts(defect, good, overlap, regions, values)


def curve_areas(counts: Counts, weights: Floats) -> dict[str, Floats]:
    """auroc, ap, f1_max and aupro for each row of picture weights; NaN where a class is absent.

    Some rows at a time, to bound memory. Shape: weights (r, n) → each (r,).
    """
    parts = [_curve_areas(counts, rows) for rows in np.array_split(weights, max(1, len(weights) // 50))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def best_cuts(counts: Counts, weights: Floats) -> Floats:
    """For each row of weights the cut that metrics.best_threshold finds on its scores. Shape: (r, n) → (r,).

    Midway between the level with the highest F1 and the next lower one that occurs; NaN if a class is absent.
    """
    cuts = np.full(len(weights), np.nan)
    for row, weight in enumerate(weights):
        t, f = weight @ counts.defect, weight @ counts.good
        tp, fp = t.cumsum(), f.cumsum()
        if tp[-1] == 0 or fp[-1] == 0:
            continue
        best = int(np.argmax(2 * tp / (tp[-1] + tp + fp)))
        lower = np.flatnonzero(t[best + 1 :] + f[best + 1 :])
        below = best + 1 + lower[0] if len(lower) else best
        cuts[row] = (counts.values[best] + counts.values[below]) / 2
    return cuts


def _curve_areas(counts: Counts, weights: Floats) -> dict[str, Floats]:
    t, f = weights @ counts.defect, weights @ counts.good  # (r, levels)
    tp, fp = t.cumsum(1), f.cumsum(1)
    defects, goods = tp[:, -1], fp[:, -1]
    found = np.maximum(tp + fp, 1e-300)
    undefined = (defects == 0) | (goods == 0)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is how an undefined metric becomes NaN
        areas = {
            "auroc": (f * (tp - t / 2)).sum(1) / (defects * goods),
            "ap": (t * tp / found).sum(1) / defects,
            "f1_max": (2 * tp / (defects[:, None] + tp + fp)).max(1),
            "aupro": _pro_area(
                fp / goods[:, None],
                (weights @ counts.overlap).cumsum(1) / (weights @ counts.regions)[:, None],
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
