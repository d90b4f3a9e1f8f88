"""Backgrounds of pairs: which, their latents, and their passes through the UNet in training and in sampling."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from dual_anodiff.adapter_card import AdapterCard, adapter_config
from dual_anodiff.attention import BackgroundMemory
from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.images import Background, load_background
from dual_anodiff.objective import encode
from dual_anodiff.randomness import Stream, seeded


def record_background(unet: Any, latents: Tensor, timesteps: Tensor, text: Tensor) -> BackgroundMemory:
    """Send backgrounds through branch 0 and keep what they add to its keys and values, layer by layer.

    Shape: latents (b, c, h, w), as noisy as the timesteps say; timesteps (b,) or one; text (b, tokens, d).
    """
    memory: BackgroundMemory = {}
    unet(latents, timesteps, encoder_hidden_states=text, cross_attention_kwargs={"record": memory})
    return memory


def recall(
    unet: Any,
    scheduler: Any,
    latents: Tensor,
    text: Tensor,
    generators: Sequence[torch.Generator],
    form: Literal["exact", "fast"],
) -> Callable[[Tensor], BackgroundMemory]:
    """What the backgrounds add at a timestep of sampling, one background a row.

    exact: noised to that timestep, with new noise at each (as the reference), then a pass of its own
    fast:  clean and at timestep 0, in one pass for all steps

    Shape: latents (rows, c, h, w) clean; text (rows, tokens, d). With guidance rows are twice as many as generators,
    the half without prompt first, and the halves share their noise.
    """
    dtype = unet.dtype
    if form == "fast":
        memory = record_background(
            unet, latents.to(dtype), torch.zeros((), dtype=torch.long, device=latents.device), text
        )
        return lambda t: memory

    def at(t: Tensor) -> BackgroundMemory:
        noise = torch.stack([torch.randn(latents.shape[1:], generator=g) for g in generators])
        noise = noise.to(latents.device).repeat(len(latents) // len(generators), 1, 1, 1)
        # Not by `scheduler.add_noise`, which for Euler gives latents of another scale than the UNet takes.
        keep = scheduler.alphas_cumprod[int(t.round())].to(latents.device)
        return record_background(unet, (keep.sqrt() * latents + (1 - keep).sqrt() * noise).to(dtype), t, text)

    return at


def encode_backgrounds(vae: Any, backgrounds: Sequence[Background] | Tensor, size_px: int) -> Tensor:
    """Latents by the VAE's mean, which leaves nothing to chance. Shape: (b, c, h, w) float32.

    Raises: InputError if a file can't be used.
    """
    if not isinstance(backgrounds, Tensor):
        backgrounds = torch.stack([load_background(background, size_px) for background in backgrounds])
    return encode(vae, backgrounds.to(vae.device, vae.dtype))[0].float()


def pick_background(backgrounds: Sequence[Background], seed: int) -> Background | None:
    """The background of the pair of this seed; None if there is nothing to choose from."""
    if not backgrounds:
        return None
    return backgrounds[int(torch.randint(len(backgrounds), (), generator=seeded(seed, Stream.BACKGROUND)))]


def check_backgrounds(card: AdapterCard, num_pairs: int, given: int) -> None:
    """Whether the backgrounds given are what the adapter needs: one a pair, or none.

    Raises: AdapterError if it needs some and there is none; InputError if it takes none, or the numbers differ.
    """
    kind = adapter_config(card).background
    if kind == "off" and given:
        raise InputError(
            "backgrounds: the adapter was trained without (adapter.background = 'off'); give none, or fine-tune with it"
        )
    if kind != "off" and not given:
        raise AdapterError(
            f"the adapter was trained with backgrounds (adapter.background = '{kind}'): give `backgrounds`, normal "
            "pictures with their object masks (anodiff generate --backgrounds FOLDER), or fine-tune without"
        )
    if given not in (0, num_pairs):
        raise InputError(f"backgrounds: {given} were given for {num_pairs} pairs; give one for each")
