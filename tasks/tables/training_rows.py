"""What a model is trained on, and the key of that: training rows, test rows, refused pairs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from downstream.config import learns_from_defects
from downstream.training_sets import TrainingSet, TrainingSetName, training_set
from tasks.config import VAL_SHARE, ModelName, RunConfig, pairs_to_train_on
from tasks.data.split import Fold, ShotChoice, chosen_shots, held_out_shots
from tasks.errors import DataError
from tasks.store.artifacts import Artifact, folder_digest
from tasks.tables.baselines import baseline_of, read_baseline
from tasks.tables.pairs import read_pairs
from tasks.tables.prepared import read_samples
from tasks.tables.weights import encoder_digest

log = logging.getLogger("anodiff")

# Enough for a stable average precision; more only cost time at each look.
MAX_FOLD_NORMALS = 60
FOLDERS = ("texture_folder", "picture_folder")


@dataclass(frozen=True)
class Pictures:
    """All that a category's models learn from: its split, the pairs by defect type, the baselines' pairs by name."""

    prepared: Artifact
    generated: dict[str, Artifact]
    baselines: dict[str, Artifact] = field(default_factory=dict)
    # Of each defect type, where a dose or a fold limits them.
    choice: ShotChoice | None = None
    max_pairs: int | None = None
    # The stage that says what the category's normals bear; without it what is "auto" of augmentation is off.
    objects: Artifact | None = None


@dataclass(frozen=True)
class Trained:
    """A finished model."""

    model: ModelName
    training_set: str
    seed: int
    artifact: Artifact


@dataclass(frozen=True)
class Dose:
    """So many pairs, or shots, of each defect type, and what a model learns from at that dose."""

    kind: Literal["pairs", "shots"]
    count: int
    training_set: TrainingSetName
    pictures: Pictures


@dataclass(frozen=True)
class Dosed:
    """A finished model at one dose."""

    kind: Literal["pairs", "shots"]
    dose: int
    trained: Trained


def rows_of(pictures: Pictures, name: TrainingSetName, config: RunConfig) -> tuple[TrainingSet, pd.DataFrame]:
    """The rows to train and validate on, and the test rows. Refused pairs are in neither.

    Raises: DataError if every pair is refused, of a training set that has pairs.
    """
    samples = of_defects(read_samples(pictures.prepared, config.data), list(pictures.generated))
    samples = chosen_shots(samples, pictures.choice)
    pairs = read_pairs(pictures.generated)
    usable = accepted(pairs, config)
    if len(pairs) and usable.empty and "generated" in name:
        raise DataError(
            f"{pictures.prepared.category}: every one of {len(pairs)} generated pairs is refused: "
            f"{reasons_text(pairs)}; look at the sheet of refused pairs, then raise finetune.train_steps, set "
            "generate.mask.threshold, or leave the reason out of curate.rules"
        )
    baselines: dict[str, pd.DataFrame] = {
        each: read_baseline(made) for each, made in pictures.baselines.items() if each == baseline_of(name)
    }
    if usable.empty:
        log.warning("%s: no pair to validate on, so shots are held back for that", pictures.prepared.category)
    # The run's seed chooses the held-back pairs: one choice for all training sets and seeds.
    rows = training_set(name, samples, usable, baselines=baselines, val_share=VAL_SHARE, seed=config.seed)
    if pictures.max_pairs is not None:
        rows = first_pairs(rows, pictures.max_pairs)
    return rows, samples[samples["split"] == "test"]


def baseline_in(pictures: Pictures, name: str) -> Artifact | None:
    """The baseline's pairs that a training set has, for its key."""
    baseline = baseline_of(name)
    return None if baseline is None else pictures.baselines.get(baseline)


def pictures_read(config: RunConfig, model: ModelName, pictures: Pictures, name: str) -> Pictures:
    """What a model on one training set reads of a category's pictures, and no more: what its key knows."""
    baseline, asks = baseline_of(name), model != "detect" and getattr(config, model).augment.asks_normals
    return replace(
        pictures,
        baselines={each: made for each, made in pictures.baselines.items() if each == baseline},
        objects=pictures.objects if asks else None,
    )


def holds_out(config: RunConfig, pictures: Pictures) -> bool:
    """Whether the fold in `pictures.choice` holds out any shot; with one part a type there is none to spare."""
    return not _held_out(config, pictures).empty


