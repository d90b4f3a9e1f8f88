"""A comparison of runs as one HTML file that needs nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.comparison import CAPTION, KEYS, Comparison
from tasks.html import render
from tasks.page_tables import Forest, forest
from tasks.page_words import HEADLINE, METRICS, MODELS, TONES, percent, signed

UNFOLDED = 2  # categories whose tables are open from the start


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the comparison's page to this file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render("compare", page_values(comparison)))


def page_values(comparison: Comparison) -> dict[str, Any]:
    """What the template is filled with."""
    figures = comparison.figures[comparison.figures["metric"].isin(METRICS)]
    return {
        "runs": comparison.runs,
        "naive": comparison.naive,
        "about": comparison.about.to_dict("records"),
        "plots": plots(comparison),
        "ranking": ranking_rows(comparison.ranking),
        "categories": [
            (category, figure_rows(rows, comparison.runs))
            for category, rows in figures.groupby("category", sort=False)
        ],
        "refused": comparison.not_compared.to_dict("records"),
        "config": comparison.config.to_dict("records"),
        "costs": cost_rows(comparison),
        "caption": CAPTION,
        "models": MODELS,
        "meanings": METRICS,
        "unfolded": UNFOLDED,
        "duration": duration,
        "gigabytes": gigabytes,
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


def figure_rows(figures: pd.DataFrame, runs: Sequence[str]) -> list[dict[str, Any]]:
    """A row a model, training set and metric; a cell a run, None where it has no such figure."""
    rows: dict[tuple[str, str, str], dict[str, dict[str, str] | None]] = {}
    for row in figures.to_dict("records"):
        named = MODELS[row["model"]], row["training_set"], METRICS[row["metric"]][0]
        rows.setdefault(named, dict.fromkeys(runs))[row["run"]] = {
            "value": percent(row["value"]),
            "difference": "" if row["run"] == runs[0] else signed(row["difference"]),
            "interval": interval(row["low"], row["high"]),
            "verdict": row["verdict"],
            "tone": TONES.get(row["verdict"], "open"),
            "note": row["note"],
        }
    return [
        {"model": model, "training_set": training_set, "metric": metric, "cells": list(cells.values())}
        for (model, training_set, metric), cells in rows.items()
    ]


def ranking_rows(ranking: pd.DataFrame) -> list[dict[str, Any]]:
    """Best and worst categories in words."""
    rows = []
    for row in ranking.to_dict("records"):
        ends = {
            name: f"{row[name]} {signed(row[f'{name}_difference'])} "
            f"{interval(row[f'{name}_low'], row[f'{name}_high'])}".strip()
            for name in ("best", "worst")
        }
        rows.append(
            {
                **{str(name): value for name, value in row.items()},
                **ends,
                "model": MODELS[row["model"]],
                "metric": METRICS[row["metric"]][0],
                "mean": signed(row["mean"]),
            }
        )
    return rows


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
