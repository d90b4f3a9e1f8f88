"""Train the classifier of defect types (`good` among them), and read the test set once."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from downstream.augmentation import augment
from downstream.batches import draw_class_batches
from downstream.classifier import (
    ClassificationModel,
    build_classifier,
    class_names,
    class_probabilities,
    load_classifier,
    load_images,
)
from downstream.config import ClassifyConfig
from downstream.errors import PredictionError, TrainingSetError
from downstream.figures.class_predictions import (
    ClassPredictions,
    class_metrics_table,
    confusion_table,
    write_class_predictions,
)
from downstream.loop import train_network, write_trained
from downstream.network import logits_of
from downstream.prediction import refuse_empty
from downstream.training_curve import Curve
from downstream.training_sets import TrainingSet


def train_classifier(
    rows: TrainingSet,
    config: ClassifyConfig,
    out: Path,
    *,
    classes: Sequence[str]
    | None = None,  # defect types that must be learnt; None: those of the training rows
    encoder: Path
    | str
    | None = None,  # folder or timm name; None: config.encoder, which is not "imagenet" then
    device: str = "cpu",
    seed: int = 0,
    on_look: Callable[[nn.Module], None] | None = None,  # given the network every config.evaluate_every_steps
    curve: Curve | None = None,  # filled with balanced accuracy on rows.val; may end the training early
) -> None:
    """Train on rows.train, write out/model.safetensors, out/model.json and out/training.csv.

    With `classes` a type without a training picture is noticed. rows.val selects where config.select says so and is only
    reported otherwise. No test picture is seen here. The same seed gives the same weights on the CPU, bit for bit, for one
    number of threads.
    Raises: NotClassifiableError, EncoderError, PictureError, TrainingSetError.
    """
    names = class_names(rows.train, classes)
    val = rows.val[rows.val["label"].isin(names)]
    if config.select == "validation" and val.empty:
        raise TrainingSetError("classify.select: validation, but there are no validation rows. Use `last`.")
    batches = draw_class_batches(rows.train["label"].tolist(), rows.train["source"].tolist(), config, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, spec = build_classifier(len(names), encoder or config.encoder, config.encoder_weights)
    network = network.to(device).to(memory_format=torch.channels_last)
    images, targets = load_images(rows.train, config.size_px), _targets(rows.train, names)
    val_images, truth = load_images(val, config.size_px), _targets(val, names).numpy()
    no_masks = torch.zeros((config.batch_size, 1, config.size_px, config.size_px), device=device)
    generator = torch.Generator().manual_seed(seed)

    def step_loss() -> Tensor:
        chosen = torch.from_numpy(next(batches))
        x, _ = augment(images[chosen].to(device).float() / 255, no_masks, config.augment, generator)
        logits = logits_of(network, x, spec, config.precision)
        return F.cross_entropy(logits, targets[chosen].to(device), label_smoothing=config.label_smoothing)

    def val_balanced_accuracy(kept: nn.Module) -> float | None:
        """Mean recall over the classes that validation has."""
        if on_look is not None:
            on_look(kept)
        if val.empty:
            return None
        guess = class_probabilities(kept, val_images, spec, precision=config.precision).argmax(1)
        return float(np.mean([(guess[truth == each] == each).mean() for each in np.unique(truth)]))

    watch = on_look is not None
    trained = train_network(
        network, spec, config, step_loss, val_balanced_accuracy, seed=seed, watch=watch, curve=curve
    )
    model = ClassificationModel(
        encoder=spec,
        config=config,
        classes=names,
        seed=seed,
        selected_step=trained.selected_step,
        val_balanced_accuracy=trained.val_score,
        n_train=dict(Counter(rows.train["label"].tolist())),
        n_val=dict(Counter(val["label"].tolist())),
    )
    write_trained(trained, model, "val_balanced_accuracy", out)


def predict_classes(
    model_folder: Path, rows: pd.DataFrame, *, device: str = "cpu", batch_size: int = 32
) -> ClassPredictions:
    """Class probabilities of the pictures in `rows` (image_path, label).

    Raises: ModelError, PictureError; PredictionError if there is no row or a label that the model never saw.
    """
    refuse_empty(rows)
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
