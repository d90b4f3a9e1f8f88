"""What of a finished run goes to MLflow: a run each for the whole and for each category, read from the run's folder.

Names are the same for every run, so that MLflow's table and charts put runs beside each other:

    localize/generated/pixel_ap                       mean over seeds; in the whole run's also over categories
    localize/generated/scratch/pixel_ap               pictures of one defect type and the good ones
    lift/localize/generated/over_real/pixel_ap        and …/pixel_ap_low, …/pixel_ap_high
    pairs/scratch/pass_rate, quality/scratch/coverage, seconds/finetune, memory_gb/finetune
    training/localize/generated/loss                  over steps; dose/pairs/localize/pixel_ap: over doses
"""

import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import pandas as pd

from tasks.errors import ArtifactError
from tasks.report.ui import SHOWN, summary_text
from tasks.report.verdict import deciding_rows
from tasks.runs.ended import Run, artifacts_of
from tasks.runs.facts import StageFacts, costs, fingerprints, made_with, settings, stage_facts, stored
from tasks.store.place import DESCRIPTION
from tasks.tables.figures import ADVICE, DOSE, LIFT, METRICS, PAIRS, QUALITY, SHEETS

PAGE = "report.html"
CURVE_POINTS = 100
# With all of them MLflow's page lists 2,000 metrics of a category; metrics.parquet, which is logged too, has them.
OF_DEFECTS = ("image_auroc", "pixel_ap", "aupro", "escape_rate", "recall", "precision", "f1")
MAX_NOTE = 7900  # MLflow takes 8,000 characters as a tag's value
WHOLE = ""  # the category of a run's own record
Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Record:
    """What one MLflow run holds."""

    category: str  # WHOLE of the parent
    name: str
    state: Literal["FINISHED", "FAILED"]
    params: dict[str, str]
    metrics: dict[str, float]
    curves: dict[str, Curve]
    tags: dict[str, str]
    data: dict[str, str]  # fingerprint by category
    files: dict[str, Path | bytes] = field(default_factory=dict)  # by their names among the run's artifacts


def times_ms(run: Run) -> tuple[int, int]:
    """Start and end of a run, in ms since the epoch."""
    described = json.loads((run.folder / DESCRIPTION).read_text())
    start, end = (
        int(1000 * datetime.fromisoformat(described[key]).timestamp()) for key in ("started", "ended")
    )
    return start, end


def records_of(run: Run) -> list[Record]:
    """The whole run's record, then one a category."""
    facts = stage_facts(run)
    tables = {
        name: pd.read_parquet(run.folder / name)
        for name in (METRICS, LIFT, PAIRS, QUALITY, DOSE)
        if (run.folder / name).is_file()
    }
    categories = list(dict.fromkeys(stage.label.split("/")[0] for stage in run.stages))
    children = [_of_category(run, category, facts, tables) for category in categories]
    return [_of_whole(run, facts, tables, children), *children]


def _of_whole(
    run: Run, facts: list[StageFacts], tables: Mapping[str, pd.DataFrame], children: Sequence[Record]
) -> Record:
    failed = [stage for stage in run.stages if stage.status in ("failed", "skipped")]
    start, end = times_ms(run)
    metrics = _means(each.metrics for each in children) | _costs(facts) | _pass_rates(tables.get(PAIRS))
    names = [DESCRIPTION, PAGE, ADVICE, *tables]
    return Record(
        category=WHOLE,
        name=run.name,
        state="FINISHED" if run.state == "completed" else "FAILED",
        params=_params(run, facts),
        metrics={**metrics, "seconds/run": (end - start) / 1000},
        curves={},
        tags={
            **_tags(run, facts),
            "anodiff.failed_stages": str(len(failed)),
            "mlflow.note.content": _note(run, tables.get(LIFT))[:MAX_NOTE],
        },
        data=fingerprints(facts),
        files={name: run.folder / name for name in names if (run.folder / name).is_file()},
    )


