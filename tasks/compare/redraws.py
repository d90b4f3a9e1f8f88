"""Stage redraws: what a run's models make of a category's test pictures, and of redraws of these; made by `compare`.

It takes a second or two a model, and twenty runs of fifteen categories have thousands; so it is done once, whichever runs
are compared, and kept like any artifact. Redraws go by the pictures' content and a seed, so that those of two runs on the
same test pictures belong together, picture by picture.
"""

import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.errors import ArtifactError, StoreUnreachableError
from tasks.runs.ended import Run, artifacts_of
from tasks.store.artifacts import Artifact, artifact_of, fault, plan, publish, read_manifest, verified
from tasks.tables.prepared import SPLIT
from tasks.tables.training_rows import Trained

log = logging.getLogger("anodiff")

VERSION = 3
PREDICTIONS = "predictions.npz"
PICTURES, MODELS, VALUES = "pictures.parquet", "models.parquet", "values.npy"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Redrawn:
    """A kind of model on one training set, over all its seeds."""

    contents: str  # digests of the seeds' predictions: the same models may have been trained under two keys
    map_px: int  # 0 for a classifier
    note: str  # why it has no values
    values: Mapping[str, Floats]  # by metric: on the test pictures, then on each redraw


@dataclass(frozen=True)
class Tested:
    """A category's test pictures in one run, and what its models made of them."""

    run: str
    data: str  # fingerprint of the category's folder
    split: Mapping[str, Any]
    pictures: (
        pd.DataFrame
    )  # image_path, label, sha256; mask: digest at map_px, "" of a classifier; a row a picture
    models: Mapping[tuple[str, str], Redrawn]  # by kind of model and training set


def tested(run: Run, category: str, resamples: int) -> Tested:
    """Raises: ArtifactError if the run trained no model for this category, or an artifact is gone or damaged."""
    (prepared,) = artifacts_of(run, "prepare", category).values()
    models = models_of(run, category)
    if not models:
        raise ArtifactError(f"run {run.name}: no model of {category} was trained")
    named = {f"{each.model}/{each.training_set}/{each.seed}": each.artifact for each in models}
    out = plan(
        run.config.store, "redraws", VERSION, category, samples=prepared, models=named, resamples=resamples
    )
    if verified(out):
        return _read(out.path, run, prepared)
    for each in models:
        if not verified(each.artifact):
            raise ArtifactError(
                f"run {run.name}: {fault(each.artifact)}; the same `anodiff run` makes it again"
            )
    log.info("%-9s %s of %s: starts, %d models", out.stage, category, run.name, len(models))
    started = time.monotonic()

    def make(folder: Path) -> None:
        build_redraws(prepared, models, folder, resamples)

    try:
        if not os.access(run.config.store, os.W_OK):
            with TemporaryDirectory() as folder:
                make(Path(folder))
                return _read(Path(folder), run, prepared)
        publish(out, lambda staged: make(staged.out), device="cpu", max_store_gb=run.config.max_store_gb)
        made = out.path
    except StoreUnreachableError as error:  # one that may only be read, for instance
        log.warning("%-9s %s: lies only on this machine: %s", out.stage, category, error)
        made = out.staging / "out"
    log.info("%-9s %s of %s: %.0f s", out.stage, category, run.name, time.monotonic() - started)
    return _read(made, run, prepared)


def models_of(run: Run, category: str) -> list[Trained]:
    """The models that a run trained for a category, not looked at: who has their redraws needs none of their files."""
    named = {(stage.stage, stage.label): stage.artifact for stage in run.stages if stage.artifact is not None}
    compare, found = run.config.compare, []
    for model, name, seed in product(compare.models, compare.training_sets, compare.seeds):
        label = f"{category}/{name}/seed {seed}"
        ref = named.get((model, label))
        if ref is not None:
            artifact = artifact_of(run.config.store, ref, label=label)
            found.append(Trained(model, name, seed, artifact))
    return found


