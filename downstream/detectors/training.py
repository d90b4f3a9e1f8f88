"""Detection by anomalib's models: train through its Engine, set thresholds on validation, evaluate once.

Only supervised SuperSimpleNet learns from the anomalous rows of a training set (config.learns_from_defects);
all others learn from its normals, and all take thresholds and normalisation from its validation rows.
"""

import io
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from downstream.config import DetectConfig
from downstream.detectors.anomalib_data import DRAWN, ROUNDS, Pictures, rows_datamodule
from downstream.detectors.backbone import BackboneSpec, resolve_backbone
from downstream.detectors.models import build_detector, frugal_coreset, load_teacher, needs_backbone, seeded
from downstream.errors import DownstreamError
from downstream.figures.metrics import best_threshold, image_metrics
from downstream.figures.predictions import Predictions
from downstream.network import load_state, read_model, write_model
from downstream.prediction import predictions_of, refuse_empty, write_evaluation
from downstream.progress import progress as progress_of
from downstream.training_curve import Curve
from downstream.training_sets import TrainingSet

THRESHOLD = 0.5  # where the normalisation puts both thresholds


class DetectionModel(BaseModel):
    """model.json: all that it takes to use model.safetensors without the backbone it started from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["anodiff-detection-1"] = "anodiff-detection-1"
    config: DetectConfig
    backbone: BackboneSpec | None
    seed: int
    pixel_threshold: float = Field(THRESHOLD, description="On the normalised maps that the model gives.")
    image_threshold: float = Field(THRESHOLD, description="On the normalised scores that the model gives.")
    raw_pixel_threshold: float = Field(description="The same in the detector's own unit.")
    raw_image_threshold: float = Field(description="The same in the detector's own unit.")
    n_train: dict[str, int] = Field(description="Pictures that were trained on, by source.")
    n_val: dict[str, int]


def train_detector(
    training: TrainingSet,
    config: DetectConfig,
    out: Path,
    *,
    backbone: Path
    | str
    | None = None,  # folder or timm name; None: config.backbone, which is not "imagenet" then
    device: str = "cpu",
    seed: int = 0,
    progress: bool = False,  # anomalib's own bar and log
    curve: Curve | None = None,  # filled with image AUROC on training.val; may end the training early
) -> DetectionModel:
    """Train on training.train, set thresholds on training.val, write out/model.safetensors and out/model.json.

    No test picture is known here, let alone read. For a model that does not learn from defects
    (config.learns_from_defects) every training set gives the same model. The same seed gives the same weights on the CPU
    for one number of threads. Raises, before training: EncoderError, PictureError, TrainingSetError, DownstreamError for a
    folder that DRAEM or EfficientAD lacks.
    """
    with seeded(seed, device), quiet(progress):
        spec, weights = (
            resolve_backbone(config, backbone) if needs_backbone(config) else (None, config.backbone_weights)
        )
        model = build_detector(config, spec, weights)
        if config.model == "efficientad":
            load_teacher(model, weights)
        data = rows_datamodule(training, config, seed)
        out.mkdir(parents=True, exist_ok=True)
        # Lightning and anomalib make folders of their own, which nobody needs afterwards
        with tempfile.TemporaryDirectory(dir=out) as scratch, frugal_coreset():
            with progress_of("detect", config.fixed_steps(), "step", shown=False) as report_progress:

                def after_step(trainer: Any) -> None:
                    report_progress(trainer.global_step, None)
                    if curve is not None and trainer.global_step in curve.steps:
                        score = _image_auroc(model, data.val_data, device, config.batch_size)
                        trainer.should_stop = curve.add(trainer.global_step, score)

                _engine(config, data, scratch, device, progress, after_step).fit(model, datamodule=data)
            # Once, at the end: anomalib validates after each epoch, and keeps the last figures anyway.
            # It sets normalisation and, for EfficientAD, the scales of its two maps.
            validator = _engine(config, data, scratch, device, progress, None)
            validator.validate(model, datamodule=data, verbose=False)
        raw = _center_thresholds(model, data.val_data, device, config.batch_size)
    if not all(map(np.isfinite, raw)):
        raise DownstreamError(
            f"{config.model} gives scores that are no numbers: training diverged. "
            "Change detect.backbone_weights, or raise detect.train_steps."
        )
    sources = training.train["source"][training.train["image_path"].isin(data.train_data.image_path)]
    described = DetectionModel(
        config=config,
        backbone=spec,
        seed=seed,
        raw_image_threshold=raw[0],
        raw_pixel_threshold=raw[1],
        n_train=dict(Counter(sources.tolist())),
        n_val=dict(Counter(training.val["source"].tolist())),
    )
    write_model(out, described, _state(model))
    return described


def load_detector(folder: Path, device: str = "cpu") -> tuple[Any, DetectionModel]:
    """anomalib's module in evaluation mode and its description. Raises: ModelError that names the file."""
    described, state = read_model(folder, DetectionModel, "detector")
    with seeded(0, "cpu"), quiet():
        model = build_detector(described.config, described.backbone, "random", folder=folder)
    for part, module in (("model", model.model), ("post_processor", model.post_processor)):
        prefix = f"{part}."
        named = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        load_state(module, named, folder)
    return model.to(device).eval(), described


