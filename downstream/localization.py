"""Train the U-Net that marks defects; choose checkpoint and thresholds on validation rows."""

import csv
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from downstream.batches import draw_batches
from downstream.config import LocalizeConfig
from downstream.encoder import EncoderSpec, seeded_unet, train_mode
from downstream.errors import TrainingSetError
from downstream.images import augment, load_pictures, normalize
from downstream.metrics import best_threshold, pixel_ap
from downstream.objective import localization_loss
from downstream.prediction import LocalizationModel, anomaly_maps, autocast, image_scores


def train_localization(
    train: pd.DataFrame,
    val: pd.DataFrame,
    config: LocalizeConfig,
    out: Path,
    *,
    encoder: Path | str | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Train on `train`, select on `val`, write out/model.safetensors, out/model.json and out/training.csv.

    Rows as training_sets.training_set gives them. `encoder` is a folder or timm name instead of
    config.encoder (where "bundled" lies is the caller's knowledge). No test picture is seen here. The same
    seed gives the same weights on the CPU, bit for bit, for one number of threads. Raises: EncoderError,
    PictureError, TrainingSetError.
    """
    from safetensors.torch import save_file

    if not (val["label_index"] == 1).any() or not (val["label_index"] == 0).any():
        raise TrainingSetError(
            "validation rows must hold normal and anomalous pictures: thresholds lie between them."
        )
    network, spec = seeded_unet(
        seed, encoder or config.encoder, config.encoder_weights, config.decoder_channels
    )
    # channels_last: 0.25 instead of 0.36 s a step of 8 pictures of 128 px on one core
    network = network.to(device).to(memory_format=torch.channels_last)
    images, masks = _pictures(train, config.size_px)
    val_images, val_masks = _pictures(val, config.size_px)
    val_truth = val_masks[:, 0].to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
    loss_of = localization_loss(config)
    # Evaluated and kept instead of the raw weights where asked for; its buffers (batch norm) are averaged
    # too.
    average = None
    if config.ema_decay is not None:
        average = AveragedModel(
            network, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True
        )
    kept: nn.Module = network if average is None else average.module
    batches = draw_batches(train["source"].tolist(), config, seed)
    generator = torch.Generator().manual_seed(seed)

    log: list[tuple[int, float, float, float | str]] = []
    best: tuple[float, int, dict[str, Tensor]] | None = None
    train_mode(network, spec)
    progress = tqdm(range(1, config.train_steps + 1), desc="localize", unit="step", disable=None, leave=False)
    for step in progress:
        chosen = torch.from_numpy(next(batches))
        x, y = augment(images[chosen].float() / 255, masks[chosen].float(), config.augment, generator)
        x = normalize(x.to(device), spec.mean, spec.std).contiguous(memory_format=torch.channels_last)
        with autocast(x.device, config.precision):
            logits = network(x)
        loss = loss_of(logits, y.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
        if average is not None:
            average.update_parameters(network)
        score: float | str = ""
        if step % config.evaluate_every_steps == 0 or step == config.train_steps:
            score = _val_pixel_ap(kept, val_images, val_truth, spec, config)
            if best is None or config.select == "last" or score > best[0]:
                best = (
                    score,
                    step,
                    {name: tensor.detach().cpu().clone() for name, tensor in kept.state_dict().items()},
                )
            train_mode(network, spec)
            progress.set_postfix(loss=f"{loss.item():.3f}", val_pixel_ap=f"{score:.3f}")
        log.append((step, loss.item(), rate, score))
        if not math.isfinite(log[-1][1]):
            raise TrainingSetError(
                f"training diverged at step {step} (loss {log[-1][1]}): lower localize.learning_rate."
            )

    assert best is not None  # the last step is always evaluated
    val_score, selected_step, state = best
    kept.load_state_dict(state)
    maps = anomaly_maps(kept.eval(), val_images, spec, precision=config.precision)
    model = LocalizationModel(
        encoder=spec,
        config=config,
        seed=seed,
        selected_step=selected_step,
        val_pixel_ap=val_score,
        pixel_threshold=best_threshold(maps.cpu().numpy(), val_masks[:, 0].numpy()),
        image_threshold=best_threshold(
            image_scores(maps).cpu().numpy(), val["label_index"].to_numpy(dtype=np.int64)
        ),
        n_train=dict(Counter(train["source"].tolist())),
        n_val=dict(Counter(val["source"].tolist())),
    )
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, out / "model.safetensors")
    (out / "model.json").write_text(model.model_dump_json(indent=2) + "\n")
    with (out / "training.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "learning_rate", "val_pixel_ap"])
        writer.writerows(log)


def _pictures(rows: pd.DataFrame, size_px: int) -> tuple[Tensor, Tensor]:
    """All pictures and masks of the rows in memory: decoding for each batch would cost more than a step."""
    return load_pictures(
        rows["image_path"].tolist(), rows["mask_path"].tolist(), rows["label_index"].tolist(), size_px
    )


def _rate(step: int, config: LocalizeConfig) -> float:
    """Share of the learning rate: linear warm-up, then a half cosine down to 0 after the last step."""
    warmup = round(config.warmup_share * config.train_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, config.train_steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * done))


def _val_pixel_ap(
    network: nn.Module, images: Tensor, truth: Tensor, spec: EncoderSpec, config: LocalizeConfig
) -> float:
    """Pixel AP on the validation pictures. Leaves the network in evaluation mode."""
    return pixel_ap(anomaly_maps(network.eval(), images, spec, precision=config.precision), truth)