def rows_of_fold(pictures: Pictures, name: TrainingSetName, config: RunConfig) -> TrainingSet | None:
    """What `rows_of` trains on without the shots that the fold in `pictures.choice` holds out, and these to score on.

    Beside them the normals that no training set trains on, MAX_FOLD_NORMALS at most. None where no shot is held out.
    """
    shots = _held_out(config, pictures)
    if shots.empty:
        return None
    samples = read_samples(pictures.prepared, config.data)
    normals = samples[(samples["split"] == "val") & (samples["label_index"] == 0)].sort_values("image_path")
    normals = normals.iloc[:: -(-len(normals) // MAX_FOLD_NORMALS)]
    rows, _ = rows_of(pictures, name, config)
    return rows.validated_on(pd.concat([normals, shots]))


def _held_out(config: RunConfig, pictures: Pictures) -> pd.DataFrame:
    assert isinstance(pictures.choice, Fold)
    samples = of_defects(read_samples(pictures.prepared, config.data), list(pictures.generated))
    return held_out_shots(samples, pictures.choice)


def first_pairs(rows: TrainingSet, count: int) -> TrainingSet:
    """The first `count` generated pairs of each defect type; all else, and validation, as it is."""
    made = rows.train["source"] == "generated"
    too_many = rows.train[made].groupby("label").cumcount() >= count
    return TrainingSet(rows.name, rows.train.drop(too_many[too_many].index).reset_index(drop=True), rows.val)


def accepted(pairs: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """The pairs of each defect type that passed, the first ones as many as were asked for.

    Their trust, where curation asked for it, is the score that is handed over with a pair.
    """
    passed = pairs[pairs["reasons"] == ""].groupby("label").head(config.generate.num_pairs)
    return (
        passed.rename(columns={"trust": "score"})
        if "trust" in passed and passed["trust"].notna().all()
        else passed
    )


def refused_counts(pairs: pd.DataFrame) -> dict[str, int]:
    """How many pairs are refused for which reason, the most frequent first; a pair may have several."""
    reasons = pairs["reasons"].str.split("; ").explode()
    return {str(reason): int(count) for reason, count in reasons[reasons != ""].value_counts().items()}


def reasons_text(pairs: pd.DataFrame) -> str:
    """`refused_counts` in words."""
    return ", ".join(f"{count} {reason}" for reason, count in refused_counts(pairs).items())


def defects_without_pairs(pictures: Pictures) -> list[str]:
    """The defect types all of whose pairs are refused. Says in one line a type how many pass, and why not all do."""
    lost = []
    for defect, of_type in read_pairs(pictures.generated).groupby("label", sort=True):
        refused = int((of_type["reasons"] != "").sum())
        if not refused:
            continue
        label = pictures.generated[str(defect)].label
        why = reasons_text(of_type)
        if refused == len(of_type):
            lost.append(str(defect))
            why += "; no model learns from this type's pairs"
        log.warning("%s: %d of %d pairs refused: %s", label, refused, len(of_type), why)
    return lost


def of_defects(samples: pd.DataFrame, defects: list[str]) -> pd.DataFrame:
    """Normals, and the pictures of these defect types."""
    return samples[(samples["label_index"] == 0) | samples["label"].isin(defects)].reset_index(drop=True)


def why_not(
    config: RunConfig, model: ModelName, name: str, defects: Sequence[str], without_pairs: Sequence[str] = ()
) -> str | None:
    """Why a model can't be trained on a training set, whatever its pictures; None where it can."""
    if model == "classify" and len(defects) < 2:
        return "one defect type only: there is nothing to tell apart"
    if model == "classify" and name.startswith("perlin"):
        return "Perlin anomalies are of no defect type"
    if model == "classify" and name == "generated" and without_pairs:
        return f"every pair of {', '.join(without_pairs)} is refused: no picture to learn the type from"
    first = config.compare.training_sets[0]
    if model == "detect" and not learns_from_defects(config.detect.model) and name != first:
        return f"{config.detect.model} learns from normals alone: the same model as for `{first}`"
    return None


def why_no_dose(config: RunConfig, model: ModelName, defects: Sequence[str]) -> str | None:
    """Why a model has no dose–response curve; None where it has one."""
    if model == "detect" and not learns_from_defects(config.detect.model):
        return f"{config.detect.model} learns from normals alone: no number of pairs or shots changes it"
    return why_not(config, model, "generated+real", defects)


def dose_of_pairs(full: Pictures, count: int, config: RunConfig) -> Dose:
    """A dose of pairs: the training set of a plain run where it limits nothing."""
    limits = count < pairs_to_train_on(config.generate.num_pairs)
    pictures = replace(full, max_pairs=count) if count and limits else full
    return Dose("pairs", count, "generated+real" if count else "real", pictures)


def model_settings(config: RunConfig, model: ModelName, objects: Artifact | None) -> dict[str, Any]:
    """What a model's training reads of the config and of the normals' symmetries, for its key.

    Raises: ConfigError if its encoder is not there.
    """
    weights = encoder_digest(config, model)
    # What the encoder is counts, not where it lies.
    match model:
        case "localize" | "classify":
            chosen = config.localize if model == "localize" else config.classify
            settings = chosen.model_dump(exclude={"encoder", "encoder_weights"}) | {"encoder": weights}
            if objects is not None and chosen.augment.asks_normals:
                settings["objects"] = objects
        case "detect":
            read = config.detect.as_read()
            settings = read.model_dump(exclude={"backbone", "backbone_weights", *FOLDERS})
            settings |= {"backbone": weights}
            # Anomalib's DRAEM and EfficientAD train on these pictures, too.
            for option in FOLDERS:
                folder = getattr(read, option)
                settings[option] = None if folder is None else folder_digest(folder)
    if settings["train_steps"] != "auto":
        del settings["auto_steps"]  # a fixed number does not read it
    return settings
