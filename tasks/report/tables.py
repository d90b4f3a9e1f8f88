"""A run's tables as a page shows them: means over seeds, rows and cells as text, bars of lifts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks.report.verdict import deciding_rows
from tasks.report.words import METRICS, MODELS, QUALITY, RATES, TONES, Tone, percent, points, said, signed
from tasks.tables.training_rows import reasons_text

BAR_PX, MARGIN_PX = 260, 6


@dataclass(frozen=True)
class LiftRow:
    """One lift with its interval, in a forest plot."""

    category: str
    training_set: str
    metric: str
    against: str
    baseline: str
    value: str
    text: str
    verdict: str
    tone: Tone
    at: float | None  # px; None where it is not defined
    low: float
    high: float


@dataclass(frozen=True)
class Forest:
    """Lifts under each other on one axis, in points; `px` of its ticks."""

    rows: tuple[LiftRow, ...]
    ticks: tuple[tuple[float, str], ...]
    width: int = BAR_PX


def forest(lift: pd.DataFrame) -> Forest:
    """Rows of lift.parquet as a forest plot, in their order; its axis is as wide on both sides of 0."""
    reach = lift[["difference", "low", "high"]].to_numpy(dtype=float)
    known = float(np.abs(reach[~np.isnan(reach)]).max(initial=0.0))
    limit = _round_up(100 * known) if known > 0 else 1.0

    def px(share: float) -> float:
        return round(BAR_PX / 2 + (BAR_PX / 2 - MARGIN_PX) * 100 * share / limit, 1)

    rows = []
    for row in lift.to_dict("records"):
        defined = not any(pd.isna(row[name]) for name in ("difference", "low", "high"))
        rows.append(
            LiftRow(
                category=str(row["category"]),
                training_set=str(row["training_set"]),
                metric=METRICS.get(row["metric"], (str(row["metric"]), ""))[0],
                against=str(row["against"]),
                baseline=percent(row["baseline"]),
                value=percent(row["value"]),
                text=f"{signed(row['difference'])} [{signed(row['low'])}, {signed(row['high'])}]",
                verdict=str(row["verdict"]),
                tone=TONES[row["verdict"]],
                at=px(row["difference"]) if defined else None,
                low=px(row["low"]) if defined else 0.0,
                high=px(row["high"]) if defined else 0.0,
            )
        )
    shown = (-limit, -limit / 2, 0.0, limit / 2, limit)
    marks = tuple((px(mark / 100), f"{mark:+g}".replace("-", "−") if mark else "0") for mark in shown)
    return Forest(tuple(rows), marks)


def _round_up(number: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50, …"""
    tens = 10 ** math.floor(math.log10(number))
    return next(float(factor * tens) for factor in (1, 2, 5, 10) if factor * tens >= number)