def predict_detector(
    model_folder: Path, rows: pd.DataFrame, *, device: str = "cpu", batch_size: int = 16
) -> Predictions:
    """Normalised anomaly maps and scores of the pictures in `rows`; both thresholds at 0.5.

    Maps and masks are at the model's size_px. Raises: ModelError, PictureError; PredictionError if there is no
    row.
    """
    refuse_empty(rows)
    model, described = load_detector(model_folder, device)
    return predictions_of(
        rows,
        described.config.size_px,
        lambda images: _forward(model, images, device, batch_size),
        described.pixel_threshold,
        described.image_threshold,
    )


def evaluate_detector(
    model_folder: Path, test_rows: pd.DataFrame, out: Path, *, device: str = "cpu", batch_size: int = 16
) -> pd.DataFrame:
    """Read the test set, once; write out/predictions.npz and out/metrics.parquet; return the table.

    Columns as metrics.metrics_table gives them, with the detector's name as model in front.
    """
    predictions = predict_detector(model_folder, test_rows, device=device, batch_size=batch_size)
    described = DetectionModel.model_validate_json((model_folder / "model.json").read_text())
    return write_evaluation(described.config.model, predictions, test_rows, out)


def _engine(
    config: DetectConfig,
    data: Any,
    scratch: str,
    device: str,
    progress: bool,
    after_step: Callable[[Any], None] | None,
) -> Any:
    """anomalib's Engine: on our device, silent, without checkpoints, in a folder that goes away.

    `after_step` is called with Lightning's trainer after each training step; None: it is not to train.
    """
    from anomalib.callbacks.checkpoint import ModelCheckpoint
    from anomalib.engine import Engine
    from lightning.pytorch.callbacks import LambdaCallback

    kind = torch.device(device)
    length: dict[str, int] = {}
    # Engine adds one that writes each epoch unless it is given one
    callbacks: list[Any] = [ModelCheckpoint(dirpath=scratch, save_top_k=0)]
    if after_step is not None:
        callbacks.append(LambdaCallback(on_train_batch_end=lambda trainer, *_: after_step(trainer)))
        length = {"limit_val_batches": 0}
        if config.model not in ("padim", "patchcore"):
            batches = len(data.train_dataloader())
            epochs = (
                min(ROUNDS, config.fixed_steps())
                if config.model in DRAWN
                else -(-config.fixed_steps() // batches)
            )
            length |= {"max_steps": config.fixed_steps(), "max_epochs": epochs}
    return Engine(
        default_root_dir=scratch,
        accelerator="gpu" if kind.type == "cuda" else kind.type,
        devices=[torch.cuda.current_device() if kind.index is None else kind.index]
        if kind.type == "cuda"
        else 1,
        logger=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        callbacks=callbacks,
        **length,
    )


def _image_auroc(model: Any, pictures: Pictures, device: str, batch_size: int) -> float:
    """Of a model in the midst of its training, which then goes on."""
    post_processor, model.post_processor = model.post_processor, None
    _, scores = _forward(model, pictures.images, device, batch_size)
    model.post_processor = post_processor
    model.train()
    return image_metrics(scores.numpy(), pictures.labels.numpy())["image_auroc"]


def _center_thresholds(model: Any, val: Pictures, device: str, batch_size: int) -> tuple[float, float]:
    """Move anomalib's thresholds, in place, to the middle of the gap they lie in; image and pixel, raw.

    anomalib takes the lowest score that still counts as anomalous; any cut down to the next lower score decides
    the validation pictures alike, and localization, too, takes the middle (metrics.best_threshold).
    """
    post_processor, model.post_processor = model.post_processor, None
    maps, scores = _forward(model, val.images, device, batch_size)
    model.post_processor = post_processor
    image = best_threshold(scores.numpy(), val.labels.numpy())
    pixel = best_threshold(maps.numpy(), val.masks[:, 0].numpy())
    post_processor._image_threshold.fill_(image)
    post_processor._pixel_threshold.fill_(pixel)
    return image, pixel


def _forward(model: Any, images: Tensor, device: str, batch_size: int) -> tuple[Tensor, Tensor]:
    """Maps (n, s, s) and scores (n,) of uint8 pictures (n, 3, s, s), float32 on the CPU."""
    model.to(device).eval()
    scores, maps = [], []
    with torch.inference_mode():
        for batch in images.split(batch_size):
            found = model(batch.to(device).float() / 255)
            scores.append(found.pred_score.float().reshape(len(batch)).cpu())
            maps.append(found.anomaly_map.float().reshape(len(batch), *batch.shape[-2:]).cpu())
    return torch.cat(maps), torch.cat(scores)


def _state(model: Any) -> dict[str, Tensor]:
    """Network and post-processor; not what Lightning holds besides (Dinomaly has its decoder in there twice)."""
    return {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part, module in (("model", model.model), ("post_processor", model.post_processor))
        for name, tensor in module.state_dict().items()
    }


@contextmanager
def quiet(progress: bool = False) -> Iterator[None]:
    """Without `progress`: no bars, tips, device tables or warnings of Lightning and anomalib."""
    import anomalib.engine  # noqa: F401  # loggers bind to standard error as they are imported: not to ours below

    loggers = [
        logging.getLogger(name)
        for name in (
            "anomalib",
            "lightning",
            "lightning_fabric",
            "pytorch_lightning",
            "lightning.pytorch",
            "lightning.fabric",
        )
    ]
    levels = [one.level for one in loggers]
    with warnings.catch_warnings(), nullcontext() if progress else redirect_stderr(io.StringIO()):
        if not progress:
            warnings.simplefilter("ignore")
            for one in loggers:
                one.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)
