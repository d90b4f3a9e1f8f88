"""The curves that the number of steps was chosen by: a score on held-out shots over the steps of training."""

import pandas as pd

from tasks.report.svg import DASHES, MUTED, SERIES, new_figure, svg_of
from tasks.report.words import METRICS, MODELS
from tasks.tables.chosen_steps import SCORE

WIDTH = 8.0  # inches at least, for all axes together: a page stretches what is narrower


def steps_svg(steps: pd.DataFrame, name: str, category: str) -> str:
    """A figure of training_steps.parquet: an axis a model, a curve a training set (mean over folds), chosen steps marked.

    A fold that ended early counts with its last score. "" where no shot could be held out.
    """
    scored = steps.dropna(subset=["score"]) if "score" in steps else steps.iloc[:0]
    models = list(scored.groupby("model", sort=False)) if len(scored) else []
    if not models:
        return ""
    figure = new_figure(len(models), max(3.3, WIDTH / len(models)))
    texts = []
    for axes, (model, rows) in zip(figure.axes, models, strict=True):
        metric = METRICS[SCORE[str(model)]][0]
        for position, (training_set, of_set) in enumerate(rows.groupby("training_set", sort=False)):
            mean = of_set.pivot(index="step", columns="fold", values="score").ffill().mean(axis=1)
            chosen = int(of_set["chosen"].iloc[0])
            colour = SERIES[position % len(SERIES)]
            axes.plot(
                mean.index,
                100 * mean,
                color=colour,
                linestyle=DASHES[position % len(DASHES)],
                linewidth=1.6,
                label=f"{training_set}  {chosen}",
            )
            axes.plot([chosen], [100 * mean[chosen]], color=colour, marker="o", markersize=4.5)
            texts.append(
                f"{MODELS[str(model)]} on {training_set}: {chosen} steps, {metric} {100 * mean[chosen]:.1f} %"
            )
        axes.set_xscale("log", base=2)
        ticks = sorted(set(rows["step"]))[:: max(1, rows["step"].nunique() // 5)]
        axes.set_xticks(ticks, [str(step) for step in ticks])
        axes.minorticks_off()
        axes.set(
            xlabel="steps of training", ylabel=f"{metric} on held-out shots, %", title=MODELS[str(model)]
        )
        legend = axes.legend(fontsize=7.5, frameon=False)
        for text in legend.get_texts():
            text.set_color(MUTED)
    return svg_of(figure, name, f"How the number of steps was chosen, {category}. {'; '.join(texts)}")
