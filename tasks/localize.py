"""Stage localize: one U-Net on one training set with one seed, tested once on the test pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from prefect import task

from downstream.config import LocalizeConfig
from downstream.training_sets import TrainingSet, TrainingSetName
from tasks.artifacts import Artifact, Staged
from tasks.config import RunConfig
from tasks.models import Pictures, encoder_digest, encoder_of, plan_model, portable, rows_of
from tasks.runtime import STAGE, StageResult, run_stage

VERSION = 2


def plan_localize(config: RunConfig, pictures: Pictures, name: str, seed: int) -> Artifact:
    """Name the model of one training set and seed."""
    weights = encoder_digest("localize.encoder", config.localize.encoder, config.localize.encoder_weights)
    settings = config.localize.model_dump(exclude={"encoder", "encoder_weights"})
    return plan_model(config, "localize", VERSION, pictures, name, seed, encoder=weights, **settings)


@task(name="localize", **STAGE)
def localize(
    out: Artifact, pictures: Pictures, training_set_name: TrainingSetName, seed: int, config: RunConfig
) -> StageResult:
    """Train and test one localization model."""

    def make(staged: Staged, device: str) -> None:
        rows, test = rows_of(pictures, training_set_name, config)
        build_localize(rows, test, config.localize, staged.out, device=device, seed=seed)

    return run_stage(out, config.device, make, heavy=True)


def build_localize(
    rows: TrainingSet,
    test: pd.DataFrame,
    config: LocalizeConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Train, then read the test pictures once; write all to `out`."""
    from downstream.localization import train_localization
    from downstream.prediction import evaluate_localization, read_predictions, write_predictions

    encoder = encoder_of(config.encoder)
    train_localization(rows.train, rows.val, config, out, encoder=encoder, device=device, seed=seed)
    evaluate_localization(out, test, out, device=device)
    predictions = read_predictions(out / "predictions.npz")
    named = replace(predictions, image_path=np.array(portable(predictions.image_path.tolist())))
    write_predictions(named, out / "predictions.npz")
