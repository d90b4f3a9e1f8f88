"""What sets runs apart besides their figures: configuration, cost, pairs, and which categories gained and lost."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from tasks.report.words import GENERATED, HEADLINE
from tasks.runs.ended import Run
from tasks.runs.facts import StageFacts, fingerprints, made_with, settings
from tasks.store.place import DESCRIPTION
from tasks.tables.figures import PAIRS

PHASES = {
    "finetune": ("adapt", "finetune"),
    "generate": ("search", "generate", "curate", "review", "crop", "blend"),
    "models": ("localize", "classify", "detect"),
    "other": (),
}
PHASE_OF = {stage: phase for phase, stages in PHASES.items() for stage in stages}
MANY = 4  # runs that stand beside each other by name; of more a table shows numbers


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
        described = json.loads((run.folder / DESCRIPTION).read_text())
        started, ended = (datetime.fromisoformat(described[key]) for key in ("started", "ended"))
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


def short_names(runs: Sequence[str]) -> dict[str, str]:
    """What runs are called in a table's cells: by name, or by their number where they are many."""
    return {run: run if len(runs) <= MANY else str(place) for place, run in enumerate(runs, 1)}


def meant_set(training_sets: Iterable[str]) -> str:
    """The training set that runs are meant to be judged by where not all can be shown."""
    known = list(dict.fromkeys(training_sets))
    return next((name for name in (*GENERATED, *known) if name in known), "")


def spread_of(figures: pd.DataFrame, runs: Sequence[str], training_set: str) -> pd.DataFrame:
    """Of each model and category its figure in the first run, and what became of it in the others.

    Columns: model, metric, category, first, n, helps, hurts, best, best_difference, worst, worst_difference.
    """
    rows = []
    shown = figures[
        (figures["metric"] == figures["model"].map(HEADLINE)) & (figures["training_set"] == training_set)
    ]
    for (model, category), of_category in shown.groupby(["model", "category"], sort=False):
        others = of_category[(of_category["run"] != runs[0]) & of_category["difference"].notna()]
        first = of_category.loc[of_category["run"] == runs[0], "value"]
        row = {
            "model": model,
            "metric": of_category["metric"].iloc[0],
            "category": category,
            "first": first.iloc[0] if len(first) else float("nan"),
            "n": len(others),
            "helps": int((others["verdict"] == "helps").sum()),
            "hurts": int((others["verdict"] == "hurts").sum()),
        }
        by_gain = others.sort_values("difference", ascending=False, kind="stable")
        for name, place in (("best", 0), ("worst", -1)):
            row[name] = by_gain["run"].iloc[place] if len(others) else ""
            row[f"{name}_difference"] = by_gain["difference"].iloc[place] if len(others) else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def by_value(config: pd.DataFrame, runs: Sequence[str]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Each key that differs, with its values and the runs that have them, the first run's value first."""
    found = []
    for row in config.to_dict("records"):
        of_value: dict[str, list[str]] = {}
        for run in runs:
            of_value.setdefault(str(row[run]), []).append(run)
        found.append((str(row["key"]), list(of_value.items())))
    return found


def by_reason(not_compared: pd.DataFrame) -> list[tuple[str, list[str], str]]:
    """What is not compared: run, its categories, the reason that they share."""
    groups = not_compared.groupby(["run", "why"], sort=False)["category"]
    return [(str(run), list(categories), str(why)) for (run, why), categories in groups]


def spans(numbers: Iterable[int]) -> str:
    """Whole numbers in order, with neighbours as spans: 1–3, 7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}" for part in parts)


def listed_runs(some: Sequence[str], runs: Sequence[str]) -> str:
    """Runs in a cell: their names, or their numbers where they are many."""
    if len(runs) <= MANY:
        return ", ".join(some)
    return spans(place for place, run in enumerate(runs, 1) if run in some)