def _of_category(
    run: Run, category: str, facts: list[StageFacts], tables: Mapping[str, pd.DataFrame]
) -> Record:
    def rows(name: str) -> pd.DataFrame:
        table = tables.get(name)
        return table[table["category"] == category] if table is not None and len(table) else pd.DataFrame()

    own = [fact for fact in facts if fact.outcome.label.split("/")[0] == category]
    stages = [stage for stage in run.stages if stage.label.split("/")[0] == category]
    broken = any(stage.status in ("failed", "skipped") for stage in stages)
    metrics = _figures(rows(METRICS)) | _lifts(rows(LIFT)) | _pass_rates(rows(PAIRS))
    defects = rows(PAIRS)["label"].unique() if len(rows(PAIRS)) else ()
    names = [f"{SHEETS}/{category}-{defect}{end}.png" for defect in defects for end in ("", "-refused")]
    files: dict[str, Path | bytes] = {
        name: run.folder / name for name in names if (run.folder / name).is_file()
    }
    return Record(
        category=category,
        name=f"{category} {run.name}",
        state="FAILED" if broken else "FINISHED",
        params={**_params(run, own), "category": category},
        metrics={**metrics, **_quality(rows(QUALITY)), **_costs(own)},
        curves=_training(run, own) | _doses(rows(DOSE)),
        tags={**_tags(run, own), "mlflow.note.content": _summary(run, category)[:MAX_NOTE]},
        data=fingerprints(own),
        files=files | _pictures(run, own),
    )


def key(*parts: str) -> str:
    """A name that MLflow takes: letters of any script, digits and _-. with slashes between the parts."""
    return "/".join(re.sub(r"[^\w.-]", "_", part.replace("+", "_and_")).strip(".") or "_" for part in parts)


def _params(run: Run, facts: list[StageFacts]) -> dict[str, str]:
    values = settings(run) | made_with(facts)
    values["device used"] = ", ".join(dict.fromkeys(str(fact.manifest["device"]) for fact in facts))
    return {
        re.sub(r"[^\w. -]", "_", name): (value if isinstance(value, str) else json.dumps(value))[:6000]
        for name, value in values.items()
    }


def _tags(run: Run, facts: list[StageFacts]) -> dict[str, str]:
    tags = {"anodiff.state": run.state, "mlflow.source.name": "anodiff", "mlflow.source.type": "LOCAL"}
    version = made_with(facts).get("package dualanodiff")
    naive = {"anodiff.naive_split": "true"} if run.config.split.naive else {}
    return {**tags, **({"anodiff.version": version} if version else {}), **naive}


def _figures(metrics: pd.DataFrame) -> dict[str, float]:
    """Means over seeds: every metric of all pictures, the main ones of each defect type."""
    if metrics.empty:
        return {}
    main = (metrics["defect_type"] == "all") | metrics["metric"].isin(OF_DEFECTS)
    shown = metrics[(metrics["size"] == "all") & main]
    names = ["model", "training_set", "defect_type", "metric"]
    means = shown.groupby(names, sort=False)["value"].mean().reset_index()
    return {
        key(*(str(row[name]) for name in names if row[name] != "all")): float(row["value"])
        for row in means.to_dict("records")
    }


def _lifts(lift: pd.DataFrame) -> dict[str, float]:
    found = {}
    for row in lift.to_dict("records"):
        above = ("lift", row["model"], row["training_set"], f"over_{row['against']}")
        for end, column in (("", "difference"), ("_low", "low"), ("_high", "high")):
            found[key(*above, row["metric"] + end)] = float(row[column])
    return found


def _pass_rates(pairs: pd.DataFrame | None) -> dict[str, float]:
    """Pairs drawn and the share that passed, of each defect type and of all."""
    if pairs is None or pairs.empty:
        return {}
    found = {}
    for above, table in (
        (("pairs",), pairs),
        *((("pairs", str(defect)), rows) for defect, rows in pairs.groupby("label")),
    ):
        found[key(*above, "drawn")] = float(len(table))
        found[key(*above, "pass_rate")] = float((table["reasons"] == "").mean())
    return found


def _quality(quality: pd.DataFrame) -> dict[str, float]:
    if quality.empty:
        return {}
    passed = quality[quality["pairs"] == "accepted"]
    return {
        key("quality", row["defect"], row["metric"]): float(row["value"]) for row in passed.to_dict("records")
    }


def _costs(facts: list[StageFacts]) -> dict[str, float]:
    """Of all artifacts that the run rests on, made by it or before."""
    table = costs(facts).groupby("stage", sort=False)
    found: dict[str, float] = {}
    for name, how in (("seconds", "sum"), ("memory_gb", "max"), ("cuda_gb", "max")):
        found |= {key(name, str(stage)): float(value) for stage, value in table[name].agg(how).items()}
    found["seconds/all_stages"] = sum(value for name, value in found.items() if name.startswith("seconds/"))
    return found


def _means(records: Iterator[dict[str, float]]) -> dict[str, float]:
    """Mean over categories of what all of them have a name for; what is of one defect type or one end of an interval
    is left to them."""
    table = pd.DataFrame(list(records))
    whole = [
        name
        for name in table.columns
        if (name.count("/") == 2 and not name.startswith(("pairs/", "quality/")))
        or (name.startswith("lift/") and not name.endswith(("_low", "_high")))
    ]
    return {name: float(table[name].mean()) for name in whole}


