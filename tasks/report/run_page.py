"""A run's report: one HTML file of its tables and its categories' pages, that needs nothing else. No torch in here."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tasks.report.config import nearest_preset, run_command
from tasks.report.html import render
from tasks.report.tables import forest
from tasks.report.verdict import deciding_rows, findings, headline, what_next
from tasks.report.words import (
    GENERATED,
    HEADLINE,
    METRICS,
    MODELS,
    SIGNS,
    TONES,
    TRAINING_SETS,
    percent,
    said,
    signed,
)
from tasks.runs.ended import Run
from tasks.runtime.stage import StageOutcome
from tasks.store.artifacts import MANIFEST, Artifact, artifact_of, verified
from tasks.store.layout import artifact_folder
from tasks.store.place import DESCRIPTION, place_of
from tasks.tables.symmetries import SYMMETRIES, read_symmetries, symmetries_text
from tasks.tables.training_rows import refused_counts

log = logging.getLogger("anodiff")

REPORT = "report.html"
BROKEN = ("failed", "skipped")


@dataclass(frozen=True)
class Tables:
    """The run's own tables; empty where it has none."""

    metrics: pd.DataFrame
    lift: pd.DataFrame
    pairs: pd.DataFrame
    advice: tuple[str, ...]


def pages_made(run: Run) -> dict[str, Artifact]:
    """The categories' pages that the run's own stages made."""
    found = {}
    for stage in run.stages:
        if stage.stage == "page" and stage.artifact is not None:
            page = artifact_of(run.config.store, stage.artifact, label=stage.label)
            if verified(page):
                found[page.category] = page
    return found


def symmetries_found(run: Run) -> dict[str, str]:
    """What each category's normals were found to bear, where a model's augmentation asks for it and the store has it."""
    if not (run.config.localize.augment.asks_normals or run.config.classify.augment.asks_normals):
        return {}
    found = {}
    for stage in run.stages:
        if stage.stage == "objects" and stage.artifact is not None:
            objects = artifact_of(run.config.store, stage.artifact, label=stage.label)
            if (objects.path / SYMMETRIES).is_file() and verified(objects):
                found[objects.category] = symmetries_text(read_symmetries(objects))
    return found


def write_page(run: Run, pages: Mapping[str, Artifact], out: Path | None = None) -> Path:
    """Write the run's report, by default into its folder; `pages`: the part of each category that has one."""
    text = page_text(run, pages)
    path = out or run.folder / REPORT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    log.info("%-9s %s: %.1f MB", "report", path, path.stat().st_size / 1e6)
    return path


def page_text(run: Run, pages: Mapping[str, Artifact]) -> str:
    """The report as HTML."""
    tables = read_tables(run.folder)
    found = findings(tables.lift)
    tone, sentence = headline(found)
    categories = list(dict.fromkeys(stage.label.split("/")[0] for stage in run.stages))
    broken = [stage for stage in run.stages if stage.status in BROKEN]
    refused = list(refused_counts(tables.pairs)) if len(tables.pairs) else []
    manifests = read_manifests(run)
    preset, differing = nearest_preset(run.config)
    values = {
        "run": run.name,
        "tone": tone,
        "headline": sentence,
        "asked": asked(run, categories, tables),
        "findings": [
            (MODELS[model], METRICS[HEADLINE[model]], [each for each in found if each.model == model])
            for model in HEADLINE
            if any(each.model == model for each in found)
        ],
        "next": what_next(
            run.name,
            found,
            failed=len(broken),
            base=run.config.finetune.base,
            seeds=len(run.config.compare.seeds),
            pass_rate=float((tables.pairs["reasons"] == "").mean()) if len(tables.pairs) else None,
            refused_for=refused[0] if refused else "",
            naive=run.config.split.naive,
        ),
        "forests": forests(tables.lift),
        "one_category": len(categories) == 1,
        "categories": [category_row(category, tables, broken) for category in categories],
        "columns": [(model, MODELS[model], METRICS[HEADLINE[model]][0]) for model in models_of(tables.lift)],
        "facts": facts(run, manifests),
        "broken": broken,
        "left_out": [stage for stage in run.stages if stage.status == "left out"],
        "fragments": {name: pages[name].path.joinpath("page.html").read_text() for name in categories if name in pages},
        "without": [name for name in categories if name not in pages],
        "timings": timings(run.stages, manifests),
        "preset": preset,
        "symmetries": symmetries_found(run),
        "differing": [(key, json.dumps(own), json.dumps(its)) for key, (own, its) in differing.items()],
        "yaml": yaml.safe_dump(run.config.model_dump(mode="json", exclude={"store"}), sort_keys=False),
        "command": run_command(run.config, str(run.config.data)),
        "fingerprints": {
            stage.label: manifests[stage.artifact]["inputs"]["data"]
            for stage in run.stages
            if stage.stage == "prepare" and stage.artifact in manifests
        },
        "versions": versions(manifests),
        "advice": tables.advice,
        "training_sets": {name: TRAINING_SETS[name] for name in run.config.compare.training_sets},
        "naive": run.config.split.naive,
    }  # fmt: skip
    return render("run", values)


