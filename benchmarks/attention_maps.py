"""Where a prompt's words are looked at: cross-attention recorded while a UNet draws, without changing what it draws.

It was meant for `dual_anodiff.quality.trust`, which is better without it, as `benchmarks.masks` prints; so it lives here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dual_anodiff.attention import branch_linear

# Finer layers follow texture more than words, and cost most: at 512 px SD's largest would take 300 MB for 16 pairs.
MAX_POSITIONS = 1024
# The noisier half decides where things go; words are looked at there once that is settled.
MAX_TIMESTEP = 500


@dataclass
class Watched:
    """Sums over the watched calls, by the side of the layer's square. Shape: each ((b f), side, side)."""

    sums: dict[int, Tensor] = field(default_factory=dict)

    def maps(self, size_px: int) -> Tensor:
        """Mean over layers and steps, each map scaled to 0 to 1. Shape: (b, f=2, size_px, size_px)."""
        layers = [
            F.interpolate(total[None] / total.mean(), (size_px, size_px), mode="bilinear")[0]
            for total in self.sums.values()
        ]
        mean = torch.stack(layers).mean(0)
        low, high = mean.amin((-2, -1), keepdim=True), mean.amax((-2, -1), keepdim=True)
        return ((mean - low) / (high - low).clamp_min(1e-8)).unflatten(0, (-1, 2))


def word_tokens(tokenizer: Any, prompt: str, words: str) -> list[int]:
    """Positions of `words` among the tokens of `prompt`."""
    start = prompt.rindex(words)
    offsets = tokenizer(prompt, return_offsets_mapping=True, truncation=True).offset_mapping
    return [i for i, (a, b) in enumerate(offsets) if a < b and a < start + len(words) and b > start]


@contextmanager
def watch_attention(unet: Any, image_tokens: list[int], anomaly_tokens: list[int]) -> Iterator[Watched]:
    """Record what the cross-attention of an adapted UNet gives to those tokens, branch by branch, in the later steps.

    The batch is ((b f), …), f = 2, and does not change within.
    """
    watched, late = Watched(), [True]

    def note_step(_: Any, args: tuple[Any, ...]) -> None:
        late[0] = int(args[1]) <= MAX_TIMESTEP

    def record(attn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, context = args[0], kwargs["encoder_hidden_states"]
        side = round(hidden.shape[1] ** 0.5)
        if not late[0] or hidden.shape[1] > MAX_POSITIONS:
            return
        q = rearrange(branch_linear(attn.to_q, hidden), "b n (h d) -> b h n d", h=attn.heads)
        k = rearrange(branch_linear(attn.to_k, context), "b m (h d) -> b h m d", h=attn.heads)
        shares = (q @ k.mT * attn.scale).softmax(-1).mean(1)  # ((b f), n, m)
        image, anomaly = shares[0::2, :, image_tokens].sum(-1), shares[1::2, :, anomaly_tokens].sum(-1)
        both = rearrange(torch.stack([image, anomaly], 1), "b f (y x) -> (b f) y x", y=side)
        watched.sums[side] = watched.sums[side] + both if side in watched.sums else both

    crossing = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    handles = [unet.register_forward_pre_hook(note_step)]
    handles += [module.register_forward_pre_hook(record, with_kwargs=True) for module in crossing]
    try:
        yield watched
    finally:
        for handle in handles:
            handle.remove()
