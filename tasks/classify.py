"""Stage classify: one classifier of defect types on one training set with one seed, tested once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from prefect import task

from downstream.config import ClassifyConfig
from downstream.training_sets import TrainingSet, TrainingSetName
from tasks.artifacts import Artifact, Staged
from tasks.config import RunConfig
from tasks.models import Pictures, encoder_digest, encoder_of, plan_model, portable, rows_of
from tasks.runtime import STAGE, StageResult, run_stage

VERSION = 1


def plan_classify(config: RunConfig, pictures: Pictures, name: str, seed: int) -> Artifact:
    """Name the classifier of one training set and seed."""
    weights = encoder_digest("classify.encoder", config.classify.encoder, config.classify.encoder_weights)
    settings = config.classify.model_dump(exclude={"encoder", "encoder_weights"})
    return plan_model(config, "classify", VERSION, pictures, name, seed, encoder=weights, **settings)


@task(name="classify", **STAGE)
def classify(
    out: Artifact, pictures: Pictures, training_set_name: TrainingSetName, seed: int, config: RunConfig
) -> StageResult:
    """Train and test one classifier."""

    def make(staged: Staged, device: str) -> None:
        rows, test = rows_of(pictures, training_set_name, config)
        defects = sorted(pictures.generated)
        build_classify(rows, test, defects, config.classify, staged.out, device=device, seed=seed)

    return run_stage(out, config.device, make, heavy=True)


def build_classify(
    rows: TrainingSet,
    test: pd.DataFrame,
    defects: list[str],
    config: ClassifyConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Train on `good` and these defect types, then read the test pictures once; write all to `out`."""
    from downstream.class_predictions import read_class_predictions, write_class_predictions
    from downstream.classification import evaluate_classifier, train_classifier

    encoder = encoder_of(config.encoder)
    train_classifier(rows, config, out, classes=defects, encoder=encoder, device=device, seed=seed)
    evaluate_classifier(out, test, out, device=device)
    predictions = read_class_predictions(out / "predictions.npz")
    named = replace(predictions, image_path=np.array(portable(predictions.image_path.tolist())))
    write_class_predictions(named, out / "predictions.npz")
