"""How much the two branches tell each other: what a branch's loss gains from its own partner over another's."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dual_anodiff.objective import target
from dual_anodiff.randomness import seeded

TIMESTEPS = (100, 300, 500, 700, 900)  # thousandths of the scheduler's


@dataclass(frozen=True)
class Coupling:
    """Losses of the two branches on pairs, and the share of them that the own partner saves; all means over timesteps.

    A gain of 0 says that a branch does not look at the other: mask and picture then agree by chance.
    """

    image_loss: float
    part_loss: float
    image_gain: float
    part_gain: float


@torch.no_grad()
def coupling(unet: Any, scheduler: Any, latents: Tensor, text: Tensor, *, seed: int = 0) -> Coupling:
    """Measure it on pairs that the adapter has not seen. Shape: latents (n ≥ 2, f=2, c, h, w), text (f, tokens, d).

    `scheduler` is one of training, as `DDPMScheduler`. The partner of comparison is the next pair's, under the same noise.
    Raises: ValueError for fewer than two pairs.
    """
    if len(latents) < 2:
        raise ValueError(f"coupling: {len(latents)} pair was given; two at least are compared")
    device = latents.device
    own_losses, other_losses = [], []
    for number, share in enumerate(TIMESTEPS):
        noise = torch.randn(latents.shape, generator=seeded(seed, number)).to(device)
        at = torch.tensor(share * scheduler.config.num_train_timesteps // 1000, device=device)
        own_losses.append(_losses(unet, scheduler, latents, noise, text, at))
        swapped = latents.clone(), latents.clone()
        moved = noise.clone(), noise.clone()
        for branch in (0, 1):
            # Branch stays, its partner is the next pair's.
            swapped[branch][:, 1 - branch] = latents[:, 1 - branch].roll(-1, 0)
            moved[branch][:, 1 - branch] = noise[:, 1 - branch].roll(-1, 0)
        other = [
            _losses(unet, scheduler, s, n, text, at)[branch]
            for branch, (s, n) in enumerate(zip(swapped, moved, strict=True))
        ]
        other_losses.append(torch.stack(other))
    own, other_mean = torch.stack(own_losses).mean(0), torch.stack(other_losses).mean(0)
    gain = 1 - own / other_mean
    return Coupling(float(own[0]), float(own[1]), float(gain[0]), float(gain[1]))


def _losses(unet: Any, scheduler: Any, latents: Tensor, noise: Tensor, text: Tensor, at: Tensor) -> Tensor:
    """MSE of each branch. Shape: (f=2,)."""
    both, own_noise = latents.flatten(0, 1), noise.flatten(0, 1)
    steps = at.expand(len(both))
    noisy = scheduler.add_noise(both, own_noise, steps)
    context = text.repeat(len(latents), 1, 1)
    predicted = unet(noisy, steps, encoder_hidden_states=context).sample
    error = (predicted.float() - target(scheduler, both, own_noise, steps)).square()
    return error.unflatten(0, (-1, 2)).mean((0, 2, 3, 4))