def read_tables(folder: Path) -> Tables:
    """The tables of a run's folder."""
    read = {}
    for name in ("metrics", "lift", "pairs"):
        file = folder / f"{name}.parquet"
        read[name] = pd.read_parquet(file) if file.is_file() else pd.DataFrame()
    advice = folder / "advice.txt"
    lines = advice.read_text().splitlines() if advice.is_file() else []
    return Tables(read["metrics"], read["lift"], read["pairs"], tuple(lines))


def read_manifests(run: Run) -> dict[str, dict[str, Any]]:
    """What is known of each artifact of the run's stages by its name; none of what lies elsewhere, or is gone."""
    found = {}
    for stage in run.stages:
        if stage.artifact is not None and stage.artifact not in found:
            path = artifact_folder(run.config.store, stage.artifact) / MANIFEST
            try:
                manifest = json.loads(path.read_text())
                found[stage.artifact] = {**manifest, "files": len(manifest["files"])}
            except (OSError, ValueError, KeyError, TypeError):
                log.debug("%s: not read", path)
    return found


def asked(run: Run, categories: list[str], tables: Tables) -> str:
    """What the run was to find out."""
    compare = run.config.compare
    models = ", ".join(MODELS[model].lower() for model in compare.models)
    defects = tables.pairs["label"].nunique() if len(tables.pairs) else 0
    of = f"{categories[0]}" if len(categories) == 1 else f"{len(categories)} categories"
    kinds = f" with {defects} defect types" if len(categories) == 1 and defects else ""
    seeds = f"{len(compare.seeds)} seeds" if len(compare.seeds) > 1 else "one seed"
    return (
        f"Whether defects drawn from a few real shots make {models} better on {of}{kinds}. Each model was trained on "
        f"{len(compare.training_sets)} training sets with {seeds}, thresholds were set without a real "
        "test picture, and all were tested once on the same ones."
    )


def models_of(lift: pd.DataFrame) -> list[str]:
    """Kinds of models that were compared."""
    return [model for model in HEADLINE if len(lift) and model in set(lift["model"])]


def forests(lift: pd.DataFrame) -> list[tuple[str, Any]]:
    """Of each model the headline's lifts in all categories, a training set below the other."""
    plots = []
    for model in models_of(lift):
        metric = HEADLINE[model]
        rows = deciding_rows(lift)
        rows = rows[(rows["model"] == model) & (rows["metric"] == metric)]
        order = {name: place for place, name in enumerate(TRAINING_SETS)}
        rows = rows.sort_values("training_set", key=lambda names: names.map(order), kind="stable")
        if len(rows):
            plots.append(
                (
                    f"{MODELS[model]}: lift in {METRICS[metric][0]}, of pairs over the best baseline",
                    forest(rows),
                )
            )
    return plots


