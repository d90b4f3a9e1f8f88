"""Train the classifier of defect types (`good` among them), and read the test set once."""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from downstream.class_predictions import (
    ClassPredictions,
    class_metrics_table,
    confusion_table,
    write_class_predictions,
)
from downstream.classifier import (
    ClassificationModel,
    build_classifier,
    class_names,
    class_probabilities,
    draw_class_batches,
    load_classifier,
    load_images,
)
from downstream.config import ClassifyConfig
from downstream.encoder import EncoderSpec, train_mode
from downstream.errors import PredictionError, TrainingSetError
from downstream.images import augment, normalize
from downstream.prediction import autocast
from downstream.training_sets import TrainingSet


def train_classifier(
    rows: TrainingSet,
    config: ClassifyConfig,
    out: Path,
    *,
    classes: Sequence[str] | None = None,
    encoder: Path | str | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Train on rows.train, write out/model.safetensors, out/model.json and out/training.csv.

    `classes`: defect types that must be learnt, so that one without a training picture is noticed; without them
    those of the training rows. rows.val selects where config.select says so and is only reported otherwise.
    `encoder` is a folder or timm name instead of config.encoder (where "bundled" lies is the caller's
    knowledge). No test picture is seen here. The same seed gives the same weights on the CPU, bit for bit, for
    one number of threads. Raises: NotClassifiableError, EncoderError, PictureError, TrainingSetError.
    """
    from safetensors.torch import save_file

    names = class_names(rows.train, classes)
    val = rows.val[rows.val["label"].isin(names)]
    if config.select == "validation" and val.empty:
        raise TrainingSetError("classify.select: validation, but there are no validation rows. Use `last`.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, spec = build_classifier(len(names), encoder or config.encoder, config.encoder_weights)
    network = network.to(device).to(memory_format=torch.channels_last)
    images, targets = load_images(rows.train, config.size_px), _targets(rows.train, names)
    val_images, val_targets = load_images(val, config.size_px), _targets(val, names)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
    average = None
    if config.ema_decay is not None:
        average = AveragedModel(
            network, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True
        )
    kept: nn.Module = network if average is None else average.module
    batches = draw_class_batches(rows.train["label"].tolist(), rows.train["source"].tolist(), config, seed)
    generator = torch.Generator().manual_seed(seed)
    # What timm draws in training mode (drop path, dropout) must not depend on what ran before.
    log: list[tuple[int, float, float, float | str]] = []
    best: tuple[float | None, int, dict[str, Tensor]] | None = None
    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        train_mode(network, spec)
        progress = tqdm(
            range(1, config.train_steps + 1), desc="classify", unit="step", disable=None, leave=False
        )
        for step in progress:
            chosen = torch.from_numpy(next(batches))
            unused_masks = torch.zeros((len(chosen), 1, 1, 1))
            x, _ = augment(images[chosen].float() / 255, unused_masks, config.augment, generator)
            x = normalize(x.to(device), spec.mean, spec.std).contiguous(memory_format=torch.channels_last)
            with autocast(x.device, config.precision):
                logits = network(x)
            loss = F.cross_entropy(
                logits.float(), targets[chosen].to(device), label_smoothing=config.label_smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
            rate = optimizer.param_groups[0]["lr"]
            optimizer.step()
            schedule.step()
            if average is not None:
                average.update_parameters(network)
            score: float | None = None
            last = step == config.train_steps
            if last or (config.select == "validation" and step % config.evaluate_every_steps == 0):
                score = _val_balanced_accuracy(kept, val_images, val_targets, spec, config)
                if best is None or config.select == "last" or (score or 0.0) > (best[0] or 0.0):
                    state = {
                        name: tensor.detach().cpu().clone() for name, tensor in kept.state_dict().items()
                    }
                    best = (score, step, state)
                train_mode(network, spec)
            log.append((step, loss.item(), rate, "" if score is None else score))
            if not math.isfinite(log[-1][1]):
                raise TrainingSetError(
                    f"training diverged at step {step} (loss {log[-1][1]}): lower classify.learning_rate."
                )

    assert best is not None  # the last step is always evaluated
    val_score, selected_step, state = best
    model = ClassificationModel(
        encoder=spec,
        config=config,
        classes=names,
        seed=seed,
        selected_step=selected_step,
        val_balanced_accuracy=val_score,
        n_train=dict(Counter(rows.train["label"].tolist())),
        n_val=dict(Counter(val["label"].tolist())),
    )
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, out / "model.safetensors")
    (out / "model.json").write_text(model.model_dump_json(indent=2) + "\n")
    with (out / "training.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "learning_rate", "val_balanced_accuracy"])
        writer.writerows(log)


def predict_classes(
    model_folder: Path, rows: pd.DataFrame, *, device: str = "cpu", batch_size: int = 32
) -> ClassPredictions:
    """Class probabilities of the pictures in `rows` (image_path, label).

    Raises: ModelError, PictureError; PredictionError if there is no row or a label that the model never saw.
    """
    if rows.empty:
        raise PredictionError("no rows to predict: the table of pictures is empty.")
    network, model = load_classifier(model_folder, device)
    unknown = sorted(set(rows["label"]) - set(model.classes))
    if unknown:
        raise PredictionError(
            f"{model_folder}: was not trained on {', '.join(unknown)}, which test pictures have. Give it training "
            "pictures (`classes` of train_classifier notices their lack) or leave these rows out."
        )
    images = load_images(rows, model.config.size_px)
    return ClassPredictions(
        image_path=rows["image_path"].to_numpy(dtype=np.str_),
        label=rows["label"].to_numpy(dtype=np.str_),
        classes=np.array(model.classes),
        probability=class_probabilities(
            network, images, model.encoder, precision=model.config.precision, batch_size=batch_size
        ),
    )


def evaluate_classifier(
    model_folder: Path, test_rows: pd.DataFrame, out: Path, *, device: str = "cpu", batch_size: int = 32
) -> pd.DataFrame:
    """Read the test set, once; write out/predictions.npz, metrics.parquet and confusion.parquet; return metrics.

    Columns as class_predictions.class_metrics_table gives them, with model "classification" in front.
    """
    out.mkdir(parents=True, exist_ok=True)
    predictions = predict_classes(model_folder, test_rows, device=device, batch_size=batch_size)
    write_class_predictions(predictions, out / "predictions.npz")
    confusion_table(predictions).to_parquet(out / "confusion.parquet", index=False)
    table = class_metrics_table(predictions)
    table.insert(0, "model", "classification")
    table.to_parquet(out / "metrics.parquet", index=False)
    return table


def _targets(rows: pd.DataFrame, names: Sequence[str]) -> Tensor:
    """Class numbers. Shape: (n,)."""
    return torch.tensor([names.index(label) for label in rows["label"]], dtype=torch.long)


def _rate(step: int, config: ClassifyConfig) -> float:
    """Share of the learning rate: linear warm-up, then a half cosine down to 0 after the last step."""
    warmup = round(config.warmup_share * config.train_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, config.train_steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * done))


def _val_balanced_accuracy(
    network: nn.Module, images: Tensor, targets: Tensor, spec: EncoderSpec, config: ClassifyConfig
) -> float | None:
    """Mean recall over the classes that validation has; None without pictures. Leaves evaluation mode on."""
    if not len(images):
        return None
    guess = class_probabilities(network.eval(), images, spec, precision=config.precision).argmax(1)
    truth = targets.numpy()
    return float(np.mean([(guess[truth == each] == each).mean() for each in np.unique(truth)]))
