"""Dose and response: a metric over the number of pairs, and of shots, with its interval."""

import pandas as pd

from tasks.report.svg import DASHES, MUTED, SERIES, new_figure, svg_of
from tasks.report.words import METRICS, MODELS

UNITS = {"pairs": "generated pairs of each defect type", "shots": "real shots of each defect type"}


def doses_svg(dose: pd.DataFrame, name: str, category: str) -> str:
    """A figure of dose.parquet: an axis a kind of dose and metric, a curve a model, of all defect types together."""
    overall = dose[dose["defect_type"] == "all"]
    groups = list(overall.groupby(["kind", "metric"], sort=False))
    figure = new_figure(len(groups))
    sentences = []
    for axes, ((kind, metric), rows) in zip(figure.axes, groups, strict=True):
        metric_name = METRICS[str(metric)][0]
        for position, (model, curve) in enumerate(rows.groupby("model", sort=False)):
            points = curve.sort_values("dose")
            x, colour = points["dose"].tolist(), SERIES[(1 + position) % len(SERIES)]
            axes.fill_between(
                x, 100 * points["low"], 100 * points["high"], color=colour, alpha=0.15, linewidth=0
            )
            axes.plot(
                x,
                100 * points["value"],
                color=colour,
                linestyle=DASHES[position % len(DASHES)],
                marker="o",
                markersize=3.5,
                label=MODELS[str(model)],
            )
            ends = points.iloc[[0, -1]]
            sentences.append(
                f"{MODELS[str(model)]} {metric_name}: "
                + " and ".join(
                    f"{100 * row['value']:.1f} % at {row['dose']} {kind}" for row in ends.to_dict("records")
                )
            )
        axes.set(xlabel=UNITS[str(kind)], ylabel=f"{metric_name}, %", title=f"{metric_name} over {kind}")
        legend = axes.legend(fontsize=7.5, frameon=False)
        for text in legend.get_texts():
            text.set_color(MUTED)
    return svg_of(figure, name, f"Dose and response of {category}. {'; '.join(sentences)}")
