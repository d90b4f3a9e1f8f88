"""Models of two runs on the same test pictures: whether these are the same by content, and the paired difference."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.artifacts import read_manifest
from tasks.errors import ArtifactError
from tasks.models import Trained
from tasks.prepare import SPLIT
from tasks.run_facts import flat
from tasks.runs import Run, artifacts_of, trained_models

PREDICTIONS = "predictions.npz"
SAME = "the same models"
BY_THRESHOLD = ("escape_rate", "overkill_rate")
NAMED = 3  # pictures that a reason names


@dataclass(frozen=True)
class Tested:
    """A category's test pictures in one run, as its models saw them."""

    run: str
    data: str  # fingerprint of the category's folder
    split: dict[str, Any]
    pictures: pd.DataFrame  # image_path as predictions name it, label, sha256; a row a picture
    models: tuple[Trained, ...]


def tested(run: Run, category: str) -> Tested:
    """Raises: ArtifactError if the run trained no model for this category, or an artifact is gone or damaged."""
    config = run.config.compare
    models = trained_models(run, category, config.models, config.seeds)
    if not models:
        raise ArtifactError(f"run {run.name}: no model of {category} was trained")
    (prepared,) = artifacts_of(run, "prepare", category).values()
    split = pd.read_csv(prepared.path / SPLIT, keep_default_na=False, dtype=str)
    with np.load(models[0].artifact.path / PREDICTIONS, allow_pickle=False) as file:
        pictures = pd.DataFrame({"image_path": file["image_path"], "label": file["label"]}, dtype=str)
    # Predictions name a picture from the data's folder on, the split from the category's.
    content = dict(zip(split["image_path"], split["sha256"], strict=True))
    pictures["sha256"] = [content.get(path.partition("/")[2], "") for path in pictures["image_path"]]
    if (pictures["sha256"] == "").any():
        lost = pictures.loc[pictures["sha256"] == "", "image_path"].iloc[0]
        raise ArtifactError(f"run {run.name}: {lost} was tested, but is not in {prepared.ref}/{SPLIT}")
    inputs = prepared.inputs
    return Tested(run.name, str(inputs["data"]), dict(inputs["split"]), pictures, tuple(models))


def why_not_the_same(first: Tested, other: Tested) -> str | None:
    """What sets the test pictures of two runs apart, by content; None if nothing does."""
    said = _differences(first.pictures, other.pictures, other.run)
    if said is None:
        return _masks_differ(first, other) if first.data != other.data else None
    if first.data != other.data:
        return f"{said}: the data differ (fingerprints {first.data[:12]} and {other.data[:12]})"
    mine, theirs = flat(first.split), flat(other.split)
    changed = [
        f"split.{name} {mine.get(name)} and {theirs.get(name)}"
        for name in mine | theirs
        if mine.get(name) != theirs.get(name)
    ]
    cause = f"the split differs ({', '.join(changed)})" if changed else "other defect types were tested"
    return f"{said}: {cause}"


def _differences(first: pd.DataFrame, other: pd.DataFrame, run: str) -> str | None:
    both = first.merge(other, on="sha256", how="outer", suffixes=("", "_other"), indicator=True)
    lost, new = both[both["_merge"] == "left_only"], both[both["_merge"] == "right_only"]
    relabelled = both[(both["_merge"] == "both") & (both["label"] != both["label_other"])]
    said = []
    for rows, column, text in (
        (lost, "image_path", f"not tested by {run}"),
        (new, "image_path_other", "tested by it alone"),
        (relabelled, "image_path", "labelled otherwise"),
    ):
        if len(rows):
            names = ", ".join(sorted(rows[column])[:NAMED]) + (", …" if len(rows) > NAMED else "")
            said.append(f"{len(rows)} of {len(first)} test pictures {text} ({names})")
    if not said and len(first) != len(other):
        said.append(f"{len(first)} and {len(other)} test pictures")
    return "; ".join(said) or None


