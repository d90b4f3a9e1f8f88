"""Stage detect: one of anomalib's detectors on one training set with one seed, tested once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from prefect import task

from downstream.config import DetectConfig
from downstream.training_sets import TrainingSet, TrainingSetName
from tasks.artifacts import Artifact, Staged
from tasks.config import RunConfig
from tasks.models import Pictures, encoder_digest, encoder_of, plan_model, portable, rows_of
from tasks.runtime import STAGE, StageResult, run_stage

VERSION = 1


def plan_detect(config: RunConfig, pictures: Pictures, name: str, seed: int) -> Artifact:
    """Name the detector of one training set and seed."""
    weights = encoder_digest("detect.backbone", config.detect.backbone, config.detect.backbone_weights)
    settings = config.detect.model_dump(exclude={"backbone", "backbone_weights"})
    return plan_model(config, "detect", VERSION, pictures, name, seed, backbone=weights, **settings)


@task(name="detect", **STAGE)
def detect(
    out: Artifact, pictures: Pictures, training_set_name: TrainingSetName, seed: int, config: RunConfig
) -> StageResult:
    """Train and test one detector."""

    def make(staged: Staged, device: str) -> None:
        rows, test = rows_of(pictures, training_set_name, config)
        build_detect(rows, test, config.detect, staged.out, device=device, seed=seed)

    return run_stage(out, config.device, make, heavy=True)


def build_detect(
    rows: TrainingSet,
    test: pd.DataFrame,
    config: DetectConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Train, set thresholds on held-back normals and pairs, read the test pictures once; write all to `out`."""
    from downstream.detection import evaluate_detector, train_detector
    from downstream.prediction import read_predictions, write_predictions

    train_detector(rows, config, out, backbone=encoder_of(config.backbone), device=device, seed=seed)
    evaluate_detector(out, test, out, device=device)
    predictions = read_predictions(out / "predictions.npz")
    named = replace(predictions, image_path=np.array(portable(predictions.image_path.tolist())))
    write_predictions(named, out / "predictions.npz")
