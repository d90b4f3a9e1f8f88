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
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
}
TITLES = {"localize": "Localization", "classify": "Classification", "detect": "Detection"}


def figures_table(summary: RunSummary, model: str) -> Table:
    """Category × training set: the mean over seeds of each of a model's metrics, in percent, on all test pictures."""
    table = Table(title=f"{TITLES[model]} on the test pictures, in % (mean over seeds)")
    rows = summary.metrics
    overall = (rows["defect_type"] == "all") & (rows["size"] == "all") & (rows["model"] == model)
    rows = rows[overall & rows["metric"].isin(FIGURES)]
    figures = [metric for metric in FIGURES if metric in set(rows["metric"])]
    for name in ("category", "training set", *(FIGURES[metric] for metric in figures), "test pictures"):
        table.add_column(name, justify="left" if name in ("category", "training set") else "right")
    for (category, training_set), of_set in rows.groupby(["category", "training_set"], sort=False):
        means = of_set.groupby("metric")["value"].mean()
        cells = [percent(means.get(metric)) for metric in figures]
        n = f"{of_set['n_good'].iloc[0]} good, {of_set['n_defect'].iloc[0]} defect"
        table.add_row(str(category), str(training_set), *cells, n)
    return table


def lift_table(summary: RunSummary) -> Table:
    """Each training set against the baselines: difference, interval, verdict."""
    table = Table(title="Lift over the baselines, in points, with its 95 % interval")
    if (summary.lift["n_seeds"] == 1).any():
        table.caption = "One seed: the interval is over test pictures only, another seed may differ by more."
    texts = ("category", "model", "training set", "against", "metric", "verdict")
    for name in (*texts[:-1], "baseline", "with", "lift", "interval", "verdict"):
        table.add_column(name, justify="left" if name in texts else "right")
    for row in summary.lift.to_dict("records"):
        if row["metric"] in FIGURES:
            table.add_row(
                row["category"],
                row["model"],
                row["training_set"],
                row["against"],
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
    table = Table(title="Failed or left out")
    for name in ("stage", "of", "what", "why"):
        table.add_column(name, overflow="fold")
    for stage in summary.stages:
        if stage.status in ("failed", "skipped", "left out"):
            table.add_row(stage.stage, stage.label, stage.status, stage.error or "")
    return table


def stage_line(summary: RunSummary) -> str:
    """How many stages were at hand already, ran, or failed."""
    count = {
        status: sum(stage.status == status for stage in summary.stages)
        for status in ("cached", "ran", "failed", "skipped", "left out")
    }
    others = [f"{n} {status}" for status, n in count.items() if n and status != "cached"]
    total = f"{count['cached']} of {len(summary.stages) - count['left out']} stages cached"
    return ", ".join([total, *others])


def incomplete_categories(summary: RunSummary) -> Iterable[str]:
    """Categories whose figures lack a defect type or a training set."""
    labels = [stage.label for stage in summary.stages if stage.status in ("failed", "skipped")]
    return sorted({label.split("/")[0] for label in labels})


def percent(value: float | None) -> str:
    """A share as a percentage; a dash where a metric is not defined."""
    return "–" if value is None or pd.isna(value) else f"{100 * value:.1f}"
