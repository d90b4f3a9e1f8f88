"""Pictures that are tracked beside a run's figures: confusion matrices, and curves over test pictures."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

# Told apart by those who see no red or green, too.
COLOURS = ("#30363d", "#0072b2", "#d55e00", "#008f67", "#b5478e", "#8a6d00", "#6b4fa0")


def draw_confusion(counts: pd.DataFrame, training_set: str, n_seeds: int) -> bytes:
    """A confusion matrix as PNG: rows are what pictures show, columns what they were taken for."""
    size = 1.6 + 0.65 * len(counts)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained", dpi=110)
    axes = figure.subplots()
    shares = counts.div(counts.sum(axis=1).clip(lower=1), axis=0).to_numpy()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(counts.columns)), counts.columns, rotation=45, ha="right")
    axes.set_yticks(range(len(counts.index)), counts.index)
    axes.set(xlabel="taken for", ylabel="shows")
    axes.set_title(f"{training_set}, pictures of {n_seeds} seed{'s' * (n_seeds > 1)}", fontsize=10)
    for row, column in np.ndindex(shares.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(
            column, row, str(counts.iat[row, column]), ha="center", va="center", color=colour, fontsize=9
        )
    return _png(figure)


def draw_curves(predictions: Mapping[str, Sequence[bytes]], model: str) -> bytes:
    """ROC and precision-recall curves over pictures as PNG, by training set, a thin line a seed.

    `predictions`: files as downstream.prediction writes them; the maps in them are not read.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained", dpi=110)
    roc, precision = figure.subplots(1, 2)
    for colour, (training_set, of_seeds) in zip(_cycle(len(predictions)), predictions.items(), strict=True):
        for index, content in enumerate(of_seeds):
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                truth, score = file["label_index"], file["pred_score"]
            label = training_set if index == 0 else None
            rates = roc_curve(truth, score)
            roc.plot(rates[0], rates[1], color=colour, linewidth=1.1, alpha=0.8, label=label)
            points = precision_recall_curve(truth, score)
            precision.plot(points[1], points[0], color=colour, linewidth=1.1, alpha=0.8)
    roc.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle=":")
    roc.set(xlabel="good pictures refused", ylabel="defects found", title=f"{model}: ROC over pictures")
    precision.set(
        xlabel="defects found", ylabel="of the refused, defects", title="precision and recall", ylim=(0, 1.02)
    )
    roc.legend(fontsize=8, title="trained on; a line a seed", title_fontsize=8)
    return _png(figure)


def _cycle(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()
