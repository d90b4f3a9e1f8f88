"""Few-shot fine-tuning of the two branches on one defect type. Resume = the same call."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from dual_anodiff.adapter import AdapterCard, adapter_parameters, attach_adapter, save_adapter
from dual_anodiff.base import fingerprint, load_base
from dual_anodiff.config import FinetuneConfig, MaskConfig
from dual_anodiff.errors import InputError
from dual_anodiff.images import Shot, load_shot
from dual_anodiff.masks import fit_threshold
from dual_anodiff.objective import decode, encode, encode_prompts, seeded, two_branch_loss


@dataclass(frozen=True)
class CachedShots:
    """All that the base says of the few shots, computed once. Shape: mean, std (shots, flips, f, c, h, w)."""

    mean: Tensor
    std: Tensor

    def batch(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Draw pairs, each of a random shot and flip; one flip for image and part. Shape: ((b f), c, h, w)."""
        shots, flips = self.mean.shape[:2]
        shot = torch.randint(shots, (batch_size,), generator=generator)
        flip = torch.randint(flips, (batch_size,), generator=generator)
        mean = self.mean[shot, flip].flatten(0, 1)
        std = self.std[shot, flip].flatten(0, 1)
        return mean + std * torch.randn(mean.shape, generator=generator).to(mean.device)


@torch.no_grad()
def cache_shots(vae: Any, images: Tensor, masks: Tensor, *, horizontal: bool, vertical: bool) -> CachedShots:
    """Encode x and x·m of every shot in every flip that training may draw.

    Shape: images (n, 3, h, w) in [-1, 1]; masks (n, 1, h, w). The part's background is mid-grey, 0.
    """
    flips: list[list[int]] = [[]]
    flips += [[-1]] if horizontal else []
    flips += [[-2]] if vertical else []
    flips += [[-1, -2]] if horizontal and vertical else []
    means, stds = [], []
    for image, mask in zip(images, masks, strict=True):
        pair = torch.stack([image, image * mask])  # (f, 3, h, w)
        flipped = torch.cat([pair.flip(axes) if axes else pair for axes in flips])
        # A VAE does not commute with flips, so each flip is encoded, not flipped afterwards.
        mean, std = encode(vae, flipped.to(vae.device, vae.dtype))
        means.append(mean.float().unflatten(0, (len(flips), 2)))
        stds.append(std.float().unflatten(0, (len(flips), 2)))
    return CachedShots(torch.stack(means), torch.stack(stds))


@dataclass
class _State:
    """What a checkpoint holds besides the optimizer."""

    step: int
    ema: list[Tensor]