def build_redraws(prepared: Artifact, models: Sequence[Trained], out: Path, resamples: int) -> None:
    """Write pictures.parquet, models.parquet, a row a kind, training set and metric, and values.npy, a row each.

    Raises: ArtifactError if a picture that was tested is not in the split.
    """
    from downstream.errors import PredictionError
    from downstream.figures.lift import bootstrap, metrics_of

    pictures = _pictures(prepared, models)
    order = np.lexsort((pictures["image_path"], pictures["sha256"]))
    kinds: dict[tuple[str, str], list[Trained]] = {}
    for each in models:
        kinds.setdefault((each.model, each.training_set), []).append(each)
    rows: list[dict[str, Any]] = []
    values: list[Floats] = []
    for (model, training_set), seeds in kinds.items():
        digests = (read_manifest(each.artifact)["files"][PREDICTIONS]["sha256"] for each in seeds)
        row: dict[str, Any] = {
            "model": model,
            "training_set": training_set,
            "contents": " ".join(sorted(digests)),
        }
        row |= {"map_px": 0, "metric": "", "note": ""}
        try:
            read = [_by_content(pictures, order, each) for each in seeds]
            (drawn,) = bootstrap([read], metrics_of(read), resamples=resamples, seed=0)
        except PredictionError as error:
            rows.append({**row, "note": str(error)})
            values.append(np.full(1 + resamples, np.nan))
            continue
        if model != "classify":
            row["map_px"] = read[0].anomaly_map.shape[-1]
        rows += ({**row, "metric": metric} for metric in drawn)
        values += drawn.values()
    out.mkdir(parents=True, exist_ok=True)
    pictures.iloc[order].to_parquet(out / PICTURES, index=False)
    pd.DataFrame(rows).to_parquet(out / MODELS, index=False)
    np.save(out / VALUES, np.stack(values), allow_pickle=False)


def _pictures(prepared: Artifact, models: Sequence[Trained]) -> pd.DataFrame:
    """The test pictures as predictions name them, with their content and that of their masks."""
    split = pd.read_csv(prepared.path / SPLIT, keep_default_na=False, dtype=str)
    of_maps = [model for model in models if model.model != "classify"]
    path = (of_maps or models)[0].artifact.path / PREDICTIONS
    with np.load(path, allow_pickle=False) as file:
        pictures = pd.DataFrame({"image_path": file["image_path"], "label": file["label"]}, dtype=str)
        pictures["mask"], pictures["map_px"] = "", 0
        if of_maps:
            shape = file["anomaly_map"].shape
            bits = np.unpackbits(file["gt_mask"], count=int(np.prod(shape))).reshape(len(pictures), -1)
            pictures["mask"] = [hashlib.sha256(each.tobytes()).hexdigest() for each in bits]
            pictures["map_px"] = shape[-1]
    # Predictions name a picture from the data's folder on, the split from the category's.
    content = dict(zip(split["image_path"], split["sha256"], strict=True))
    pictures["sha256"] = [content.get(path.partition("/")[2], "") for path in pictures["image_path"]]
    if (pictures["sha256"] == "").any():
        lost = pictures.loc[pictures["sha256"] == "", "image_path"].iloc[0]
        raise ArtifactError(f"{lost} was tested, but is not in {prepared.ref}/{SPLIT}")
    return pictures


def _by_content(pictures: pd.DataFrame, order: NDArray[np.int64], trained: Trained) -> Any:
    """A model's predictions, the pictures named by their content and in its order; twins by name.

    Raises: PredictionError if the file cannot be read, or is of other pictures.
    """
    from downstream.errors import PredictionError
    from downstream.figures.class_predictions import read_class_predictions
    from downstream.figures.predictions import read_predictions

    path = trained.artifact.path / PREDICTIONS
    read: Any = read_class_predictions(path) if trained.model == "classify" else read_predictions(path)
    if read.image_path.tolist() != pictures["image_path"].tolist():
        raise PredictionError(
            f"{trained.artifact.ref}: is of other test pictures than the run's other models."
        )
    of_pictures = ("label", "probability", "label_index", "anomaly_map", "gt_mask", "pred_score")
    taken = {name: getattr(read, name)[order] for name in of_pictures if hasattr(read, name)}
    return replace(read, image_path=pictures["sha256"].to_numpy(dtype=np.str_)[order], **taken)


def _read(folder: Path, run: Run, prepared: Artifact) -> Tested:
    values = np.load(folder / VALUES, allow_pickle=False)
    models = {}
    table = pd.read_parquet(folder / MODELS)
    for (model, training_set), rows in table.groupby(["model", "training_set"], sort=False):
        first = rows.iloc[0]
        drawn = {
            metric: values[row] for row, metric in zip(rows.index, rows["metric"], strict=True) if metric
        }
        models[str(model), str(training_set)] = Redrawn(
            str(first["contents"]), int(first["map_px"]), str(first["note"]), drawn
        )
    pictures = pd.read_parquet(folder / PICTURES)
    inputs = prepared.inputs
    return Tested(run.name, str(inputs["data"]), dict(inputs["split"]), pictures, models)