def _masks_differ(first: Tested, other: Tested) -> str | None:
    """The same pictures in folders that differ: the masks may, too. Seen at the size that models were measured at."""
    of_maps = [[each.artifact for each in side.models if each.model != "classify"] for side in (first, other)]
    if not all(of_maps):
        return None
    masks = []
    for side, (artifact, *_) in zip((first, other), of_maps, strict=True):
        with np.load(artifact.path / PREDICTIONS, allow_pickle=False) as file:
            shape = file["anomaly_map"].shape
            bits = np.unpackbits(file["gt_mask"], count=int(np.prod(shape)))
        masks.append(bits.reshape(shape)[_order(side)])
    if masks[0].shape != masks[1].shape:
        return (
            f"the data differ (fingerprints {first.data[:12]} and {other.data[:12]}), and whether the masks do cannot be "
            "told: they were measured at different sizes"
        )
    changed = (masks[0] != masks[1]).reshape(len(masks[0]), -1).any(1)
    if not changed.any():
        return None
    names = first.pictures["image_path"].to_numpy()[_order(first)][changed].tolist()
    listed = ", ".join(sorted(names)[:NAMED]) + (", …" if len(names) > NAMED else "")
    return f"the masks of {len(names)} test pictures differ ({listed})"


def _order(side: Tested) -> NDArray[np.int64]:
    """Rows by content; twins by name."""
    return np.lexsort((side.pictures["image_path"], side.pictures["sha256"]))


def contents(models: Sequence[Trained]) -> list[str]:
    """What models said of their test pictures, as digests: the same ones may have been trained under two keys."""
    return sorted(read_manifest(each.artifact)["files"][PREDICTIONS]["sha256"] for each in models)


def paired(
    first: Tested, other: Tested, models: Sequence[Trained], others: Sequence[Trained], *, resamples: int
) -> list[dict[str, Any]]:
    """The differences other − first of one kind of model, over all seeds of each: LiftResult's fields and a note.

    Raises: PredictionError if a file cannot be read, or is of other pictures than the first model of its run.
    """
    from downstream.lift import lift

    read = [[_by_content(side, each) for each in of] for side, of in ((first, models), (other, others))]
    sizes = {each.anomaly_map.shape[-1] for side in read for each in side if hasattr(each, "anomaly_map")}
    note = f"measured on maps of {' and '.join(map(str, sorted(sizes)))} px" if len(sizes) > 1 else ""
    results = [{**asdict(each), "note": note} for each in lift(read[0], read[1], resamples=resamples)]
    if _same_output(*read):
        # Seeds are drawn on each side by themselves, which would give the same models an interval.
        for row in results:
            if row["metric"] not in BY_THRESHOLD:
                row |= {"low": 0.0, "high": 0.0, "verdict": "no difference shown", "note": SAME}
    return results


def _same_output(first: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether both say the same of each picture, seed by seed; thresholds aside."""
    names = ("anomaly_map", "pred_score", "probability")
    nothing = np.empty(0)
    return len(first) == len(other) and all(
        np.array_equal(getattr(mine, name, nothing), getattr(theirs, name, nothing))
        for mine, theirs in zip(first, other, strict=True)
        for name in names
    )


def _by_content(side: Tested, trained: Trained) -> Any:
    """A model's predictions, the pictures named by their content and in its order."""
    from downstream.class_predictions import read_class_predictions
    from downstream.prediction import read_predictions

    path = trained.artifact.path / PREDICTIONS
    order, names = _order(side), side.pictures["sha256"].to_numpy(dtype=np.str_)
    if trained.model == "classify":
        classes = read_class_predictions(path)
        _check_rows(side, classes.image_path, path)
        return replace(
            classes,
            image_path=names[order],
            label=classes.label[order],
            probability=classes.probability[order],
        )
    maps = read_predictions(path)
    _check_rows(side, maps.image_path, path)
    per_picture = ("label", "label_index", "anomaly_map", "gt_mask", "pred_score")
    return replace(
        maps, image_path=names[order], **{name: getattr(maps, name)[order] for name in per_picture}
    )


def _check_rows(side: Tested, image_path: NDArray[np.str_], path: Path) -> None:
    from downstream.errors import PredictionError

    if image_path.tolist() != side.pictures["image_path"].tolist():
        raise PredictionError(f"{path}: is of other test pictures than the other models of run {side.run}.")
