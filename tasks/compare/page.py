"""A comparison of runs as one HTML file that needs nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.compare.comparison import CAPTION, KEYS, Comparison
from tasks.compare.tables import MANY, by_reason, by_value, listed_runs, meant_set, short_names
from tasks.report.html import render
from tasks.report.tables import Forest, forest
from tasks.report.words import HEADLINE, METRICS, MODELS, SIGNS, TONES, percent, signed

UNFOLDED = 2  # categories whose tables are open from the start, where runs are few


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the comparison's page to this file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render("compare", page_values(comparison)), encoding="utf-8")


def page_values(comparison: Comparison) -> dict[str, Any]:
    """What the template is filled with."""
    figures = comparison.figures[comparison.figures["metric"].isin(METRICS)]
    runs = comparison.runs
    many = len(runs) > MANY
    return {
        "runs": runs,
        "names": short_names(runs),
        "many": many,
        "naive": comparison.naive,
        "about": comparison.about.to_dict("records"),
        "matrices": matrices(comparison),
        "meant": meant_set(figures["training_set"]),
        "plots": plots(comparison),
        "ranking": ranking_rows(comparison.ranking),
        "categories": [
            (category, figure_rows(rows, runs)) for category, rows in figures.groupby("category", sort=False)
        ],
        "refused": [
            (run, ", ".join(categories), why) for run, categories, why in by_reason(comparison.not_compared)
        ],
        "config": [
            (key, [(value, listed_runs(of_value, runs)) for value, of_value in values])
            for key, values in by_value(comparison.config, runs)
        ],
        "costs": cost_rows(comparison),
        "caption": CAPTION,
        "meanings": METRICS,
        "unfolded": 0 if many else UNFOLDED,
        "duration": duration,
        "gigabytes": gigabytes,
    }


def matrices(comparison: Comparison) -> list[dict[str, Any]]:
    """A table a model and training set: a row a category, a cell a run, in the model's headline metric."""
    figures = comparison.figures
    headline = figures[figures["metric"] == figures["model"].map(HEADLINE)]
    found = []
    for (model, training_set), of_set in headline.groupby(["model", "training_set"], sort=False):
        rows = []
        for category, of_category in of_set.groupby("category", sort=False):
            cells = {row["run"]: change(row) for row in of_category.to_dict("records")}
            base = of_category.loc[of_category["run"] == comparison.runs[0], "value"]
            first = percent(base.iloc[0]) if len(base) else "–"
            rows.append((str(category), first, [cells.get(run) for run in comparison.runs[1:]]))
        means = of_set.groupby("run")["difference"].mean()
        found.append(
            {
                "model": MODELS[str(model)],
                "training_set": str(training_set),
                "metric": METRICS[HEADLINE[str(model)]][0],
                "rows": rows,
                "means": [signed(means.get(run, float("nan"))) for run in comparison.runs[1:]],
            }
        )
    meant = meant_set(headline["training_set"])
    return sorted(found, key=lambda each: each["training_set"] != meant)


def change(row: dict[Any, Any]) -> dict[str, str]:
    """A difference to the first run as a cell shows it."""
    tone = TONES.get(row["verdict"], "open")
    return {
        "text": signed(row["difference"]),
        "sign": SIGNS[tone] if tone in ("good", "bad") else "",
        "tone": tone,
        "said": ", ".join(filter(None, [interval(row["low"], row["high"]), row["verdict"], row["note"]])),
    }


def plots(comparison: Comparison) -> list[tuple[str, list[tuple[str, str, Forest]]]]:
    """Of each run but the first a forest plot a model, in its headline metric."""
    figures = comparison.figures
    headline = figures[figures["metric"] == figures["model"].map(HEADLINE)]
    bases = headline[headline["run"] == comparison.runs[0]].set_index(KEYS)["value"]
    found = []
    for run in comparison.runs[1:]:
        rows = headline[(headline["run"] == run) & headline["low"].notna()]
        of_models = []
        for model, of_model in rows.groupby("model", sort=False):
            baseline = [bases.get(tuple(row), float("nan")) for row in of_model[KEYS].itertuples(index=False)]
            drawn = forest(of_model.assign(baseline=baseline, against=comparison.runs[0]))
            of_models.append((MODELS[str(model)], METRICS[HEADLINE[model]][0], drawn))  # type: ignore[index]  # as tables name it
        if of_models:
            found.append((run, of_models))
    return found


def figure_rows(figures: pd.DataFrame, runs: Sequence[str]) -> list[tuple[str, list[tuple[str, list[Any]]]]]:
    """Of each model and training set its metrics; a cell a run, None where it has no such figure."""
    found: dict[str, dict[str, dict[str, dict[str, str] | None]]] = {}
    for row in figures.to_dict("records"):
        cell = {"value": percent(row["value"]), "note": row["note"], "difference": ""}
        if row["run"] != runs[0] and not pd.isna(row["difference"]):
            tone = TONES.get(row["verdict"], "open")
            cell |= {
                "difference": signed(row["difference"]),
                "interval": interval(row["low"], row["high"]),
                "tone": tone,
                "sign": "" if tone == "open" else SIGNS[tone],
            }
        rows = found.setdefault(f"{MODELS[row['model']]} trained on {row['training_set']}", {})
        rows.setdefault(METRICS[row["metric"]][0], dict.fromkeys(runs))[row["run"]] = cell
    return [
        (title, [(metric, list(cells.values())) for metric, cells in rows.items()])
        for title, rows in found.items()
    ]


def ranking_rows(ranking: pd.DataFrame) -> list[tuple[str, list[dict[str, Any]]]]:
    """Best and worst categories in words, by training set."""
    found = []
    for training_set, of_set in ranking.groupby("training_set", sort=False):
        rows = []
        for row in of_set.to_dict("records"):
            ends = {
                name: f"{row[name]} {signed(row[f'{name}_difference'])} "
                f"{interval(row[f'{name}_low'], row[f'{name}_high'])}".strip()
                for name in ("best", "worst")
            }
            names = {
                "model": MODELS[row["model"]],
                "metric": METRICS[row["metric"]][0],
                "mean": signed(row["mean"]),
            }
            rows.append({**{str(name): value for name, value in row.items()}, **ends, **names})
        found.append((str(training_set), rows))
    return found


def cost_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row a stage: in each run how many artifacts, and the seconds that they took."""
    rows = []
    for stage, of_stage in comparison.costs.groupby("stage", sort=False):
        sums = of_stage.groupby("run")[["n", "seconds"]].sum().to_dict("index")
        cells = [
            f"{duration(sums[run]['seconds'])} for {sums[run]['n']}" if run in sums else "–"
            for run in comparison.runs
        ]
        rows.append({"stage": str(stage), "cells": cells})
    return rows


def interval(low: float, high: float) -> str:
    """An interval of a difference, in points; nothing where there is none."""
    return "" if pd.isna(low) or pd.isna(high) else f"[{signed(low)}, {signed(high)}]"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def gigabytes(memory: float, cuda: float) -> str:
    """The most memory in GB: of CUDA where there was one, else of the process."""
    value = memory if pd.isna(cuda) else cuda
    return "–" if pd.isna(value) else f"{value:.1f}"
