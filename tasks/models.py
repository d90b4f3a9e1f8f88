"""What the stages localize, classify and detect share: their pictures, their keys, their encoders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from downstream.config import learns_from_defects
from downstream.training_sets import TrainingSet, TrainingSetName, training_set
from dual_anodiff.base import IMAGE_ENCODER
from tasks.artifacts import Artifact, file_digest, folder_digest, plan
from tasks.config import ModelName, RunConfig
from tasks.errors import ConfigError
from tasks.generate import read_pairs
from tasks.prepare import read_samples
from tasks.synthesize import read_baseline


@dataclass(frozen=True)
class Pictures:
    """All that a category's models learn from: its split, the pairs by defect type, the baselines' pairs by name."""

    prepared: Artifact
    generated: dict[str, Artifact]
    baselines: dict[str, Artifact]


@dataclass(frozen=True)
class Trained:
    """A finished model."""

    model: ModelName
    training_set: str
    seed: int
    artifact: Artifact


def plan_model(
    config: RunConfig,
    stage: ModelName,
    version: int,
    pictures: Pictures,
    name: str,
    seed: int,
    **settings: Any,
) -> Artifact:
    """Name the model of one training set and seed."""
    # Every training set is validated on held-back pairs, so all depend on them, `real` too.
    return plan(
        config.store,
        stage,
        version,
        pictures.prepared.category,
        label=f"{pictures.prepared.category}/{name}/seed {seed}",
        training_set=name,
        seed=seed,
        split_seed=config.seed,
        samples=pictures.prepared,
        pairs=pictures.generated,
        baseline=pictures.baselines.get(name),
        **settings,
    )


def rows_of(pictures: Pictures, name: TrainingSetName, config: RunConfig) -> tuple[TrainingSet, pd.DataFrame]:
    """The rows to train and validate on, and the test rows. Pairs without a mask are left out."""
    samples = of_defects(read_samples(pictures.prepared, config.data), list(pictures.generated))
    pairs = read_pairs(pictures.generated)
    baselines: dict[str, pd.DataFrame] = {
        each: read_baseline(made) for each, made in pictures.baselines.items() if each == name
    }
    # The run's seed chooses the held-back pairs: one choice for all training sets and seeds.
    usable = pairs[pairs["mask_share"] > 0]
    rows = training_set(name, samples, usable, baselines=baselines, seed=config.seed)
    return rows, samples[samples["split"] == "test"]


def of_defects(samples: pd.DataFrame, defects: list[str]) -> pd.DataFrame:
    """Normals, and the pictures of these defect types."""
    return samples[(samples["label_index"] == 0) | samples["label"].isin(defects)].reset_index(drop=True)


def portable(paths: Sequence[str]) -> list[str]:
    """Pictures by CATEGORY/split/label/name, as in any copy of the data: an artifact holds no absolute path."""
    return ["/".join(Path(path).parts[-4:]) for path in paths]


def why_not(config: RunConfig, model: ModelName, name: str, defects: Sequence[str]) -> str | None:
    """Why a model can't be trained on a training set, whatever its pictures; None where it can."""
    if model == "classify" and len(defects) < 2:
        return "one defect type only: there is nothing to tell apart"
    if model == "classify" and name == "perlin":
        return "Perlin anomalies are of no defect type"
    first = config.compare.training_sets[0]
    if model == "detect" and not learns_from_defects(config.detect.model) and name != first:
        return f"{config.detect.model} learns from normals alone: the same model as for `{first}`"
    return None


def encoder_of(encoder: str) -> Path | str:
    """The encoder's folder or timm name; the bundled one lies with the bundled base model."""
    return IMAGE_ENCODER if encoder == "bundled" else encoder


def encoder_digest(option: str, encoder: str, weights: str | Path) -> str:
    """What an encoder's weights are, wherever they lie; `option` is its place in the config.

    Raises: ConfigError if a local file is not there.
    """
    found = encoder_of(encoder)
    if Path(found).is_dir():
        return folder_digest(Path(found))
    if isinstance(found, Path):
        raise ConfigError(f"{option}: {found} is not there; set it to a timm name or an encoder folder")
    if isinstance(weights, Path):
        if not weights.is_file():
            raise ConfigError(f"{option}_weights: no file {weights}")
        return f"{encoder}:{file_digest(weights)}"
    return f"{encoder}:{weights}"


def check_encoders(config: RunConfig) -> None:
    """See that the weights of all models to be trained are there. Raises: ConfigError that names the option."""
    for model in config.compare.models:
        match model:
            case "localize":
                encoder_digest("localize.encoder", config.localize.encoder, config.localize.encoder_weights)
            case "classify":
                encoder_digest("classify.encoder", config.classify.encoder, config.classify.encoder_weights)
            case "detect":
                encoder_digest("detect.backbone", config.detect.backbone, config.detect.backbone_weights)