def train(
    shots: Sequence[Shot],
    config: FinetuneConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    checkpoint: Path | None = None,
    mask: MaskConfig | None = None,
    progress: bool = True,
) -> AdapterCard:
    """Fine-tune the base on the few shots; write adapter.safetensors, adapter.json and training.csv into `out`.

    `checkpoint` is a file: written every `checkpoint_every_steps`, continued from if it is there. On the CPU a
    resumed training gives the same adapter, bit for bit, as an uninterrupted one. Prompts are taken as they stand.

    Raises: InputError for no shots or an unusable picture or mask; BaseModelError if the base can't be loaded.
    """
    if not shots:
        raise InputError("finetune: no defect pictures with masks were given; at least one is needed")
    loaded = [load_shot(shot, config.size_px) for shot in shots]
    images, masks = torch.stack([i for i, _ in loaded]), torch.stack([m for _, m in loaded])

    pipe = load_base(StableDiffusionPipeline, config.base, revision=config.revision)
    pipe.to(device)
    vae, unet, text_encoder, tokenizer = pipe.vae, pipe.unet, pipe.text_encoder, pipe.tokenizer
    vae.float().requires_grad_(False)
    unet.float()
    text_encoder.float()
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)

    cached = cache_shots(vae, images, masks, horizontal=config.horizontal_flip, vertical=config.vertical_flip)
    threshold, mask_iou = _calibrate_masks(vae, images, masks, mask or MaskConfig())
    attach_adapter(unet, text_encoder, config.adapter, seed=seed)
    unet.to(device)
    text_encoder.to(device)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    unet.train()

    parameters = [p for _, p in adapter_parameters(unet, text_encoder)]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    state = _State(0, [p.detach().clone() for p in parameters])
    rows: list[tuple[int, float]] = []
    if checkpoint is not None and checkpoint.is_file():
        rows = _resume(checkpoint, parameters, optimizer, state, device)

    prompts = [config.image_prompt, config.anomaly_prompt]
    trains_text = config.adapter.text_encoder_lora_rank > 0
    fixed_text = None if trains_text else encode_prompts(tokenizer, text_encoder, prompts)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and device.startswith("cuda"))

    bar = tqdm(
        range(state.step, config.train_steps), desc="finetune", unit="step", disable=not progress,
        initial=state.step, total=config.train_steps, mininterval=1,
    )  # fmt: skip
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
        optimizer.zero_grad()
        total = 0.0
        for part in range(config.gradient_accumulation_steps):
            generator = seeded(seed, step, part)
            latents = cached.batch(config.batch_size, generator)
            noise = torch.randn(latents.shape, generator=generator).to(device)
            timesteps = torch.randint(
                scheduler.config.num_train_timesteps, (config.batch_size,), generator=generator
            )
            with torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=bf16):
                text = encode_prompts(tokenizer, text_encoder, prompts) if fixed_text is None else fixed_text
                loss = two_branch_loss(unet, scheduler, latents, text, timesteps.to(device), noise)
            (loss / config.gradient_accumulation_steps).backward()
            total += loss.item() / config.gradient_accumulation_steps
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        with torch.no_grad():
            # Young averages follow quickly: the usual (1 + t) / (10 + t) bound on the decay.
            decay = min(config.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(state.ema, [p.detach() for p in parameters], 1 - decay)
        state.step = step + 1
        rows.append((step + 1, total))
        bar.set_postfix(loss=f"{total:.4f}", refresh=False)
        if checkpoint is not None and state.step % config.checkpoint_every_steps == 0:
            _save_checkpoint(checkpoint, parameters, optimizer, state, rows)

    names = [name for name, _ in adapter_parameters(unet, text_encoder)]
    card = AdapterCard(
        base=config.base,
        base_fingerprint=fingerprint(config.base),
        revision=config.revision,
        image_prompt=config.image_prompt,
        anomaly_prompt=config.anomaly_prompt,
        size_px=config.size_px,
        adapter=config.adapter.model_dump(),
        train_steps=config.train_steps,
        num_shots=len(shots),
        mask_threshold=threshold,
        mask_iou=mask_iou,
        seed=seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    with (out / "training.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("step", "loss"), *rows])
    save_adapter(out, card, dict(zip(names, state.ema, strict=True)))
    return card


@torch.no_grad()
def _calibrate_masks(vae: Any, images: Tensor, masks: Tensor, config: MaskConfig) -> tuple[float, float]:
    """Fit the mask threshold on the few shots' parts, as the VAE gives them back."""
    parts = [
        decode(vae, encode(vae, (i * m)[None].to(vae.device))[0]) for i, m in zip(images, masks, strict=True)
    ]
    return fit_threshold(torch.cat(parts).cpu(), masks[:, 0] > 0.5, config.min_area_px)


def _save_checkpoint(
    path: Path,
    parameters: list[Any],
    optimizer: torch.optim.Optimizer,
    state: _State,
    rows: list[tuple[int, float]],
) -> None:
    """Write beside, then rename: a kill leaves the previous checkpoint whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".tmp")
    torch.save(
        {
            "step": state.step,
            "parameters": [p.detach() for p in parameters],
            "ema": state.ema,
            "optimizer": optimizer.state_dict(),
            "rows": rows,
        },
        staged,
    )
    staged.replace(path)


def _resume(
    path: Path, parameters: list[Any], optimizer: torch.optim.Optimizer, state: _State, device: str
) -> list[tuple[int, float]]:
    saved = torch.load(path, map_location=device, weights_only=True)
    with torch.no_grad():
        for parameter, value in zip(parameters, saved["parameters"], strict=True):
            parameter.copy_(value)
    optimizer.load_state_dict(saved["optimizer"])
    state.step, state.ema = saved["step"], saved["ema"]
    return [(int(s), float(v)) for s, v in saved["rows"]]
