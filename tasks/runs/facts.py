"""What a run rests on: its configuration key by key, and its stages' time, memory and machine by their manifests."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tasks.runs.ended import Run
from tasks.runtime.stage import StageOutcome
from tasks.store.artifacts import MANIFEST
from tasks.store.layout import artifact_folder
from tasks.store.place import at_once, read, remote_of


@dataclass(frozen=True)
class StageFacts:
    """One stage of a run, and the manifest of what it made, in this run or an earlier one."""

    outcome: StageOutcome
    manifest: Mapping[str, Any]


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested values by their dotted names, in order: {"a": {"b": 1}} is {"a.b": 1}."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found


def settings(run: Run) -> dict[str, Any]:
    """A run's configuration by dotted names, without where it was kept: that changes no figure."""
    return flat(run.config.model_dump(mode="json", exclude={"store", "track"}))


def stored(run: Run, ref: str, name: str) -> bytes | None:
    """A file of an artifact as it lies here, or in a store elsewhere; None if it is gone. Not verified."""
    path = artifact_folder(run.config.store, ref) / name
    if path.is_file():
        return path.read_bytes()
    remote = remote_of(run.config.store)
    return None if remote is None else read(remote, f"artifacts/{ref}/{name}")


def stage_facts(run: Run) -> list[StageFacts]:
    """The stages of a run whose artifacts still have a manifest."""
    named = {stage.artifact: stage for stage in run.stages if stage.artifact is not None}
    texts = at_once(lambda ref: stored(run, ref, MANIFEST), named)
    return [
        StageFacts(outcome, json.loads(text))
        for outcome, text in zip(named.values(), texts, strict=True)
        if text is not None
    ]


def costs(facts: list[StageFacts]) -> pd.DataFrame:
    """A row a category and stage: artifacts, the seconds they took when they were made, the most memory, the devices.

    Columns: category, stage, n, seconds, memory_gb (of the process), cuda_gb (NaN where there was none), device.
    """
    rows = [
        {
            "category": fact.outcome.label.split("/")[0],
            "stage": fact.outcome.stage,
            "seconds": float(fact.manifest["seconds"]),
            "memory_gb": fact.manifest["peak_memory_bytes"].get("process", float("nan")) / 1e9,
            "cuda_gb": fact.manifest["peak_memory_bytes"].get("cuda", float("nan")) / 1e9,
            "device": str(fact.manifest["device"]),
        }
        for fact in facts
    ]
    table = pd.DataFrame(rows, columns=["category", "stage", "seconds", "memory_gb", "cuda_gb", "device"])
    return (
        table.groupby(["category", "stage"], sort=False)
        .agg(
            n=("seconds", "size"),
            seconds=("seconds", "sum"),
            memory_gb=("memory_gb", "max"),
            cuda_gb=("cuda_gb", "max"),
            device=("device", lambda names: ", ".join(dict.fromkeys(names))),
        )
        .reset_index()
    )


def made_with(facts: list[StageFacts]) -> dict[str, str]:
    """Versions that made the artifacts: of packages, and of each stage; several where they differ."""
    found: dict[str, dict[str, None]] = {}
    for fact in facts:
        for package, version in fact.manifest["versions"].items():
            found.setdefault(f"package {package}", {})[str(version)] = None
        found.setdefault(f"stage {fact.outcome.stage}", {})[str(fact.manifest["inputs"]["version"])] = None
    return {name: ", ".join(versions) for name, versions in sorted(found.items())}


def fingerprints(facts: list[StageFacts]) -> dict[str, str]:
    """The digest of each category's pictures and masks."""
    return {
        fact.manifest["category"]: str(fact.manifest["inputs"]["data"])
        for fact in facts
        if fact.outcome.stage == "prepare"
    }
