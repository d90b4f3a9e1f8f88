"""Stage training_steps: how many steps one model takes on one training set, by shots held out in turn.

Each fold holds some shots of every defect type out; the model trains on what is left, with pairs that were made from the
shots that are left, and is scored on the held-out ones over its steps. All training sets have the same folds. No test
picture is read.
"""

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from prefect import task

from downstream.training_curve import Curve, best_steps, steps_to_try
from downstream.training_sets import TrainingSet, TrainingSetName
from tasks.config import ModelName, RunConfig
from tasks.data.split import choice_key
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.stage import OPTIONS, run_stage
from tasks.store.artifacts import Artifact, Staged
from tasks.tables.chosen_steps import (
    CHOSEN,
    CURVE,
    read_folder,
    with_steps,
)
from tasks.tables.symmetries import with_symmetries
from tasks.tables.training_rows import Pictures, baseline_in, model_settings, pictures_read, rows_of_fold
from tasks.tables.weights import encoder_of

log = logging.getLogger("anodiff")

TRAINING_STEPS = Stage(
    "training_steps",
    version=2,
    heavy=True,
    time_by=("folds", "train_steps", "batch_size", "size_px", "size_px"),
    sections=("compare",),
)


def plan_training_steps(config: RunConfig, model: ModelName, folds: Sequence[Pictures], name: str) -> Call:
    """Name the choice of steps. `folds`: the category's pictures as each fold leaves them."""
    full = folds[0]
    read = [
        {
            **choice_key(fold.choice),
            "pairs": fold.generated if "generated" in name else None,
            "baseline": baseline_in(fold, name),
        }
        for fold in folds
    ]
    out = TRAINING_STEPS.plan(
        config.store,
        full.prepared.category,
        label=f"{full.prepared.category}/{model} on {name}",
        kind=model,
        training_set=name,
        seed=config.compare.seeds[0],
        split_seed=config.seed,
        samples=full.prepared,
        defects=sorted(full.generated),
        num_pairs=config.generate.num_pairs,
        folds=read,
        **model_settings(config, model, full.objects),
    )
    inputs = {
        "folds": [pictures_read(config, model, fold, name) for fold in folds],
        "model": model,
        "training_set_name": name,
    }
    # Of pairs that are not trained on only the defect types are read: shots of these are held out.
    beside_key = () if "generated" in name else ("folds",)
    return Call(TRAINING_STEPS, training_steps, config, out, inputs, beside_key)


@task(name="training_steps", **OPTIONS)
def training_steps(
    out: Artifact,
    folds: list[Pictures],
    model: ModelName,
    training_set_name: TrainingSetName,
    config: RunConfig,
) -> StageResult:
    """Train on each fold and choose the number of steps that is best on the shots held out."""

    def make(staged: Staged, device: str) -> None:
        rows = [rows_of_fold(fold, training_set_name, config) for fold in folds]
        build_training_steps(
            [row for row in rows if row is not None],
            model,
            with_symmetries(config, folds[0].objects),
            staged.out,
            device=device,
            seed=config.compare.seeds[0],
        )
        found = read_folder(staged.out)
        log.info("%s: %d steps (%s)", out.label, found.chosen, found.why)

    return run_stage(TRAINING_STEPS, out, config, make)


def build_training_steps(
    folds: Sequence[TrainingSet],
    model: ModelName,
    config: RunConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Write out/curve.parquet and out/steps.json. `folds`: to train on, and to score on, held-out shots and normals."""
    fewest, most = getattr(config, model).auto_steps
    steps = steps_to_try(fewest, most)
    tables, curves = [], []
    for number, rows in enumerate(folds, start=1):
        curve = Curve(steps)
        with tempfile.TemporaryDirectory(dir=out) as scratch:
            _train_fold(rows, model, with_steps(config, model, most), curve, Path(scratch), device, seed)
        curves.append(curve.scores)
        shots = int((rows.val["label_index"] == 1).sum())
        table = pd.DataFrame({"step": list(curve.scores), "score": list(curve.scores.values())})
        tables.append(table.assign(fold=number, n_shots=shots))
    if curves:
        chosen, why = best_steps(steps, curves), f"best on shots held out in {len(curves)} folds"
    else:
        chosen = steps[len(steps) // 2]
        why = f"no defect type has two parts among its shots, so none could be held out: the middle of {fewest} to {most}"
    columns = ["fold", "step", "score", "n_shots"]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
    table[columns].to_parquet(out / CURVE, index=False)
    (out / CHOSEN).write_text(json.dumps({"steps": chosen, "why": why, "tried": steps}, indent=1) + "\n")


def _train_fold(
    rows: TrainingSet,
    model: ModelName,
    config: RunConfig,
    curve: Curve,
    scratch: Path,
    device: str,
    seed: int,
) -> None:
    """One training, scored on rows.val over its steps; the model itself is not kept."""
    match model:
        case "localize":
            from downstream.localization import train_localization

            train_localization(
                rows.train,
                rows.val,
                config.localize,
                scratch,
                encoder=encoder_of(config.localize.encoder),
                device=device,
                seed=seed,
                curve=curve,
            )
        case "classify":
            from downstream.classification import train_classifier

            train_classifier(
                rows,
                config.classify,
                scratch,
                encoder=encoder_of(config.classify.encoder),
                device=device,
                seed=seed,
                curve=curve,
            )
        case "detect":
            from downstream.detectors.training import train_detector

            train_detector(
                rows,
                config.detect,
                scratch,
                backbone=encoder_of(config.detect.backbone),
                device=device,
                seed=seed,
                curve=curve,
            )
