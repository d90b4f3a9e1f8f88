"""What commands say with --json: the same as their tables, under names that stay. Sizes in bytes, times in seconds."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from tasks.data.faults import Fault, has_errors
from tasks.report.run_folder import RunSummary
from tasks.report.run_page import REPORT
from tasks.runs.cost import Plan
from tasks.runs.ended import Listed, Run
from tasks.runtime.stage import StageOutcome
from tasks.store.upkeep import Entry, Garbage

LIFT = [
    "category",
    "model",
    "training_set",
    "against",
    "metric",
    "baseline",
    "value",
    "difference",
    "low",
    "high",
]


def plan_document(costs: Plan) -> dict[str, Any]:
    """A plan; seconds and bytes are null where they are unknown."""
    stages = [
        {
            "stage": stage.out.stage,
            "category": stage.out.category,
            "label": stage.out.label,
            "artifact": stage.out.ref,
            "status": stage.status,
            "why": stage.why or None,
            "seconds": None if stage.cost is None else round(stage.cost.seconds, 1),
            "bytes": None if stage.cost is None else round(stage.cost.bytes),
        }
        for stage in costs.stages
    ]
    return {
        "stages": stages,
        "device": costs.device,
        "seconds": round(costs.seconds, 1),
        "bytes": round(costs.bytes),
        "unknown": costs.unknown,
        "elsewhere": costs.elsewhere,
        "free_bytes": costs.free_bytes,
        "fits": costs.fits,
    }


def summary_document(summary: RunSummary) -> dict[str, Any]:
    """A run that has just ended. Figures are means over seeds on all test pictures; all others are in `files`."""
    return {
        "run": summary.run,
        "state": summary.state,
        "folder": str(summary.folder),
        "naive_split": summary.naive,
        "stages": stage_rows(summary.stages),
        "pairs": pair_rows(summary.pairs),
        "figures": figure_rows(summary.metrics),
        "lift": lift_rows(summary.lift),
        "advice": list(summary.advice),
        "report": next((str(page) for page in summary.folder.glob(REPORT)), None),
        "sheets": [str(sheet) for sheet in summary.sheets],
        "files": [str(file) for file in sorted(summary.folder.glob("*.parquet"))],
    }


def run_document(run: Run) -> dict[str, Any]:
    """A run that ended some time ago."""
    return {
        "run": run.name,
        "state": run.state,
        "folder": str(run.folder),
        "stages": stage_rows(run.stages),
    }


def runs_document(runs: Iterable[Listed]) -> dict[str, Any]:
    """All runs of a store, newest first."""
    return {
        "runs": [
            {
                "run": run.name,
                "state": run.state,
                "started": run.started.isoformat(),
                "ended": None if run.ended is None else run.ended.isoformat(),
                "categories": list(run.categories),
                "failed": list(run.failed),
                "data": run.data,
            }
            for run in runs
        ]
    }


def stage_rows(stages: Sequence[StageOutcome]) -> list[dict[str, Any]]:
    """What became of each stage."""
    return [
        {
            "stage": stage.stage,
            "label": stage.label,
            "status": stage.status,
            "seconds": round(stage.seconds, 1),
            "artifact": stage.artifact,
            "error": stage.error,
        }
        for stage in stages
    ]


def pair_rows(pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """How many pairs of each defect type were drawn, and how many passed."""
    if pairs.empty:
        return []
    of_types = pairs.groupby(["category", "label"], sort=False)["reasons"]
    return [
        {
            "category": category,
            "defect_type": defect,
            "drawn": len(reasons),
            "passed": int((reasons == "").sum()),
        }
        for (category, defect), reasons in of_types
    ]


def figure_rows(metrics: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a category, model, training set and metric."""
    if metrics.empty:
        return []
    overall = metrics[(metrics["defect_type"] == "all") & (metrics["size"] == "all")]
    keys = ["category", "model", "training_set", "metric"]
    of_seeds = overall.groupby(keys, sort=False)
    means = of_seeds.agg(value=("value", "mean"), n_seeds=("seed", "nunique"), n_good=("n_good", "first"),
                         n_defect=("n_defect", "first")).reset_index()  # fmt: skip
    return rows_of(means)


def lift_rows(lift: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a comparison, with its interval and verdict."""
    return [] if lift.empty else rows_of(lift[[*LIFT, "n_seeds", "verdict"]])


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows with plain numbers; null where one is not defined."""
    filled = table.astype(object).where(table.notna(), None)
    return [
        {str(name): value.item() if hasattr(value, "item") else value for name, value in row.items()}
        for row in filled.to_dict("records")
    ]


def artifacts_document(entries: Iterable[Entry]) -> dict[str, Any]:
    """What lies in a store; `created` is null of what is not finished or has lost its manifest."""
    rows = [
        {
            "artifact": entry.artifact.ref,
            "stage": entry.artifact.stage,
            "category": entry.artifact.category,
            "label": entry.artifact.label,
            "bytes": entry.bytes,
            "created": entry.created or None,
            "seconds": round(entry.seconds, 1),
            "runs": list(entry.runs),
        }
        for entry in entries
    ]
    return {"artifacts": rows, "bytes": sum(row["bytes"] for row in rows)}


def garbage_document(garbage: Garbage, deleted: int | None) -> dict[str, Any]:
    """What can go, by its name in the store; `deleted_bytes` is null where nothing was to be deleted."""
    return {**asdict(garbage), "bytes": garbage.bytes, "deleted_bytes": deleted}


def faults_document(path: str, faults: Sequence[Fault]) -> dict[str, Any]:
    """What `data check` found."""
    return {
        "path": path,
        "refused": has_errors(faults),
        "faults": [{**asdict(fault), "path": str(fault.path)} for fault in faults],
    }
