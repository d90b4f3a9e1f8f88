"""What sets runs apart besides their figures: configuration, cost, pairs, and which categories gained and lost."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from tasks.page_words import HEADLINE
from tasks.report import PAIRS
from tasks.run_facts import StageFacts, fingerprints, made_with, settings
from tasks.runs import Run
from tasks.store import DESCRIPTION

PHASES = {
    "finetune": ("adapt", "finetune"),
    "generate": ("search", "generate", "curate", "review", "crop", "blend"),
    "models": ("localize", "classify", "detect"),
    "other": (),
}
PHASE_OF = {stage: phase for phase, stages in PHASES.items() for stage in stages}


def config_differences(
    runs: Sequence[Run], labels: Sequence[str], facts: Sequence[list[StageFacts]]
) -> pd.DataFrame:
    """Only what differs: configuration, fingerprints of the data, versions of packages and stages."""
    columns: list[dict[str, str]] = []
    for run, of_run in zip(runs, facts, strict=True):
        values = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in settings(run).items()
        }
        values |= {
            f"fingerprint of {category}": digest[:12] for category, digest in fingerprints(of_run).items()
        }
        columns.append(values | made_with(of_run))
    keys = dict.fromkeys(name for values in columns for name in values)
    rows = [
        {"key": name, **{label: values.get(name, "–") for label, values in zip(labels, columns, strict=True)}}
        for name in keys
        if len({values[name] for values in columns if name in values}) > 1
    ]
    return pd.DataFrame(rows, columns=["key", *labels])


def ranking_of(figures: pd.DataFrame, others: Sequence[str]) -> pd.DataFrame:
    """Of each run, model and training set the category that gained most and least; for two categories and more."""
    rows = []
    headline = figures[figures["metric"] == figures["model"].map(HEADLINE)]
    headline = headline[headline["run"].isin(others) & headline["difference"].notna()]
    for (run, model, training_set), of_set in headline.groupby(["run", "model", "training_set"], sort=False):
        if len(of_set) < 2:
            continue
        by_gain = of_set.sort_values("difference", ascending=False, kind="stable")
        metric = str(of_set["metric"].iloc[0])
        row: dict[str, Any] = {
            "run": run,
            "model": model,
            "training_set": training_set,
            "metric": metric,
            "n": len(of_set),
            "mean": of_set["difference"].mean(),
            "helps": int((of_set["verdict"] == "helps").sum()),
            "hurts": int((of_set["verdict"] == "hurts").sum()),
        }
        for name, at in (("best", by_gain.iloc[0]), ("worst", by_gain.iloc[-1])):
            row[name] = at["category"]
            row |= {f"{name}_{column}": at[column] for column in ("difference", "low", "high")}
        rows.append(row)
    ends = [f"{name}{end}" for name in ("best", "worst") for end in ("", "_difference", "_low", "_high")]
    columns = ["run", "model", "training_set", "metric", "n", "mean", "helps", "hurts", *ends]
    return pd.DataFrame(rows, columns=columns)


def about_runs(
    runs: Sequence[Run], labels: Sequence[str], of_stages: pd.DataFrame, pairs: pd.DataFrame
) -> pd.DataFrame:
    """What each run was and cost: the stages' seconds are those of all artifacts that it rests on, cached or not."""
    rows = []
    for run, label in zip(runs, labels, strict=True):
        told = json.loads((run.folder / DESCRIPTION).read_text())
        started, ended = (datetime.fromisoformat(told[key]) for key in ("started", "ended"))
        own, drawn = of_stages[of_stages["run"] == label], pairs[pairs["run"] == label]
        phases = own["stage"].map(PHASE_OF).fillna("other")
        seconds = own.groupby(phases)["seconds"].sum()
        rows.append(
            {
                "run": label,
                "state": run.state,
                "started": started.isoformat(timespec="minutes"),
                "wall_s": (ended - started).total_seconds(),
                "device": ", ".join(dict.fromkeys(own["device"])),
                **{f"{phase}_s": float(seconds.get(phase, 0.0)) for phase in PHASES},
                "stages_s": float(own["seconds"].sum()),
                "memory_gb": own["memory_gb"].max(),
                "cuda_gb": own["cuda_gb"].max(),
                "drawn": int(drawn["drawn"].sum()),
                "passed": int(drawn["passed"].sum()),
            }
        )
    return pd.DataFrame(rows)


def pairs_of(run: Run) -> pd.DataFrame:
    """Pairs drawn and passed, of each category and defect type."""
    columns = ["category", "defect", "drawn", "passed"]
    if not (run.folder / PAIRS).is_file():
        return pd.DataFrame(columns=columns)
    pairs = pd.read_parquet(run.folder / PAIRS)
    pairs["passed"] = pairs["reasons"] == ""
    of_types = pairs.groupby(["category", "label"], sort=False)["passed"].agg(["size", "sum"]).reset_index()
    return of_types.set_axis(columns, axis=1)


def by_run(labels: Sequence[str], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(
        [
            table.assign(run=label)[["run", *table.columns]]
            for label, table in zip(labels, tables, strict=True)
        ],
        ignore_index=True,
    )
