"""Trained localization models on pictures: load, predict, evaluate once on the test set."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from downstream.config import LocalizeConfig
from downstream.encoder import EncoderSpec, empty_unet
from downstream.errors import PredictionError
from downstream.figures.predictions import Predictions, write_predictions
from downstream.images import load_rows
from downstream.network import load_state, predict_logits, read_model

# The literature's window: 21 px on a 256 px map (DRAEM, AnomalyDiffusion, DualAnoDiff).
WINDOW_PX, WINDOW_AT_PX = 21, 256


class LocalizationModel(BaseModel):
    """model.json: all that it takes to use model.safetensors without the encoder it started from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["anodiff-localization-1"] = "anodiff-localization-1"
    encoder: EncoderSpec
    config: LocalizeConfig
    seed: int
    selected_step: int
    val_pixel_ap: float
    pixel_threshold: float
    image_threshold: float
    n_train: dict[str, int]
    n_val: dict[str, int]


def load_localization(folder: Path, device: str = "cpu") -> tuple[nn.Module, LocalizationModel]:
    """Network in evaluation mode and its description. Raises: ModelError that names the file."""
    model, state = read_model(folder, LocalizationModel, "localization model")
    network = empty_unet(model.encoder, model.config.decoder_channels)
    load_state(network, state, folder)
    return network.to(device).eval(), model


def predict(
    model_folder: Path, rows: pd.DataFrame, *, device: str = "cpu", batch_size: int = 16
) -> Predictions:
    """Anomaly maps and scores of the pictures in `rows` (image_path, mask_path, label, label_index).

    Maps and masks are at the model's size_px, on which pixel metrics are then measured.
    Raises: ModelError, PictureError; PredictionError if there is no row.
    """
    refuse_empty(rows)
    network, model = load_localization(model_folder, device)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        maps = anomaly_maps(
            network, images, model.encoder, precision=model.config.precision, batch_size=batch_size
        )
        return maps, image_scores(maps)

    return predictions_of(rows, model.config.size_px, run, model.pixel_threshold, model.image_threshold)


def refuse_empty(rows: pd.DataFrame) -> None:
    """Raises: PredictionError if there is no row."""
    if rows.empty:
        raise PredictionError("no rows to predict: the table of pictures is empty.")


def predictions_of(
    rows: pd.DataFrame,
    size_px: int,
    run: Callable[[Tensor], tuple[Tensor, Tensor]],
    pixel_threshold: float,
    image_threshold: float,
) -> Predictions:
    """The rows' truth at size_px, beside what `run` makes of their pictures.

    Shape: run maps (n, 3, s, s) uint8 to anomaly maps (n, s, s) and scores (n,).
    """
    images, masks = load_rows(rows, size_px)
    maps, scores = run(images)
    return Predictions(
        image_path=rows["image_path"].to_numpy(dtype=np.str_),
        label=rows["label"].to_numpy(dtype=np.str_),
        label_index=rows["label_index"].to_numpy(dtype=np.int64),
        anomaly_map=maps.half().float().cpu().numpy(),
        gt_mask=masks[:, 0].numpy(),
        pred_score=scores.cpu().numpy(),
        pixel_threshold=pixel_threshold,
        image_threshold=image_threshold,
    )


def evaluate_localization(
    model_folder: Path, test_rows: pd.DataFrame, out: Path, *, device: str = "cpu", batch_size: int = 16
) -> pd.DataFrame:
    """Read the test set, once; write out/predictions.npz and out/metrics.parquet; return the table.

    Columns as metrics.metrics_table gives them, with model "localization" in front.
    """
    predictions = predict(model_folder, test_rows, device=device, batch_size=batch_size)
    return write_evaluation("localization", predictions, test_rows, out)


def write_evaluation(
    model: str, predictions: Predictions, test_rows: pd.DataFrame, out: Path
) -> pd.DataFrame:
    """Write out/predictions.npz and out/metrics.parquet; return the table. Defect sizes are those of the masks' files."""
    from downstream.figures.defect_sizes import mask_shares
    from downstream.figures.metrics import metrics_table

    out.mkdir(parents=True, exist_ok=True)
    write_predictions(predictions, out / "predictions.npz")
    table = metrics_table(predictions, mask_shares(test_rows["mask_path"].tolist()))
    table.insert(0, "model", model)
    table.to_parquet(out / "metrics.parquet", index=False)
    return table


def anomaly_maps(
    network: nn.Module, images: Tensor, spec: EncoderSpec, *, precision: str = "auto", batch_size: int = 16
) -> Tensor:
    """Probability of defect at each pixel, by a network in evaluation mode, on the network's device.

    Shape: images (n, 3, s, s) uint8 → (n, s, s) float32 of float16 values.
    """
    logits = predict_logits(network, images, spec, precision, batch_size)
    return logits[:, 0].sigmoid().half().float()


def image_scores(maps: Tensor) -> Tensor:
    """Maximum of the mean-filtered map; the literature's 21 px window at 256 px, scaled with the map's size.

    Zeros beyond the border count, as in DRAEM's code. Shape: (n, s, s) → (n,).
    """
    window = window_px(maps.shape[-1])
    smooth = F.avg_pool2d(maps[:, None], window, stride=1, padding=window // 2)
    return smooth.flatten(1).amax(1)


def window_px(size_px: int) -> int:
    """Odd window that covers the share of the map that 21 px cover of 256: 11 at 128 px, 41 at 512 px."""
    return 2 * round((WINDOW_PX * size_px / WINDOW_AT_PX - 1) / 2) + 1
