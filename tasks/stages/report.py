"""Stage report: one category's figures, lifts and picture sheets; and the run's folder that gathers them."""

import json
import logging
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from prefect import task

from tasks.config import ReportConfig, RunConfig
from tasks.data.sheets import SheetRow, draw_sheet
from tasks.errors import StoreUnreachableError
from tasks.report.run_page import pages_made, write_page
from tasks.runs.ended import Run
from tasks.runs.under_way import STARTED
from tasks.runtime.stage import STAGE, StageOutcome, StageResult, run_stage
from tasks.stages.doses import dose_curves, short_of_pairs
from tasks.stages.prepare import read_samples
from tasks.stages.quality import read_quality
from tasks.stages.training_steps import steps_table
from tasks.store.artifacts import Artifact, Staged, plan
from tasks.store.place import DESCRIPTION, push_runs
from tasks.tables.pairs import read_pairs
from tasks.tables.training_rows import ORACLE, Dosed, Trained, of_defects, reasons_text

log = logging.getLogger("anodiff")

VERSION = 6
METRICS, LIFT, SHEETS = "metrics.parquet", "lift.parquet", "sheets"
DOSE, ADVICE = "dose.parquet", "advice.txt"
PAIRS, QUALITY = "pairs.parquet", "quality.parquet"
STEPS = "training_steps.parquet"


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
    lift: pd.DataFrame  # run, category, model and downstream.lift.lift_table's columns
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
    )  # run, category and tasks.stages.generate.read_pairs' columns
    quality: pd.DataFrame = field(
        default_factory=pd.DataFrame
    )  # run and tasks.stages.quality.read_quality's columns
    steps: pd.DataFrame = field(
        default_factory=pd.DataFrame
    )  # run and tasks.stages.training_steps.steps_table's columns
    naive: bool = False  # the split was by name alone: figures to show beside the honest ones, not to count


def plan_report(
    config: RunConfig,
    prepared: Artifact,
    generated: Mapping[str, Artifact],
    measured: Mapping[str, Artifact],
    trained: Sequence[Trained],
    dosed: Sequence[Dosed] = (),
    choices: Mapping[str, Artifact] | None = None,
) -> Artifact:
    """Name the report of one category, made of the stages that succeeded.

    `choices`: of the number of steps, by model and training set ("localize/real").
    """
    models = {f"{each.model}/{each.training_set}/{each.seed}": each.artifact for each in trained}
    doses = {
        f"{each.trained.model}/{each.dose} {each.kind}/{each.trained.seed}": each.trained.artifact
        for each in dosed
    }
    extra: dict[str, Any] = ({"doses": doses} if doses else {}) | (
        {"steps": dict(choices)} if choices else {}
    )
    return plan(
        config.store,
        "report",
        VERSION,
        prepared.category,
        samples=prepared,
        pairs=dict(generated),
        quality=dict(measured),
        models=models,
        report=config.report,
        **extra,
    )


@task(name="report", **STAGE)
def report(
    out: Artifact,
    prepared: Artifact,
    generated: dict[str, Artifact],
    measured: dict[str, Artifact],
    trained: list[Trained],
    dosed: list[Dosed],
    config: RunConfig,
    choices: dict[str, Artifact] | None = None,
) -> StageResult:
    """Gather one category's figures, compare training sets and doses, draw the sheets."""

    def make(staged: Staged, _: str) -> None:
        samples = of_defects(read_samples(prepared, config.data), list(generated))
        pairs = read_pairs(generated)
        build_figures(prepared.category, trained, config.report, staged.out)
        if dosed:
            build_doses(prepared.category, dosed, pairs, config, staged.out)
        if choices:
            steps_table(prepared.category, choices).to_parquet(staged.out / STEPS, index=False)
        build_sheets(prepared.category, samples, pairs, config.report, staged.out / SHEETS)
        # Without the files: they lie in the store, and a run's folder may be moved out of it.
        told = pairs.drop(columns=["image_path", "anomaly_path", "mask_path"])
        told.insert(0, "category", prepared.category)
        told.to_parquet(staged.out / PAIRS, index=False)
        read_quality(measured).to_parquet(staged.out / QUALITY, index=False)

    return run_stage(out, config, make, heavy=False)


