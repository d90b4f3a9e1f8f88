"""ROC of the pictures, precision–recall of the pixels, PRO: each training set's curve, mean over its seeds."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.report.svg import DASHES, MUTED, SERIES, new_figure, svg_of, thinned
from tasks.report.words import METRICS, percent

if TYPE_CHECKING:
    from downstream.figures.predictions import Predictions

Floats = NDArray[np.float64]

# Curve: the metric that is the area under it, its axes.
CURVES = {
    "ROC": ("image_auroc", "good parts refused", "defective parts found"),
    "PR": ("pixel_ap", "defective pixels found", "of the marked pixels, defective"),
    "PRO": ("aupro", "good pixels marked", "of each defect, found"),
}
FPR_LIMIT = 0.3  # as downstream.figures.counts, where AUPRO ends
GRID = 101
# A step within a cell of the grid would be lost where curves are steep, near 0.
STEEP = np.unique(np.concatenate([np.geomspace(1e-4, 1, GRID), np.linspace(0, 1, GRID)]))


def curves_of(predictions: "Predictions") -> dict[str, tuple[Floats, Floats]]:
    """One model's curves at the places of their axes, by scikit-learn; none where a class is absent.

    Pixels come counted by the level of their score, as the metrics of the run's table do, so that no map is sorted.
    PRO is a ROC in which the pixels of each region weigh 1 together.
    Shape: (k,) each. Range: 0 to 1, PRO's axis to FPR_LIMIT.
    """
    from downstream.figures.counts import image_counts, pixel_counts

    images = image_counts(predictions.pred_score, predictions.label_index)
    pixels = pixel_counts(predictions.anomaly_map, predictions.gt_mask)
    found = {
        "ROC": _roc(images.values, images.defect.sum(0), images.good.sum(0), 1.0),
        "PR": _precision_recall(pixels.values, pixels.defect.sum(0), pixels.good.sum(0)),
        "PRO": _roc(pixels.values, pixels.overlap.sum(0), pixels.good.sum(0), FPR_LIMIT),
    }
    return {name: points for name, points in found.items() if points is not None}


def _roc(values: Floats, right: Floats, wrong: Floats, limit: float) -> tuple[Floats, Floats] | None:
    from sklearn.metrics import roc_curve

    if not right.sum() or not wrong.sum():
        return None
    labels, scores, weights = _weighted(values, right, wrong)
    x, y, _ = roc_curve(labels, scores, sample_weight=weights)
    axis = STEEP[limit >= STEEP]
    return axis, np.interp(axis, x, y)


def _precision_recall(values: Floats, right: Floats, wrong: Floats) -> tuple[Floats, Floats] | None:
    from sklearn.metrics import precision_recall_curve

    if not right.sum() or not wrong.sum():
        return None
    labels, scores, weights = _weighted(values, right, wrong)
    precision, recall, _ = precision_recall_curve(labels, scores, sample_weight=weights)
    # Precision at a recall is that of the first cut that reaches it, as average precision counts it.
    at = np.searchsorted(recall[::-1], STEEP, side="left").clip(max=len(recall) - 1)
    return STEEP, precision[::-1][at]


def _weighted(values: Floats, right: Floats, wrong: Floats) -> tuple[Floats, Floats, Floats]:
    """Counts by level as scikit-learn takes them."""
    labels = np.repeat([1.0, 0.0], len(values))
    return labels, np.concatenate([values, values]), np.concatenate([right, wrong])


def curve_table(model: str, of_sets: Mapping[str, Iterable["Predictions"]]) -> pd.DataFrame:
    """Columns: model, curve, training_set, x, y (mean over seeds), n_seeds."""
    tables = []
    for name, seeds in of_sets.items():
        drawn = [curves_of(seed) for seed in seeds]
        for curve in CURVES:
            of_curve = [each[curve] for each in drawn if curve in each]
            if of_curve:
                mean = np.mean([y for _, y in of_curve], axis=0)
                named = {"model": model, "curve": curve, "training_set": name}
                table = pd.DataFrame({**named, "x": of_curve[0][0], "y": mean, "n_seeds": len(of_curve)})
                tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def curves_svg(table: pd.DataFrame, areas: Mapping[tuple[str, str], float], name: str, title: str) -> str:
    """One model's three curves beside each other; `areas`: by metric and training set, as the run's table has them."""
    figure = new_figure(len(CURVES))
    order = list(dict.fromkeys(table["training_set"]))
    sentences = []
    for axes, (curve, (metric, x_name, y_name)) in zip(figure.axes, CURVES.items(), strict=True):
        for position, training_set in enumerate(order):
            rows = table[(table["curve"] == curve) & (table["training_set"] == training_set)]
            if rows.empty:
                continue
            area = percent(areas.get((metric, training_set)))
            points = np.array(thinned(rows["x"].tolist(), rows["y"].tolist()))
            axes.plot(
                *points.T,
                color=SERIES[position % len(SERIES)],
                linestyle=DASHES[position % len(DASHES)],
                linewidth=1.6,
                label=f"{training_set}  {area}",
            )
            sentences.append(f"{METRICS[metric][0]} of {training_set} {area} %")
        axes.set(xlabel=x_name, ylabel=y_name, title=f"{curve}: {METRICS[metric][0]}, %")
        axes.set_xlim(0, FPR_LIMIT if curve == "PRO" else 1)
        axes.set_ylim(0, 1.02)
        corner = "upper right" if curve == "PR" else "lower right"
        _legend(axes, corner)
    return svg_of(figure, name, f"{title}: {'; '.join(sentences)}")


def _legend(axes: Any, corner: str) -> None:
    legend = axes.legend(loc=corner, fontsize=7.5, frameon=False, handlelength=2.2)
    for text in legend.get_texts():
        text.set_color(MUTED)
