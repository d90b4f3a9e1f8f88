"""What a run prints at its end: stages, figures, lifts, failures. Rows in, rich tables out."""

from collections.abc import Iterable

import pandas as pd
from rich.table import Table

from tasks.report import RunSummary

FIGURES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "aupro": "AUPRO",
}


def figures_table(summary: RunSummary) -> Table:
    """Category × training set: the mean over seeds of each metric, in percent, on all test pictures."""
    table = Table(title="Localization on the test pictures, in % (mean over seeds)")
    for name in ("category", "training set", *FIGURES.values(), "test pictures"):
        table.add_column(name, justify="left" if name in ("category", "training set") else "right")
    rows = summary.metrics
    if rows.empty:
        return table
    rows = rows[(rows["defect_type"] == "all") & rows["metric"].isin(FIGURES)]
    for (category, training_set), of_set in rows.groupby(["category", "training_set"], sort=False):
        means = of_set.groupby("metric")["value"].mean()
        cells = [percent(means.get(metric)) for metric in FIGURES]
        n = f"{of_set['n_good'].iloc[0]} good, {of_set['n_defect'].iloc[0]} defect"
        table.add_row(str(category), str(training_set), *cells, n)
    return table


def lift_table(summary: RunSummary) -> Table:
    """Each training set against the real shots alone: difference, interval, verdict."""
    table = Table(title="Lift over training on the real shots alone, in points, with its 95 % interval")
    if (summary.lift["n_seeds"] == 1).any():
        table.caption = "One seed: the interval is over test pictures only, another seed may differ by more."
    for name in ("category", "training set", "metric", "real", "with", "lift", "interval", "verdict"):
        table.add_column(
            name, justify="left" if name in ("category", "training set", "metric", "verdict") else "right"
        )
    for row in summary.lift.to_dict("records"):
        if row["metric"] in FIGURES:
            table.add_row(
                row["category"],
                row["training_set"],
                FIGURES[row["metric"]],
                percent(row["baseline"]),
                percent(row["value"]),
                f"{100 * row['difference']:+.1f}",
                f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]",
                row["verdict"],
                style={"helps": "green", "hurts": "red"}.get(row["verdict"], ""),
            )
    return table


def failures_table(summary: RunSummary) -> Table:
    """What failed or was left out, and why."""
    table = Table(title="Failed")
    for name in ("stage", "of", "what", "why"):
        table.add_column(name, overflow="fold")
    for stage in summary.stages:
        if stage.status in ("failed", "skipped"):
            table.add_row(stage.stage, stage.label, stage.status, stage.error or "")
    return table


def stage_line(summary: RunSummary) -> str:
    """How many stages were at hand already, ran, or failed."""
    count = {
        status: sum(stage.status == status for stage in summary.stages)
        for status in ("cached", "ran", "failed", "skipped")
    }
    others = [f"{n} {status}" for status, n in count.items() if n and status != "cached"]
    total = f"{count['cached']} of {len(summary.stages)} stages cached"
    return ", ".join([total, *others])


def incomplete_categories(summary: RunSummary) -> Iterable[str]:
    """Categories whose figures lack a defect type or a training set."""
    labels = [stage.label for stage in summary.stages if stage.status in ("failed", "skipped")]
    return sorted({label.split("/")[0] for label in labels})


def percent(value: float | None) -> str:
    """A share as a percentage; a dash where a metric is not defined."""
    return "–" if value is None or pd.isna(value) else f"{100 * value:.1f}"
