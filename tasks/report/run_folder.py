"""A run's folder: run.json, the categories' tables joined, their sheets, and the page."""

import json
import logging
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pandas as pd

from tasks.config import RunConfig
from tasks.errors import StoreUnreachableError
from tasks.report.run_page import pages_made, write_page
from tasks.runs.ended import Run
from tasks.runs.under_way import STARTED
from tasks.runtime.stage import StageOutcome
from tasks.store.artifacts import Artifact
from tasks.store.layout import run_folder
from tasks.store.place import DESCRIPTION, push_runs
from tasks.tables.figures import (
    ADVICE,
    DOSE,
    LIFT,
    METRICS,
    ORACLE,
    PAIRS,
    QUALITY,
    SHEETS,
    STEPS,
    joined,
)

log = logging.getLogger("anodiff")


@dataclass(frozen=True)
class RunSummary:
    """What a run leaves behind."""

    run: str
    folder: Path
    state: Literal["completed", "failed", "refused"]
    stages: tuple[StageOutcome, ...]
    metrics: (
        pd.DataFrame
    )  # run, category, model, training_set, seed, defect_type, size, metric, value, n, n_good, n_defect, note
    lift: pd.DataFrame  # run, category, model and downstream.figures.lift.lift_table's columns
    sheets: tuple[Path, ...]
    dose: pd.DataFrame = field(
        default_factory=pd.DataFrame
    )  # run and tasks.stages.doses.dose_curves' columns
    advice: tuple[str, ...] = ()
    oracle: pd.DataFrame = field(
        default_factory=pd.DataFrame
    )  # metrics' columns, chosen_by, checkpoint, n_checkpoints
    pairs: pd.DataFrame = field(
        default_factory=pd.DataFrame
    )  # run, category and tasks.tables.pairs.read_pairs' columns
    quality: pd.DataFrame = field(
        default_factory=pd.DataFrame
    )  # run and tasks.tables.figures.read_quality's columns
    steps: pd.DataFrame = field(
        default_factory=pd.DataFrame
    )  # run and tasks.tables.chosen_steps.steps_table's columns
    naive: bool = False  # the split was by name alone: figures to show beside the honest ones, not to count


def write_run(
    config: RunConfig,
    stages: Sequence[StageOutcome],
    reports: Mapping[str, Artifact],
    *,
    started: datetime,
    refused: bool = False,
    run: str | None = None,
) -> RunSummary:
    """Write the run's folder: run.json, which refers to artifacts by name, the joined tables, the sheets.

    `run`: the name that it has since `begin_run`.
    """
    run = run or f"{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    folder = run_folder(config.store, run)
    (folder / SHEETS).mkdir(parents=True, exist_ok=True)
    metrics, lift, oracle, dose, pairs, quality, steps = (
        _gather(run, reports.values(), name, folder)
        for name in (METRICS, LIFT, ORACLE, DOSE, PAIRS, QUALITY, STEPS)
    )
    advice = "".join(file.read_text() for report in reports.values() for file in report.path.glob(ADVICE))
    if advice:
        (folder / ADVICE).write_text(advice)
    sheets = []
    for category, report in reports.items():
        for sheet in sorted((report.path / SHEETS).glob("*.png")):
            sheets.append(Path(shutil.copyfile(sheet, folder / SHEETS / f"{category}-{sheet.name}")))
    failed = any(stage.status in ("failed", "skipped") for stage in stages)
    state: Literal["completed", "failed", "refused"] = (
        "refused" if refused else "failed" if failed else "completed"
    )
    description = {
        "run": run,
        "state": state,
        "started": started.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config.model_dump(mode="json", exclude={"store"}),
        "stages": [asdict(stage) for stage in stages],
    }
    # Last, so that a run.json stands for a whole folder.
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")
    (folder / STARTED).unlink(missing_ok=True)
    if reports:
        found = Run(run, folder, state, config, tuple(stages))
        try:
            write_page(found, pages_made(found))
        except Exception as error:  # showing never fails what is done
            again = f"anodiff report {run} --store {config.store}"
            log.error(
                "run %s: its page is not written: %s: %s; later: %s", run, type(error).__name__, error, again
            )
    try:
        push_runs(config.store)
    except StoreUnreachableError as error:
        log.error("run %s lies only on this machine until the next one ends here: %s", run, error)
    return RunSummary(
        run,
        folder,
        state,
        tuple(stages),
        metrics,
        lift,
        tuple(sheets),
        dose,
        tuple(advice.splitlines()),
        oracle,
        pairs,
        quality,
        steps,
        config.split.naive,
    )


def _gather(run: str, reports: Iterable[Artifact], name: str, folder: Path) -> pd.DataFrame:
    """The categories' tables of this name as one of the run's own; those that few runs have are written only by these."""
    table = joined([pd.read_parquet(file) for report in reports for file in report.path.glob(name)])
    if len(table):
        table.insert(0, "run", run)
    if len(table) or name in (METRICS, LIFT):
        table.to_parquet(folder / name, index=False)
    return table
