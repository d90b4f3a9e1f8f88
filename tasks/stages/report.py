"""Stage report: one category's figures, lifts and picture sheets; and the run's folder that gathers them."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import task

from tasks.config import ReportConfig, RunConfig
from tasks.data.sheets import SheetRow, draw_sheet
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.stage import OPTIONS, run_stage
from tasks.stages.doses import dose_curves, short_of_pairs
from tasks.store.artifacts import Artifact, Staged
from tasks.tables.chosen_steps import steps_table
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
    read_quality,
)
from tasks.tables.pairs import read_pairs
from tasks.tables.prepared import read_samples
from tasks.tables.training_rows import Dosed, Trained, of_defects, reasons_text

log = logging.getLogger("anodiff")

REPORT = Stage("report", version=6)


def plan_report(
    config: RunConfig,
    prepared: Artifact,
    generated: Mapping[str, Artifact],
    measured: Mapping[str, Artifact],
    trained: Sequence[Trained],
    dosed: Sequence[Dosed] = (),
    choices: Mapping[str, Artifact] | None = None,
) -> Call:
    """Name the report of one category, made of the stages that succeeded.

    `choices`: of the number of steps, by model and training set ("localize/real").
    """
    models = {
        f"{trained_model.model}/{trained_model.training_set}/{trained_model.seed}": trained_model.artifact
        for trained_model in trained
    }
    doses = {f"{at.trained.model}/{at.dose} {at.kind}/{at.trained.seed}": at.trained.artifact for at in dosed}
    extra: dict[str, Any] = ({"doses": doses} if doses else {}) | (
        {"steps": dict(choices)} if choices else {}
    )
    out = REPORT.plan(
        config.store,
        prepared.category,
        samples=prepared,
        pairs=dict(generated),
        quality=dict(measured),
        models=models,
        report=config.report,
        **extra,
    )
    inputs = {
        "prepared": prepared,
        "generated": dict(generated),
        "measured": dict(measured),
        "trained": list(trained),
        "dosed": list(dosed),
        "choices": dict(choices or {}),
    }
    return Call(REPORT, report, config, out, inputs)


@task(name="report", **OPTIONS)
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
        listed = pairs.drop(columns=["image_path", "anomaly_path", "mask_path"])
        listed.insert(0, "category", prepared.category)
        listed.to_parquet(staged.out / PAIRS, index=False)
        read_quality(measured).to_parquet(staged.out / QUALITY, index=False)

    return run_stage(REPORT, out, config, make)


def build_figures(category: str, trained: Sequence[Trained], config: ReportConfig, out: Path) -> None:
    """Write metrics.parquet and lift.parquet of one category, and oracle.parquet where the models have it."""
    from downstream.figures.class_predictions import read_class_predictions
    from downstream.figures.lift import lift_table
    from downstream.figures.predictions import read_predictions

    lifts = []
    for model in dict.fromkeys(trained_model.model for trained_model in trained):
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
    joined(lifts).to_parquet(out / LIFT, index=False)


def _of_models(category: str, trained: Sequence[Trained], name: str) -> pd.DataFrame:
    """The models' tables of this name, of those that have one, as one."""
    tables = []
    for trained_model in trained:
        if (trained_model.artifact.path / name).is_file():
            # The stage's name, since a run has one model of a kind; what exactly it was is in its manifest.
            table = pd.read_parquet(trained_model.artifact.path / name).assign(
                model=trained_model.model, category=category
            )
            tables.append(table.assign(training_set=trained_model.training_set, seed=trained_model.seed))
    return joined(tables)


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