def build_figures(category: str, trained: Sequence[Trained], config: ReportConfig, out: Path) -> None:
    """Write metrics.parquet and lift.parquet of one category, and oracle.parquet where the models have it."""
    from downstream.class_predictions import read_class_predictions
    from downstream.lift import lift_table
    from downstream.prediction import read_predictions

    lifts = []
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
    _of_models(category, trained, METRICS).to_parquet(out / METRICS, index=False)
    oracle = _of_models(category, trained, ORACLE)
    if len(oracle):
        oracle.to_parquet(out / ORACLE, index=False)
    _joined(lifts).to_parquet(out / LIFT, index=False)


def _of_models(category: str, trained: Sequence[Trained], name: str) -> pd.DataFrame:
    """The models' tables of this name, of those that have one, as one."""
    tables = []
    for each in trained:
        if (each.artifact.path / name).is_file():
            # The stage's name, since a run has one model of a kind; what exactly it was is in its manifest.
            table = pd.read_parquet(each.artifact.path / name).assign(model=each.model, category=category)
            tables.append(table.assign(training_set=each.training_set, seed=each.seed))
    return _joined(tables)


def build_doses(
    category: str, dosed: Sequence[Dosed], pairs: pd.DataFrame, config: RunConfig, out: Path
) -> None:
    """Write dose.parquet, the curves of one category, and advice.txt, a line each."""
    curves, advice = dose_curves(category, dosed, config.report.bootstrap_samples)
    advice += short_of_pairs(category, pairs, config)
    out.mkdir(parents=True, exist_ok=True)
    curves.to_parquet(out / DOSE, index=False)
    (out / ADVICE).write_text("".join(f"{line}\n" for line in advice))


def build_sheets(
    category: str, samples: pd.DataFrame, pairs: pd.DataFrame, config: ReportConfig, out: Path
) -> None:
    """Draw two sheets a defect type: the first pairs that passed, and the first refused for each reason, not the best."""
    out.mkdir(parents=True, exist_ok=True)
    for defect, of_type in pairs.groupby("label", sort=True):
        shots = samples[(samples["split"] == "train") & (samples["label"] == defect)]["image_path"].tolist()
        passed, refused = of_type[of_type["reasons"] == ""], of_type[of_type["reasons"] != ""]
        title = f"{category} / {defect}: {len(passed)} of {len(of_type)} generated pairs pass, {len(shots)} real shots"
        rows = sheet_rows(passed.head(config.sheet_rows), shots)
        draw_sheet(rows, title, config.sheet_size_px).save(out / f"{defect}.png")
        if len(refused):
            each = refused.groupby("reasons", sort=False).cumcount()
            shown = refused.assign(turn=each).sort_values("turn", kind="stable").head(config.sheet_rows)
            title = f"{category} / {defect}: refused, {reasons_text(refused)}"
            rows = sheet_rows(shown.sort_values("index"), [])
            draw_sheet(rows, title, config.sheet_size_px).save(out / f"{defect}-refused.png")


def sheet_rows(pairs: pd.DataFrame, shots: Sequence[str]) -> list[SheetRow]:
    """A row a pair, beside a shot while there are some."""
    return [
        SheetRow(
            real=Path(shots[position]) if position < len(shots) else None,
            image=Path(pair["image_path"]),
            anomaly=Path(pair["anomaly_path"]),
            mask=Path(pair["mask_path"]),
            note=f"pair {pair['index']}, mask {pair['mask_share']:.1%} of the picture"
            + (f": {pair['reasons']}" if pair["reasons"] else ""),
        )
        for position, pair in enumerate(pairs.to_dict("records"))
    ]


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
    folder = config.store / "runs" / run
    (folder / SHEETS).mkdir(parents=True, exist_ok=True)
    metrics, lift, oracle, dose, pairs, quality, steps = (
        _gather(run, reports.values(), name, folder)
        for name in (METRICS, LIFT, ORACLE, DOSE, PAIRS, QUALITY, STEPS)
    )
    advice = "".join(file.read_text() for each in reports.values() for file in each.path.glob(ADVICE))
    if advice:
        (folder / ADVICE).write_text(advice)
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
    table = _joined([pd.read_parquet(file) for each in reports for file in each.path.glob(name)])
    if len(table):
        table.insert(0, "run", run)
    if len(table) or name in (METRICS, LIFT):
        table.to_parquet(folder / name, index=False)
    return table


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables under each other; empty ones, whose columns have no type, left out."""
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
