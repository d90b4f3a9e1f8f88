"""A model's output on pictures, with the truth: the record, and its file."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from downstream.errors import PredictionError


@dataclass(frozen=True)
class Predictions:
    """One model's output on n pictures, with the truth and the thresholds that validation chose.

    Shape: anomaly_map (n, h, w) float32 in 0..1, holding float16 values so that the saved file gives the
    same metrics; pred_score (n,); gt_mask (n, h, w) bool; label_index (n,) 0 normal, 1 anomalous; label
    (n,) "good" or defect type.
    """

    image_path: NDArray[np.str_]
    label: NDArray[np.str_]
    label_index: NDArray[np.int64]
    anomaly_map: NDArray[np.float32]
    gt_mask: NDArray[np.bool_]
    pred_score: NDArray[np.float32]
    pixel_threshold: float
    image_threshold: float


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Save as npz: maps as float16 (their exact values), masks as bits."""
    arrays = {field.name: np.asarray(getattr(predictions, field.name)) for field in fields(predictions)}
    arrays["anomaly_map"] = predictions.anomaly_map.astype(np.float16)
    arrays["gt_mask"] = np.packbits(predictions.gt_mask, axis=None)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub takes the arrays for allow_pickle


def read_predictions(path: Path) -> Predictions:
    """Load what write_predictions saved. Raises: PredictionError that names the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            maps = file["anomaly_map"].astype(np.float32)
            return Predictions(
                image_path=file["image_path"],
                label=file["label"],
                label_index=file["label_index"],
                anomaly_map=maps,
                gt_mask=np.unpackbits(file["gt_mask"], count=maps.size).reshape(maps.shape).astype(bool),
                pred_score=file["pred_score"],
                pixel_threshold=float(file["pixel_threshold"]),
                image_threshold=float(file["image_threshold"]),
            )
    except (OSError, KeyError, ValueError) as error:
        raise PredictionError(
            f"{path}: is no file of predictions ({error}). Evaluate the model again."
        ) from error