def category_row(category: str, tables: Tables, broken: list[StageOutcome]) -> dict[str, Any]:
    """A category in the table of all: pairs, test pictures, and of each model the figure and what pairs change."""
    row: dict[str, Any] = {"name": category, "drawn": 0, "passed": 0, "pictures": "–", "cells": {}}
    row["broken"] = sum(each.label.split("/")[0] == category for each in broken)
    if len(tables.pairs):
        pairs = tables.pairs[tables.pairs["category"] == category]
        row |= {"drawn": len(pairs), "passed": int((pairs["reasons"] == "").sum())}
    if not len(tables.lift):
        return row
    lift = tables.lift[tables.lift["category"] == category]
    for model in models_of(tables.lift):
        rows = lift[(lift["model"] == model) & (lift["metric"] == HEADLINE[model])]
        over_real, rows = rows[rows["against"] == "real"], deciding_rows(rows)
        if over_real.empty:
            continue
        row["pictures"] = f"{rows['n_good'].iloc[0]} + {rows['n_defect'].iloc[0]}"
        by_set = {str(each["training_set"]): each for each in rows.to_dict("records")}
        row["cells"][model] = {
            "real": percent(over_real["baseline"].iloc[0]),
            "sets": [
                {
                    "tone": TONES[by_set[name]["verdict"]],
                    "sign": SIGNS[TONES[by_set[name]["verdict"]]],
                    "text": f"{name} {signed(by_set[name]['difference'])}",
                    "said": said(by_set[name]["verdict"]),
                }
                for name in GENERATED
                if name in by_set
            ],
        }
    return row


def facts(run: Run, manifests: Mapping[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """What there is to know of the run as a whole."""
    try:
        described = json.loads((run.folder / DESCRIPTION).read_text())
        started, ended = (datetime.fromisoformat(described[key]) for key in ("started", "ended"))
        when = f"{started:%Y-%m-%d %H:%M} to {ended:%H:%M} UTC, {lasting((ended - started).total_seconds())}"
    except (OSError, ValueError, KeyError):
        when = "not known"
    count = {
        status: sum(stage.status == status for stage in run.stages)
        for status in ("ran", "cached", *BROKEN, "left out")
    }
    stages = ", ".join(f"{n} {status}" for status, n in count.items() if n)
    devices = sorted({str(manifest["device"]) for manifest in manifests.values()})
    return [
        ("state", run.state),
        ("when", when),
        ("stages", stages),
        ("made on", ", ".join(devices) or "not known"),
        ("base model", run.config.finetune.base),
        ("data", str(run.config.data)),
        ("store", place_of(run.config.store)),
    ]  # fmt: skip


def timings(
    stages: tuple[StageOutcome, ...], manifests: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """A row a kind of stage: how many there are, what they took when they were made, on what, with how much memory."""
    rows = []
    for stage in dict.fromkeys(each.stage for each in stages):
        of_stage = [each for each in stages if each.stage == stage and each.artifact in manifests]
        known = [manifests[each.artifact] for each in of_stage if each.artifact is not None]
        if not known:
            continue
        seconds = [float(each["seconds"]) for each in known]
        peaks = [each.get("peak_memory_bytes", {}) for each in known]
        rows.append(
            {
                "stage": stage,
                "count": len(known),
                "ran": sum(each.status == "ran" for each in of_stage),
                "total": lasting(sum(seconds)),
                "longest": lasting(max(seconds)),
                "devices": ", ".join(sorted({str(each["device"]) for each in known})),
                "memory": " + ".join(
                    f"{max(each.get(kind, 0) for each in peaks) / 1e9:.1f} GB{'' if kind == 'process' else ' GPU'}"
                    for kind in ("process", "cuda")
                    if any(each.get(kind) for each in peaks)
                ),
            }
        )
    return rows


def versions(manifests: Mapping[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """Versions of what made the run's artifacts; several where they were made by several."""
    found: dict[str, set[str]] = {}
    for manifest in manifests.values():
        for package, version in manifest.get("versions", {}).items():
            found.setdefault(package, set()).add(str(version))
    return [(package, ", ".join(sorted(of_package))) for package, of_package in found.items()]


def lasting(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
