"""Stage localize: one U-Net on one training set with one seed, tested once on the test pictures."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from prefect import task

from downstream.config import LocalizeConfig
from downstream.training_sets import TrainingSetName, training_set
from dual_anodiff.base import IMAGE_ENCODER
from tasks.artifacts import Artifact, Staged, file_digest, folder_digest, plan
from tasks.config import LocalizeStageConfig, RunConfig
from tasks.errors import ConfigError
from tasks.generate import read_pairs
from tasks.prepare import read_samples
from tasks.runtime import STAGE, StageResult, run_stage

log = logging.getLogger("anodiff")
VERSION = 1


def plan_localize(
    config: RunConfig,
    prepared: Artifact,
    generated: Mapping[str, Artifact],
    training_set_name: str,
    seed: int,
) -> Artifact:
    """Name the model of one training set and seed; `generated` by defect type says which defects count."""
    # Every training set is validated on held-back pairs, so all depend on them, `real` too.
    return plan(
        config.store,
        "localize",
        VERSION,
        prepared.category,
        label=f"{prepared.category}/{training_set_name}/seed {seed}",
        training_set=training_set_name,
        seed=seed,
        split_seed=config.seed,
        samples=prepared,
        pairs=dict(generated),
        encoder=encoder_digest(config.localize),
        **model_config(config.localize).model_dump(exclude={"encoder", "encoder_weights"}),
    )


@task(name="localize", **STAGE)
def localize(
    out: Artifact,
    prepared: Artifact,
    generated: dict[str, Artifact],
    training_set_name: TrainingSetName,
    seed: int,
    config: RunConfig,
) -> StageResult:
    """Train and test one localization model."""

    def make(staged: Staged, device: str) -> None:
        build_localize(
            of_defects(read_samples(prepared, config.data), list(generated)),
            read_pairs(generated),
            training_set_name,
            config.localize,
            staged.out,
            device=device,
            seed=seed,
            pairs_seed=config.seed,
        )

    return run_stage(out, config.device, make, heavy=True)


def build_localize(
    samples: pd.DataFrame,
    pairs: pd.DataFrame,
    training_set_name: TrainingSetName,
    config: LocalizeStageConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    pairs_seed: int = 0,
) -> None:
    """Train on the named set, choose on validation, read the test pictures once; write all to `out`.

    `pairs_seed` chooses the held-back pairs: one choice for all training sets and seeds.
    """
    from downstream.localization import train_localization
    from downstream.prediction import evaluate_localization, read_predictions, write_predictions

    usable = pairs[pairs["mask_share"] > 0]
    if len(usable) < len(pairs):
        log.info(
            "          %d of %d pairs have an empty mask and are left out",
            len(pairs) - len(usable),
            len(pairs),
        )
    rows = training_set(training_set_name, samples, usable, seed=pairs_seed)
    train_localization(
        rows.train, rows.val, model_config(config), out, encoder=encoder_of(config), device=device, seed=seed
    )
    test = samples[samples["split"] == "test"]
    evaluate_localization(out, test, out, device=device)
    # An artifact holds no absolute path: pictures go by CATEGORY/split/label/name, as in any copy of the data.
    predictions = read_predictions(out / "predictions.npz")
    names = ["/".join(Path(path).parts[-4:]) for path in predictions.image_path]
    write_predictions(replace(predictions, image_path=np.array(names)), out / "predictions.npz")


def of_defects(samples: pd.DataFrame, defects: list[str]) -> pd.DataFrame:
    """Normals, and the pictures of these defect types."""
    return samples[(samples["label_index"] == 0) | samples["label"].isin(defects)].reset_index(drop=True)


def model_config(config: LocalizeStageConfig) -> LocalizeConfig:
    """What the model itself is told: not which other training sets and seeds there are."""
    return LocalizeConfig(**{name: getattr(config, name) for name in LocalizeConfig.model_fields})


def encoder_of(config: LocalizeStageConfig) -> Path | str:
    """The encoder's folder or timm name; the bundled one lies with the bundled base model."""
    return IMAGE_ENCODER if config.encoder == "bundled" else config.encoder


def encoder_digest(config: LocalizeStageConfig) -> str:
    """What the encoder's weights are, wherever they lie. Raises: ConfigError if a local file is not there."""
    encoder = encoder_of(config)
    if Path(encoder).is_dir():
        return folder_digest(Path(encoder))
    if isinstance(encoder, Path):
        raise ConfigError(
            f"localize.encoder: {encoder} is not there; set it to a timm name or an encoder folder"
        )
    if isinstance(config.encoder_weights, Path):
        if not config.encoder_weights.is_file():
            raise ConfigError(f"localize.encoder_weights: no file {config.encoder_weights}")
        return f"{encoder}:{file_digest(config.encoder_weights)}"
    return f"{encoder}:{config.encoder_weights}"
