"""What `anodiff compare` prints: rows in, rich tables out. Of many runs what one reads first; files hold the rest."""

from collections.abc import Iterator, Sequence

import pandas as pd
from rich.table import Table

from flows.cli.tables import FIGURES, NAIVE, TITLES, duration, percent
from tasks.compare.comparison import CAPTION, KEYS, Comparison
from tasks.compare.tables import (
    MANY,
    by_reason,
    by_value,
    listed_runs,
    meant_set,
    short_names,
    spread_of,
)

RATES = {"escape_rate": "escapes", "overkill_rate": "overkill"}
STYLES = {"helps": "green", "hurts": "red"}
MANY_ROWS = 200  # of figures: more are written, not printed, unless they are asked for
TIMES = {
    "took": "wall_s",
    "fine-tuning": "finetune_s",
    "pairs": "generate_s",
    "models": "models_s",
    "other": "other_s",
    "all": "stages_s",
}


def tables_of(
    comparison: Comparison, metrics: Sequence[str], *, all_figures: bool = False
) -> Iterator[Table | str]:
    """All that is printed, in order. `all_figures`: however many they are."""
    yield runs_table(comparison)
    rows = int(comparison.figures["metric"].isin(metrics).sum())
    if rows > MANY_ROWS and not all_figures:
        yield from spread_tables(comparison)
        yield from ranking_tables(comparison)
        yield (
            f"{rows} figures of {', '.join(metrics)} are not printed: name --categories, or fewer --metrics, to see "
            "them here; --html, --csv, --parquet and --json hold all."
        )
    else:
        if rows:
            yield figures_table(comparison, metrics)
        if len(comparison.ranking):
            yield ranking_table(comparison, comparison.ranking)
    if len(comparison.config):
        yield config_table(comparison)
    if len(comparison.not_compared):
        yield refused_table(comparison)


def runs_table(comparison: Comparison) -> Table:
    """A row a run: what it was, what all that it rests on took, what became of its pairs."""
    table = Table(title="Runs and what they cost; the first is what the others are compared with")
    table.caption = (
        "Times of all stages that a run rests on, cached or not; took: the run itself. GB: CUDA's, else all."
    )
    many = len(comparison.runs) > MANY
    if many:
        table.add_column("#", justify="right")
    texts = ("run", "state", "device")
    # What is the same for all runs is said once.
    device = set(comparison.about["device"])
    columns = ("run", "state", *TIMES, "GB", "drawn", "pass", *(("device",) if len(device) > 1 else ()))
    for name in columns:
        table.add_column(name, justify="left" if name in texts else "right", overflow="fold")
    if len(device) == 1:
        table.caption += f" All on {device.pop() or 'a device not known'}."
    for place, row in enumerate(comparison.about.to_dict("records"), 1):
        memory = row["memory_gb"] if pd.isna(row["cuda_gb"]) else row["cuda_gb"]
        cells = {"run": row["run"], "state": row["state"], "device": row["device"]}
        cells |= {name: duration(row[column]) for name, column in TIMES.items()}
        cells |= {"GB": "–" if pd.isna(memory) else f"{memory:.1f}"}
        cells |= {"drawn": str(row["drawn"]), "pass": str(row["passed"])}
        table.add_row(*([str(place)] if many else []), *(cells[name] for name in columns))
    return table


def figures_table(comparison: Comparison, metrics: Sequence[str]) -> Table:
    """The aligned figures of these metrics: a row a run below each other, differences to the first."""
    table = Table(
        title=f"Figures in %, differences to {comparison.runs[0]} in points with their 95 % interval"
    )
    table.caption = CAPTION
    mark_naive(table, comparison)
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