def _training(run: Run, facts: list[StageFacts]) -> dict[str, Curve]:
    """Losses and validation over steps; of a model the mean over its seeds, as far as all went."""
    tables: dict[tuple[str, ...], list[pd.DataFrame]] = {}
    for fact in facts:
        names = fact.outcome.label.split("/")[1:]
        if (
            fact.outcome.stage in run.config.compare.models
            and names[0] not in run.config.compare.training_sets
        ):
            continue  # of a dose
        text = stored(run, fact.outcome.artifact or "", "training.csv")
        if text is not None:
            of = names[:1] if len(names) > 1 or fact.outcome.stage == "finetune" else names
            tables.setdefault((fact.outcome.stage, *of), []).append(pd.read_csv(io.BytesIO(text)))
    found: dict[str, Curve] = {}
    for above, of_seeds in tables.items():
        table = (
            pd.concat(of_seeds)
            .groupby("step")
            .mean(numeric_only=True)
            .drop(columns="learning_rate", errors="ignore")
        )
        for name in table.columns:
            values = table[name].dropna()
            every = max(1, math.ceil(len(values) / CURVE_POINTS))
            thinned = values[(len(values) - 1) % every :: every]  # the last one is among them
            found[key("training", *above, str(name))] = [(int(step), float(v)) for step, v in thinned.items()]  # type: ignore[call-overload]  # an index of steps
    return found


def _doses(dose: pd.DataFrame) -> dict[str, Curve]:
    found: dict[str, Curve] = {}
    for row in dose.to_dict("records"):
        if row["defect_type"] == "all":
            name = key("dose", row["kind"], row["model"], row["metric"])
            found.setdefault(name, []).append((int(row["dose"]), float(row["value"])))
    return found


def _note(run: Run, lift: pd.DataFrame | None) -> str:
    """Markdown: what failed, and in how many categories which training set helped."""
    lines = [f"run {run.name}: {run.state}"]
    failed = [each for each in run.stages if each.status in ("failed", "skipped")]
    lines += [""] * bool(failed) + [f"- {each.stage} {each.label}: {each.error}" for each in failed[:20]]
    if run.config.split.naive:
        lines += ["", "**Naive split: the same part may be on both sides; these figures do not count.**"]
    if lift is None or lift.empty:
        return "\n".join(lines)
    lines += ["", "| model | training set | metric | lift, in categories |", "|---|---|---|---|"]
    shown = deciding_rows(lift)
    shown = shown[shown["metric"].isin(SHOWN)]
    for (model, training_set, metric), rows in shown.groupby(["model", "training_set", "metric"], sort=False):
        counts = rows["verdict"].value_counts()
        said = ", ".join(f"{verdict} in {count}" for verdict, count in counts.items())
        lines.append(f"| {model} | {training_set} | {metric} | {said} |")
    return "\n".join(lines)


def _summary(run: Run, category: str) -> str:
    """Markdown: the category's verdicts and pairs; nothing where its report is gone or never was made."""
    try:
        reports = artifacts_of(run, "report", category)
    except ArtifactError:
        return ""
    return "\n".join(summary_text(report) for report in reports.values())


def _pictures(run: Run, facts: list[StageFacts]) -> dict[str, Path | bytes]:
    """Confusion matrices, and ROC and precision-recall curves over pictures."""
    from tasks.track.pictures import draw_confusion, draw_curves

    scores: dict[str, dict[str, list[bytes]]] = {}
    confused: dict[str, list[pd.DataFrame]] = {}
    for fact in facts:
        stage, ref, names = fact.outcome.stage, fact.outcome.artifact or "", fact.outcome.label.split("/")[1:]
        if stage not in run.config.compare.models or names[0] not in run.config.compare.training_sets:
            continue
        if stage == "classify":
            table = stored(run, ref, "confusion.parquet")
            if table is not None:
                confused.setdefault(names[0], []).append(pd.read_parquet(io.BytesIO(table)))
        elif (predictions := stored(run, ref, "predictions.npz")) is not None:
            scores.setdefault(stage, {}).setdefault(names[0], []).append(predictions)
    found: dict[str, Path | bytes] = {}
    for training_set, tables in confused.items():
        counts = (
            pd.concat(tables).groupby(["label", "pred_label"], sort=False)["n"].sum().unstack("pred_label")
        )
        counts = counts.loc[counts.columns]
        found[f"confusion/{key(training_set)}.csv"] = counts.to_csv().encode()
        found[f"confusion/{key(training_set)}.png"] = draw_confusion(counts, training_set, len(tables))
    for model, of_sets in scores.items():
        found[f"curves/{model}.png"] = draw_curves(of_sets, model)
    return found
