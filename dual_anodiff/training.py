"""Few-shot fine-tuning of the two branches on one defect type. Resume = the same call."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import Tensor

from dual_anodiff.adapter import adapter_parameters, attach_adapter, load_initial, save_adapter
from dual_anodiff.adapter_card import AdapterCard
from dual_anodiff.background import record_background
from dual_anodiff.base import fingerprint, load_base
from dual_anodiff.config import FinetuneConfig, MaskConfig
from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.images import Background, Shot, load_background, load_shot
from dual_anodiff.initial import initial_adapter
from dual_anodiff.latents import CachedLatents, cache_latents
from dual_anodiff.loop import Schedule, optimize, write_losses
from dual_anodiff.masks import fit_threshold
from dual_anodiff.normals import WEIGHTS as NORMALS
from dual_anodiff.normals import fuse_normals, read_normals_card
from dual_anodiff.objective import decode, encode, encode_prompts, two_branch_loss, uses_bf16
from dual_anodiff.randomness import seeded
from dual_anodiff.regions import trace_shots


def cache_shots(
    vae: Any,
    images: Tensor,
    masks: Tensor,
    backgrounds: Tensor | None = None,
    *,
    horizontal: bool,
    vertical: bool,
) -> CachedLatents:
    """Encode x and x·m of every shot, and its background where one is given, one flip for all; what is cut is 0.

    Shape: images, backgrounds (n, 3, h, w) in [-1, 1]; masks (n, 1, h, w).
    """
    groups = [images, images * masks] if backgrounds is None else [images, images * masks, backgrounds]
    return cache_latents(vae, torch.stack(groups, dim=1), horizontal=horizontal, vertical=vertical)


def train(
    shots: Sequence[Shot],
    config: FinetuneConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    objects: Sequence[Path] | None = None,
    normals: Path | None = None,
    checkpoint: Path | None = None,
    mask: MaskConfig | None = None,
    progress: bool = True,
) -> AdapterCard:
    """Fine-tune the base on the few shots; write adapter.safetensors, adapter.json and training.csv into `out`.

    `checkpoint` is a file: written every `checkpoint_every_steps`, continued from if it is there. On the CPU a
    resumed training gives the same adapter, bit for bit, as an uninterrupted one. Prompts are taken as they stand.
    `normals` is a folder that `adapt` wrote: the base learns them first, and `out` gets a copy.
    `objects` are masks of the objects in the shots, one each, for an adapter with a background.

    Raises: InputError for no shots or objects, or an unusable picture or mask; BaseModelError if the base can't be loaded;
    AdapterError if `normals` or the initial adapter can't be read or belongs to another base.
    """
    if not shots:
        raise InputError("finetune: no defect pictures with masks were given; at least one is needed")
    loaded = [load_shot(shot, config.size_px) for shot in shots]
    images, masks = torch.stack([i for i, _ in loaded]), torch.stack([m for _, m in loaded])
    backgrounds = _load_backgrounds(shots, objects, config)

    pipe = load_base(StableDiffusionPipeline, config.base, revision=config.revision)
    pipe.to(device)
    vae, unet, text_encoder, tokenizer = pipe.vae, pipe.unet, pipe.text_encoder, pipe.tokenizer
    vae.float().requires_grad_(False)
    unet.float()
    text_encoder.float()
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    fused = None if normals is None else _learn_normals(unet, normals, config.base)

    cached = cache_shots(
        vae, images, masks, backgrounds, horizontal=config.horizontal_flip, vertical=config.vertical_flip
    )
    threshold, mask_iou = _calibrate_masks(vae, images, masks, mask or MaskConfig())
    attach_adapter(unet, text_encoder, config.adapter, seed=seed)
    initial = initial_adapter(config)
    if initial is not None:
        load_initial(initial, unet, text_encoder)
    unet.to(device)
    text_encoder.to(device)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    unet.train()

    prompts = [config.image_prompt, config.anomaly_prompt]
    trains_text = config.adapter.text_encoder_lora_rank > 0
    fixed_text = None if trains_text else encode_prompts(tokenizer, text_encoder, prompts)
    bf16, b = uses_bf16(config.precision, device), config.batch_size

    def loss(step: int, part: int) -> Tensor:
        generator = seeded(seed, step, part)
        groups = cached.batch(b, generator)  # ((b f), c, h, w), f = 2, or 3 with the background
        all_noise = torch.randn(groups.shape, generator=generator).to(device)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (b,), generator=generator).to(device)
        latents, noise = (x.unflatten(0, (b, -1))[:, :2].flatten(0, 1) for x in (groups, all_noise))
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=bf16):
            text = encode_prompts(tokenizer, text_encoder, prompts) if fixed_text is None else fixed_text
            memory = None
            if backgrounds is not None:
                seen, t = groups[2::3], timesteps
                if config.adapter.background_from == "clean":
                    t = torch.zeros_like(t)
                else:
                    seen = scheduler.add_noise(seen, all_noise[2::3], t)
                memory = record_background(unet, seen, t, text[:1].expand(b, -1, -1))
            return two_branch_loss(unet, scheduler, latents, text, timesteps, noise, memory)

    trained = optimize(
        [p for _, p in adapter_parameters(unet, text_encoder)],
        loss,
        _schedule(config),
        name="finetune",
        device=device,
        checkpoint=checkpoint,
        keep=config.keep_checkpoints,
        progress=progress,
    )
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
        normals=fused,
        shots=trace_shots(cached.mean[:, 0, :2], masks[:, 0] > 0.5),
    )
    write_losses(out / "training.csv", trained.rows)
    if normals is not None:
        shutil.copyfile(normals / NORMALS, out / NORMALS)
    kept = {step: dict(zip(names, then, strict=True)) for step, then in trained.kept.items()}
    save_adapter(out, card, dict(zip(names, trained.ema, strict=True)), kept)
    return card


def _load_backgrounds(
    shots: Sequence[Shot], objects: Sequence[Path] | None, config: FinetuneConfig
) -> Tensor | None:
    """The shots with their objects cut out, None for an adapter without a background. Shape: (n, 3, s, s)."""
    given = 0 if objects is None else len(objects)
    if config.adapter.background == "off":
        if given:
            raise InputError("objects: adapter.background is 'off'; give no object masks, or set it")
        return None
    if objects is None or given != len(shots):
        raise InputError(
            f"objects: {given} object masks were given for {len(shots)} shots; adapter.background = "
            f"'{config.adapter.background}' needs one for each, or set it to 'off'"
        )
    cut = [Background(shot.image, mask) for shot, mask in zip(shots, objects, strict=True)]
    return torch.stack([load_background(background, config.size_px) for background in cut])


def _learn_normals(unet: Any, normals: Path, base: str) -> str:
    """Fuse what `adapt` wrote into the base that it was made for; the digest for the adapter's card."""
    if read_normals_card(normals).base_fingerprint != fingerprint(base):
        raise AdapterError(f"{normals}: was made for another base than '{base}'; adapt to the normals again")
    return fuse_normals(unet, normals)


def _schedule(config: FinetuneConfig) -> Schedule:
    return Schedule(**{field.name: getattr(config, field.name) for field in fields(Schedule)})


@torch.no_grad()
def _calibrate_masks(vae: Any, images: Tensor, masks: Tensor, config: MaskConfig) -> tuple[float, float]:
    """Fit the mask threshold on the few shots' parts, as the VAE gives them back."""
    parts = [
        decode(vae, encode(vae, (i * m)[None].to(vae.device))[0]) for i, m in zip(images, masks, strict=True)
    ]
    return fit_threshold(torch.cat(parts).cpu(), masks[:, 0] > 0.5, config.min_area_px)