def spread_tables(comparison: Comparison) -> Iterator[Table]:
    """A table a model: of each category its figure in the first run, in how many others it differs, and where most."""
    name = meant_set(comparison.figures["training_set"])
    names = short_names(comparison.runs)
    spread = spread_of(comparison.figures, comparison.runs, name)
    for model, rows in spread.groupby("model", sort=False):
        metric = FIGURES[str(rows["metric"].iloc[0])]
        table = Table(title=f"{TITLES[str(model)]} trained on {name}: {metric} by category")
        table.caption = (
            f"The best and the worst are chosen for being so, and look larger than they are. {CAPTION}"
        )
        mark_naive(table, comparison)
        numbers = ("runs", "helps in", "hurts in")
        table.add_column("category", overflow="fold")
        table.add_column(f"{names[comparison.runs[0]]}, %", justify="right")
        for column in numbers:
            table.add_column(column, justify="right")
        for column in ("best run", "worst run"):
            table.add_column(column)
            table.add_column("points", justify="right")
        for row in rows.to_dict("records"):
            ends = ((names.get(row[end], ""), points(row[f"{end}_difference"])) for end in ("best", "worst"))
            table.add_row(
                row["category"],
                percent(row["first"]),
                *(str(row[column]) for column in ("n", "helps", "hurts")),
                *(cell for end in ends for cell in end),
            )
        yield table


def ranking_tables(comparison: Comparison) -> Iterator[Table]:
    """The ranking on the training set that runs are judged by, a table a model."""
    rows = comparison.ranking[
        comparison.ranking["training_set"] == meant_set(comparison.figures["training_set"])
    ]
    for _, of_model in rows.groupby("model", sort=False):
        yield ranking_table(comparison, of_model)


def ranking_table(comparison: Comparison, rows: pd.DataFrame) -> Table:
    """Of each run, model and training set the categories that gained most and least."""
    table = Table(title=f"Best and worst categories, by the difference to {comparison.runs[0]} in points")
    table.caption = "The best and the worst are chosen for being so, and look larger than they are."
    mark_naive(table, comparison)
    names = short_names(comparison.runs)
    numbers = ("categories", "mean", "helps in", "hurts in")
    for name in ("run", "model", "training set", "metric", *numbers, "best", "worst"):
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows.to_dict("records"):
        ends = [f"{row[name]} {points(row[f'{name}_difference'])}" for name in ("best", "worst")]
        table.add_row(
            names[row["run"]],
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
    """A row a key that differs, a column a run; where the runs are many a row a value, with the runs that have it."""
    table = Table(title="What differs in configuration, data and versions")
    runs = comparison.runs
    if len(runs) <= MANY:
        for name in ("key", *runs):
            table.add_column(name, overflow="fold")
        for row in comparison.config.to_dict("records"):
            table.add_row(*(str(row[name]) for name in ("key", *runs)))
        return table
    for name in ("key", "value", "runs"):
        table.add_column(name, overflow="fold")
    for key, values in by_value(comparison.config, runs):
        for place, (value, of_value) in enumerate(values):
            table.add_row("" if place else key, value, listed_runs(of_value, runs))
        table.add_section()
    return table


def refused_table(comparison: Comparison) -> Table:
    """Categories that are not compared, and why."""
    table = Table(title="Not compared: figures of other test pictures say nothing beside these")
    for name in ("run", "categories", "why"):
        table.add_column(name, overflow="fold")
    names = short_names(comparison.runs)
    for run, categories, why in by_reason(comparison.not_compared):
        table.add_row(names[run], ", ".join(categories), why)
    return table


def mark_naive(table: Table, comparison: Comparison) -> None:
    """Say below a table that figures of some runs do not count, if they do not."""
    if comparison.naive:
        text = f"{', '.join(comparison.naive)}: {NAIVE}"
        table.caption = "\n".join(filter(None, [str(table.caption or ""), text]))
        table.caption_style = "bold red"


def points(share: float) -> str:
    """A difference of shares in points; a dash where it is not defined."""
    return "–" if pd.isna(share) else f"{100 * share:+.1f}"
