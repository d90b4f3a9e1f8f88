"""Numbers of training steps, as the stage training_steps chose them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.config import ModelName, RunConfig
from tasks.store.artifacts import Artifact

CURVE, CHOSEN = "curve.parquet", "steps.json"

SCORE: dict[str, str] = {
    "localize": "pixel_ap",
    "classify": "balanced_accuracy",
    "detect": "image_auroc",
}


@dataclass(frozen=True)
class ChosenSteps:
    """What a finished stage chose, why, and the scores that it chose by.

    curve: fold (from 1), step, score (SCORE of the model, 0 to 1), n_shots held out; empty where no shot could be.
    """

    chosen: int
    why: str
    curve: pd.DataFrame


def read_steps(artifact: Artifact) -> ChosenSteps:
    """What a finished stage chose."""
    return read_folder(artifact.path)


def read_folder(folder: Path) -> ChosenSteps:
    """What build_training_steps wrote."""
    said = json.loads((folder / CHOSEN).read_text())
    return ChosenSteps(int(said["steps"]), str(said["why"]), pd.read_parquet(folder / CURVE))


def steps_table(category: str, choices: Mapping[str, Artifact]) -> pd.DataFrame:
    """What each model ("localize/real") takes on each training set, and the scores that this was chosen by.

    Columns: category, model, training_set, chosen, why, and those of ChosenSteps.curve; one row, of fold 0, without one.
    """
    tables = []
    for name, artifact in choices.items():
        model, training_set = name.split("/", 1)
        found = read_steps(artifact)
        curve = found.curve if len(found.curve) else pd.DataFrame([{"fold": 0, "n_shots": 0}])
        named = {"category": category, "model": model, "training_set": training_set}
        tables.append(curve.assign(**named, chosen=found.chosen, why=found.why))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def chooses_steps(config: RunConfig, model: ModelName) -> bool:
    """Whether a model's number of steps is to be chosen for each training set."""
    train_steps: int | str = getattr(config, model).train_steps
    return train_steps == "auto"


def with_steps(config: RunConfig, model: str, steps: int) -> RunConfig:
    """The config with a model's number of steps as chosen."""
    section: Any = getattr(config, model)
    return config.model_copy(update={model: section.model_copy(update={"train_steps": steps})})