def seed_means(metrics: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds. Columns: model, training_set, defect_type, size, metric, value."""
    keys = ["model", "training_set", "defect_type", "size", "metric"]
    return metrics.groupby(keys, sort=False)["value"].mean().reset_index()


def figures_of(metrics: pd.DataFrame, model: str) -> dict[str, Any]:
    """A model's headline table: names of metrics, a row a training set, and the test pictures that it is of."""
    of_model = metrics[
        (metrics["model"] == model) & (metrics["defect_type"] == "all") & (metrics["size"] == "all")
    ]
    means = seed_means(of_model)
    names = [name for name in METRICS if name in set(of_model["metric"]) and name not in RATES]
    values = means.set_index(["training_set", "metric"])["value"]
    sets = list(dict.fromkeys(of_model["training_set"]))
    first = of_model.iloc[0]
    return {
        "title": MODELS.get(model, model),
        "metrics": [METRICS[name] for name in names],
        "rows": [(each, [percent(values.get((each, name))) for name in names]) for each in sets],
        "pictures": f"{first['n_good']} good and {first['n_defect']} defective test pictures",
        "seeds": int(of_model["seed"].nunique()),
    }


def line_rows(metrics: pd.DataFrame, model: str) -> dict[str, Any] | None:
    """Overkill and escapes at the threshold of validation, of all defects and of each type; None for a classifier."""
    of_model = metrics[(metrics["model"] == model) & (metrics["size"] == "all")]
    if "escape_rate" not in set(of_model["metric"]):
        return None
    types = [each for each in dict.fromkeys(of_model["defect_type"]) if each != "all"]
    means = seed_means(of_model).set_index(["training_set", "defect_type", "metric"])["value"]
    rows = []
    for name in dict.fromkeys(of_model["training_set"]):
        threshold, gap = means.get((name, "all", "threshold")), means.get((name, "all", "threshold_gap"))
        rows.append(
            (
                name,
                percent(means.get((name, "all", "overkill_rate"))),
                percent(means.get((name, "all", "escape_rate"))),
                [percent(means.get((name, each, "escape_rate"))) for each in types],
                number(threshold),
                number(None if threshold is None or gap is None else threshold - gap),
            )
        )
    return {"types": types, "rows": rows}


def pair_rows(pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a defect type: drawn, passed, share, why the others are refused."""
    rows = []
    for defect, of_type in pairs.groupby("label", sort=True):
        passed = int((of_type["reasons"] == "").sum())
        rows.append(
            {
                "defect": str(defect),
                "drawn": len(of_type),
                "passed": passed,
                "share": percent(passed / len(of_type)),
                "refused": reasons_text(of_type),
            }
        )
    return rows


def quality_rows(quality: pd.DataFrame) -> dict[str, Any] | None:
    """A row a figure, a column a defect type: of the pairs that pass, of all drawn where none does; None without any."""
    if quality.empty:
        return None
    defects = list(dict.fromkeys(quality["defect"]))
    columns: dict[str, pd.Series] = {}
    of_all = []
    for defect in defects:
        rows = quality[quality["defect"] == defect]
        accepted = rows[rows["pairs"] == "accepted"]
        if accepted.empty:
            of_all.append(defect)
        columns[defect] = (rows if accepted.empty else accepted).set_index("metric")["value"]
    known = [name for name in QUALITY if any(name in column.index for column in columns.values())]
    other = [name for name in dict.fromkeys(quality["metric"]) if name not in QUALITY]
    return {
        "defects": defects,
        "of_all": of_all,
        "rows": [
            (*QUALITY.get(name, (name, "", "")), [number(columns[each].get(name)) for each in defects])
            for name in [*known, *other]
        ],
    }


def number(value: float | None) -> str:
    """A figure to three decimals, large ones to fewer; a dash where there is none."""
    if value is None or pd.isna(value):
        return "–"
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return text.replace("-", "−")


def verdict_rows(lift: pd.DataFrame, model: str, metric: str) -> list[tuple[str, Tone, str]]:
    """A category's headline lifts: training set, tone, words, and against what where that is not `real`."""
    lift = deciding_rows(lift)
    chosen = lift[(lift["model"] == model) & (lift["metric"] == metric)]
    return [
        (
            str(row["training_set"]),
            TONES[row["verdict"]],
            f"{said(row['verdict'])}: {points(row['difference'], row['low'], row['high'])}"
            + ("" if row["against"] == "real" else f", against {row['against']}"),
        )
        for row in chosen.to_dict("records")
    ]


def confusion(tables: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """Confusion counts of several seeds as mean counts, with each row's shares for the shades."""
    mean = pd.concat(tables).groupby(["label", "pred_label"], sort=False, as_index=False)["n"].mean()
    classes = list(dict.fromkeys(mean["label"]))
    counts = mean.set_index(["label", "pred_label"])["n"]
    rows = []
    for label in classes:
        of_class = [float(counts[label, guess]) for guess in classes]
        total = sum(of_class)
        cells = [(f"{n:.1f}".removesuffix(".0"), round(n / total, 3) if total else 0.0) for n in of_class]
        rows.append((label, cells))
    return {"classes": classes, "rows": rows, "seeds": len(tables)}
