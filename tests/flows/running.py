"""A run and what it left behind, for the tests of flows."""

from pathlib import Path
from typing import Any

from flows.augmentation import augment
from tasks.config import RunConfig
from tasks.report.run_folder import RunSummary
from tasks.store.artifacts import Artifact

STAGES = [
    "prepare bolt",
    "objects bolt",
    "finetune bolt/dent",
    "generate bolt/dent",
    "curate bolt/dent",
    "quality bolt/dent",
    "finetune bolt/stain",
    "generate bolt/stain",
    "curate bolt/stain",
    "quality bolt/stain",
    "localize bolt/real/seed 0",
    "localize bolt/generated+real/seed 0",
    "report bolt",
    "page bolt",
]


def run(config: RunConfig) -> RunSummary:
    """The run's summary, whatever its state, which is that of the flow."""
    state: Any = augment(config, return_state=True)
    summary = state.result(raise_on_failure=False)
    assert isinstance(summary, RunSummary), summary
    assert state.is_completed() == (summary.state == "completed")
    return summary


def statuses(summary: RunSummary) -> dict[str, str]:
    return {f"{stage.stage} {stage.label}": stage.status for stage in summary.stages}


def only(summary: RunSummary, status: str) -> set[str]:
    return {name for name, found in statuses(summary).items() if found == status}


def artifact(config: RunConfig, ref: str | None) -> Path:
    assert ref is not None
    return config.store / "artifacts" / ref


def stage_path(config: RunConfig, summary: RunSummary, name: str) -> Path:
    (found,) = [s.artifact for s in summary.stages if f"{s.stage} {s.label}" == name]
    return artifact(config, found)


def block(planned: Artifact) -> Path:
    """Make a stage fail for real: a file lies where its staging folder must be."""
    planned.staging.parent.mkdir(parents=True, exist_ok=True)
    planned.staging.write_text("in the way")
    return planned.staging
