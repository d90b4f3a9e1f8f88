"""What `anodiff compare` prints: rows in, rich tables out."""

from collections.abc import Iterator, Sequence

import pandas as pd
from rich.table import Table

from flows.tables import FIGURES, NAIVE, duration, percent
from tasks.comparison import CAPTION, KEYS, Comparison

RATES = {"escape_rate": "escapes", "overkill_rate": "overkill"}
STYLES = {"helps": "green", "hurts": "red"}


def runs_table(comparison: Comparison) -> Table:
    """A row a run: what it was, what all that it rests on took, what became of its pairs."""
    table = Table(title="Runs and what they cost; the first is what the others are held against")
    table.caption = (
        "Times of all stages that a run rests on, cached or not; took: the run itself. GB: CUDA's, else all."
    )
    texts = ("run", "state", "device")
    columns = (
        "run",
        "state",
        "took",
        "fine-tuning",
        "pairs",
        "models",
        "other",
        "all",
        "GB",
        "drawn",
        "pass",
        "device",
    )
    for name in columns:
        table.add_column(name, justify="left" if name in texts else "right", overflow="fold")
    for row in comparison.about.to_dict("records"):
        memory = row["memory_gb"] if pd.isna(row["cuda_gb"]) else row["cuda_gb"]
        times = ("wall_s", "finetune_s", "generate_s", "models_s", "other_s", "stages_s")
        table.add_row(
            row["run"],
            row["state"],
            *(duration(row[name]) for name in times),
            "–" if pd.isna(memory) else f"{memory:.1f}",
            str(row["drawn"]),
            str(row["passed"]),
            row["device"],
        )
    return table


def figures_table(comparison: Comparison, metrics: Sequence[str]) -> Table:
    """The aligned figures of these metrics: a row a run below each other, differences to the first."""
    table = Table(
        title=f"Figures in %, differences to {comparison.runs[0]} in points with their 95 % interval"
    )
    table.caption = CAPTION
    if comparison.naive:
        table.caption += f"\n{', '.join(comparison.naive)}: {NAIVE}"
        table.caption_style = "bold red"
    texts = ("category", "model", "training set", "metric", "run", "verdict")
    for name in (*texts[:-1], "value", "difference", "interval", "verdict"):
        table.add_column(name, justify="left" if name in texts else "right", overflow="fold")
    before: tuple[str, ...] = ()
    for row in comparison.figures.to_dict("records"):
        if row["metric"] not in metrics:
            continue
        names = tuple(str(row[name]) for name in KEYS)
        if before and names != before:
            table.add_section()
        shown = (
            ("", "", "", "")
            if names == before
            else (*names[:3], {**FIGURES, **RATES}.get(names[3], names[3]))
        )
        before = names
        table.add_row(
            *shown,
            row["run"],
            percent(row["value"]),
            points(row["difference"]) if row["run"] != comparison.runs[0] else "",
            "" if pd.isna(row["low"]) else f"[{points(row['low'])}, {points(row['high'])}]",
            ", ".join(filter(None, [row["verdict"], row["note"]])),
            style=STYLES.get(row["verdict"], ""),
        )
    return table


def ranking_table(comparison: Comparison) -> Table:
    """Of each run, model and training set the categories that gained most and least."""
    table = Table(title=f"Best and worst categories, by the difference to {comparison.runs[0]} in points")
    table.caption = "The best and the worst are chosen for being so, and look larger than they are."
    numbers = ("categories", "mean", "helps in", "hurts in")
    for name in ("run", "model", "training set", "metric", *numbers, "best", "worst"):
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in comparison.ranking.to_dict("records"):
        ends = [f"{row[name]} {points(row[f'{name}_difference'])}" for name in ("best", "worst")]
        table.add_row(
            row["run"],
            row["model"],
            row["training_set"],
            FIGURES.get(row["metric"], row["metric"]),
            str(row["n"]),
            points(row["mean"]),
            str(row["helps"]),
            str(row["hurts"]),
            *ends,
        )
    return table


def config_table(comparison: Comparison) -> Table:
    """A row a key that differs, a column a run; a row a run as well where the runs are many."""
    table = Table(title="What differs in configuration, data and versions")
    table.add_column("key", overflow="fold")
    if len(comparison.runs) <= 4:
        for run in comparison.runs:
            table.add_column(run, overflow="fold")
        for row in comparison.config.to_dict("records"):
            table.add_row(*(str(row[name]) for name in ("key", *comparison.runs)))
        return table
    table.add_column("run", overflow="fold")
    table.add_column("value", overflow="fold")
    for row in comparison.config.to_dict("records"):
        for place, run in enumerate(comparison.runs):
            table.add_row("" if place else str(row["key"]), run, str(row[run]))
        table.add_section()
    return table


def refused_table(comparison: Comparison) -> Table:
    """Categories that are not compared, and why."""
    table = Table(title="Not compared: figures of other test pictures say nothing beside these")
    for name in ("run", "category", "why"):
        table.add_column(name, overflow="fold")
    for row in comparison.not_compared.to_dict("records"):
        table.add_row(row["run"], row["category"], row["why"])
    return table


def tables_of(comparison: Comparison, metrics: Sequence[str]) -> Iterator[Table]:
    """All that is printed, in order."""
    yield runs_table(comparison)
    if comparison.figures["metric"].isin(metrics).any():
        yield figures_table(comparison, metrics)
    if len(comparison.ranking):
        yield ranking_table(comparison)
    if len(comparison.config):
        yield config_table(comparison)
    if len(comparison.not_compared):
        yield refused_table(comparison)


def points(share: float) -> str:
    """A difference of shares in points; a dash where it is not defined."""
    return "–" if pd.isna(share) else f"{100 * share:+.1f}"
