"""The baselines' pairs, as the stage synthesize left them."""

from typing import Literal

import pandas as pd

from downstream.training_sets import sources_of
from tasks.store.artifacts import Artifact

BaselineName = Literal["copy-paste", "perlin"]

BASELINES: tuple[BaselineName, ...] = ("copy-paste", "perlin")


def baseline_of(name: str) -> BaselineName | None:
    """The baseline whose pairs are in a training set."""
    return next((each for each in BASELINES if each in sources_of(name)), None)


def read_baseline(artifact: Artifact) -> pd.DataFrame:
    """A baseline's pairs, paths absolute."""
    table = pd.read_parquet(artifact.path / "pairs.parquet")
    for column in ("image_path", "mask_path"):
        table[column] = [str(artifact.path.resolve() / path) for path in table[column]]
    return table
