"""Stage report: one category's figures, lifts and picture sheets; and the run's folder that gathers them."""

import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from prefect import task

from tasks.artifacts import Artifact, Staged, plan
from tasks.config import ReportConfig, RunConfig
from tasks.generate import read_pairs
from tasks.models import Trained, of_defects
from tasks.prepare import read_samples
from tasks.runtime import STAGE, StageOutcome, StageResult, run_stage
from tasks.sheets import SheetRow, draw_sheet

VERSION = 2
METRICS, LIFT, SHEETS = "metrics.parquet", "lift.parquet", "sheets"


@dataclass(frozen=True)
class RunSummary:
    """What a run leaves behind."""

    run: str
    folder: Path
    state: Literal["completed", "failed", "refused"]
    stages: tuple[StageOutcome, ...]
    metrics: (
        pd.DataFrame
    )  # category, model, training_set, seed, defect_type, size, metric, value, n, n_good, n_defect, note
    lift: pd.DataFrame  # category, model and downstream.lift.lift_table's columns
    sheets: tuple[Path, ...]


def plan_report(
    config: RunConfig, prepared: Artifact, generated: Mapping[str, Artifact], trained: Sequence[Trained]
) -> Artifact:
    """Name the report of one category, made of the stages that succeeded."""
    models = {f"{each.model}/{each.training_set}/{each.seed}": each.artifact for each in trained}
    return plan(
        config.store,
        "report",
        VERSION,
        prepared.category,
        samples=prepared,
        pairs=dict(generated),
        models=models,
        report=config.report,
    )


@task(name="report", **STAGE)
def report(
    out: Artifact,
    prepared: Artifact,
    generated: dict[str, Artifact],
    trained: list[Trained],
    config: RunConfig,
) -> StageResult:
    """Gather one category's figures, compare training sets, draw the sheets."""

    def make(staged: Staged, _: str) -> None:
        samples = of_defects(read_samples(prepared, config.data), list(generated))
        build_figures(prepared.category, trained, config.report, staged.out)
        build_sheets(prepared.category, samples, read_pairs(generated), config.report, staged.out / SHEETS)

    return run_stage(out, "cpu", make, heavy=False)


def build_figures(category: str, trained: Sequence[Trained], config: ReportConfig, out: Path) -> None:
    """Write metrics.parquet and lift.parquet of one category."""
    from downstream.class_predictions import read_class_predictions
    from downstream.lift import lift_table
    from downstream.prediction import read_predictions

    metrics, lifts = [], []
    for each in trained:
        # The stage's name, since a run has one model of a kind; what exactly it was is in its manifest.
        table = pd.read_parquet(each.artifact.path / METRICS).assign(model=each.model)
        metrics.append(table.assign(category=category, training_set=each.training_set, seed=each.seed))
    for model in dict.fromkeys(each.model for each in trained):
        read = read_class_predictions if model == "classify" else read_predictions
        runs: dict[str, dict[int, Any]] = {}
        for each in (one for one in trained if one.model == model):
            predictions = read(each.artifact.path / "predictions.npz")
            runs.setdefault(each.training_set, {})[each.seed] = predictions
        lifts.append(
            lift_table(runs, resamples=config.bootstrap_samples).assign(category=category, model=model)
        )
    out.mkdir(parents=True, exist_ok=True)
    _joined(metrics).to_parquet(out / METRICS, index=False)
    _joined(lifts).to_parquet(out / LIFT, index=False)


def build_sheets(
    category: str, samples: pd.DataFrame, pairs: pd.DataFrame, config: ReportConfig, out: Path
) -> None:
    """Draw one sheet for each defect type that has pairs: the first shots and the first pairs, not the best ones."""
    out.mkdir(parents=True, exist_ok=True)
    for defect, of_type in pairs.groupby("label", sort=True):
        shots = samples[(samples["split"] == "train") & (samples["label"] == defect)]["image_path"].tolist()
        rows = [
            SheetRow(
                real=Path(shots[position]) if position < len(shots) else None,
                image=Path(pair["image_path"]),
                anomaly=Path(pair["anomaly_path"]),
                mask=Path(pair["mask_path"]),
                note=f"pair {pair['index']}, mask {pair['mask_share']:.1%} of the picture",
            )
            for position, pair in enumerate(of_type.head(config.sheet_rows).to_dict("records"))
        ]
        empty = int((of_type["mask_share"] == 0).sum())
        title = f"{category} / {defect}: {len(shots)} real shots, {len(of_type)} generated pairs"
        title += f", {empty} without a mask" if empty else ""
        draw_sheet(rows, title, config.sheet_size_px).save(out / f"{defect}.png")


def write_run(
    config: RunConfig,
    stages: Sequence[StageOutcome],
    reports: Mapping[str, Artifact],
    *,
    started: datetime,
    refused: bool = False,
) -> RunSummary:
    """Write the run's folder: run.json, which refers to artifacts by name, the joined tables, the sheets."""
    run = f"{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    folder = config.store / "runs" / run
    (folder / SHEETS).mkdir(parents=True)
    metrics = _joined([pd.read_parquet(each.path / METRICS) for each in reports.values()])
    lift = _joined([pd.read_parquet(each.path / LIFT) for each in reports.values()])
    metrics.to_parquet(folder / METRICS, index=False)
    lift.to_parquet(folder / LIFT, index=False)
    sheets = []
    for category, each in reports.items():
        for sheet in sorted((each.path / SHEETS).glob("*.png")):
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
    (folder / "run.json").write_text(json.dumps(description, indent=1) + "\n")
    return RunSummary(run, folder, state, tuple(stages), metrics, lift, tuple(sheets))


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables under each other; empty ones, whose columns have no type, left out."""
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
