"""The training objective: plain MSE against the scheduler's own target, of pictures or of both branches."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.attention import BackgroundMemory


def encode(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of the latents, scaled as the UNet expects; a VAE without a distribution has spread 0.

    Shape: (b, 3, h, w) in [-1, 1] → two of (b, c, h/8, w/8).
    """
    encoded = vae.encode(images)
    scale = vae.config.scaling_factor
    if hasattr(encoded, "latents"):  # AutoencoderTiny
        return encoded.latents * scale, torch.zeros_like(encoded.latents)
    return encoded.latent_dist.mean * scale, encoded.latent_dist.std * scale


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Pictures of latents. Shape: (b, c, h/8, w/8) → (b, 3, h, w) in [-1, 1]."""
    images: Tensor = vae.decode(latents / vae.config.scaling_factor).sample
    return images.clamp(-1, 1)


def encode_prompts(tokenizer: Any, text_encoder: Any, prompts: list[str]) -> Tensor:
    """Text features as SD 1.x/2.x takes them. Shape: (len(prompts), tokens, d)."""
    ids = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    features: Tensor = text_encoder(ids.to(text_encoder.device)).last_hidden_state
    return features


def target(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the UNet is asked for: the noise, the velocity or the clean latents, by `prediction_type`."""
    match scheduler.config.prediction_type:
        case "epsilon":
            return noise
        case "v_prediction":
            velocity: Tensor = scheduler.get_velocity(latents, noise, timesteps)
            return velocity
        case "sample":
            return latents
        case other:
            raise ValueError(
                f"scheduler.prediction_type: '{other}' is unknown; expected epsilon, v_prediction or sample"
            )


def denoising_loss(
    unet: Any,
    scheduler: Any,
    latents: Tensor,
    text: Tensor,
    timesteps: Tensor,
    noise: Tensor,
    background: BackgroundMemory | None = None,
) -> Tensor:
    """MSE of what the UNet says of noisy latents against the scheduler's target.

    Shape: latents, noise (b, c, h, w); text (b, tokens, d); timesteps (b,).
    """
    noisy = scheduler.add_noise(latents, noise, timesteps)
    extra = None if background is None else {"background": background}
    predicted = unet(noisy, timesteps, encoder_hidden_states=text, cross_attention_kwargs=extra).sample
    return F.mse_loss(predicted.float(), target(scheduler, latents, noise, timesteps).float())


def two_branch_loss(
    unet: Any,
    scheduler: Any,
    latents: Tensor,
    text: Tensor,
    timesteps: Tensor,
    noise: Tensor,
    background: BackgroundMemory | None = None,
) -> Tensor:
    """MSE over both branches, which share their timestep but not their noise. Source: DualAnoDiff, Eq. 3.

    `background` holds what `background.record_background` made of the b pairs' backgrounds.

    Shape: latents, noise ((b f), c, h, w); text (f, tokens, d); timesteps (b,).
    """
    context = text.repeat(len(latents) // 2, 1, 1)
    return denoising_loss(
        unet, scheduler, latents, context, timesteps.repeat_interleave(2), noise, background
    )


def uses_bf16(precision: str, device: str) -> bool:
    """Whether a training computes in bf16: where it is asked for, or `auto` on CUDA."""
    return precision == "bf16" or (precision == "auto" and device.startswith("cuda"))
