"""Train the U-Net that marks defects; choose checkpoint and thresholds on validation rows."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from downstream.augmentation import augment
from downstream.batches import draw_batches
from downstream.config import LocalizeConfig
from downstream.encoder import seeded_unet
from downstream.figures.metrics import best_threshold, pixel_ap
from downstream.images import load_rows
from downstream.loop import train_network, write_trained
from downstream.network import logits_of
from downstream.objective import localization_loss
from downstream.prediction import LocalizationModel, anomaly_maps, image_scores
from downstream.training_curve import Curve
from downstream.training_sets import refuse_one_sided


def train_localization(
    train: pd.DataFrame,  # rows as training_sets.training_set gives them
    val: pd.DataFrame,  # likewise; of both good and defective pictures
    config: LocalizeConfig,
    out: Path,
    *,
    encoder: Path
    | str
    | None = None,  # folder or timm name; None: config.encoder, which is not "imagenet" then
    device: str = "cpu",
    seed: int = 0,
    on_look: Callable[[nn.Module], None] | None = None,  # given the network at each look at validation
    curve: Curve | None = None,  # filled with pixel AP on val over the steps; may end the training early
) -> None:
    """Train on `train`, select on `val`, write out/model.safetensors, out/model.json and out/training.csv.

    No test picture is seen here. The same seed gives the same weights on the CPU, bit for bit, for one number of threads.
    Raises: EncoderError, PictureError, TrainingSetError.
    """
    refuse_one_sided(val)
    batches = draw_batches(train["source"].tolist(), config, seed)
    network, spec = seeded_unet(
        seed, encoder or config.encoder, config.encoder_weights, config.decoder_channels
    )
    # channels_last: 0.25 instead of 0.36 s a step of 8 pictures of 128 px on one core
    network = network.to(device).to(memory_format=torch.channels_last)
    # All in memory: decoding for each batch would cost more than a step.
    images, masks = load_rows(train, config.size_px)
    val_images, val_masks = load_rows(val, config.size_px)
    val_truth = val_masks[:, 0].to(device)
    loss_of = localization_loss(config)
    generator = torch.Generator().manual_seed(seed)

    def step_loss() -> Tensor:
        chosen = torch.from_numpy(next(batches))
        x, y = augment(
            images[chosen].to(device).float() / 255,
            masks[chosen].to(device).float(),
            config.augment,
            generator,
        )
        return loss_of(logits_of(network, x, spec, config.precision), y)

    def val_pixel_ap(kept: nn.Module) -> float:
        if on_look is not None:
            on_look(kept)
        return pixel_ap(anomaly_maps(kept, val_images, spec, precision=config.precision), val_truth)

    trained = train_network(
        network, spec, config, step_loss, val_pixel_ap, seed=seed, watch=True, curve=curve
    )
    assert trained.val_score is not None
    maps = anomaly_maps(trained.network, val_images, spec, precision=config.precision)
    model = LocalizationModel(
        encoder=spec,
        config=config,
        seed=seed,
        selected_step=trained.selected_step,
        val_pixel_ap=trained.val_score,
        pixel_threshold=best_threshold(maps.cpu().numpy(), val_masks[:, 0].numpy()),
        image_threshold=best_threshold(
            image_scores(maps).cpu().numpy(), val["label_index"].to_numpy(dtype=np.int64)
        ),
        n_train=dict(Counter(train["source"].tolist())),
        n_val=dict(Counter(val["source"].tolist())),
    )
    write_trained(trained, model, "val_pixel_ap", out)
