"""Attention of two branches in one call: per-branch LoRA, and the interaction between the branches (SAIM).

A batch holds pairs of consecutive items, (b f) with f = 2: branch 0 the anomaly image, branch 1 the anomaly part.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

BRANCHES = ("image", "anomaly")


def branch_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer whose LoRA differs by branch, both branches in one batched product.

    Shape: x ((b f), n, c_in) → ((b f), n, c_out). A layer without LoRA is applied as it is.
    """
    if not isinstance(layer, LoraLayer):
        out: Tensor = layer(x)
        return out
    down = torch.stack([layer.lora_A[name].weight for name in BRANCHES])  # (f, r, c_in)
    up = torch.stack([layer.lora_B[name].weight for name in BRANCHES])  # (f, c_out, r)
    scale = layer.scaling[BRANCHES[0]]
    x_by_branch = rearrange(x, "(b f) n c -> f (b n) c", f=2)
    delta = torch.bmm(torch.bmm(x_by_branch, down.mT.to(x.dtype)), up.mT.to(x.dtype))
    base: Tensor = layer.base_layer(x)
    return base + scale * rearrange(delta, "f (b n) c -> (b f) n c", n=x.shape[1])


class BranchInteraction(nn.Module):
    """SAIM: at every position, attention over the two branches. Source: DualAnoDiff, Sec. 3.2; public code.

    LayerNorm → in → q, k, v → softmax over f = 2 → out. The reference has all five linears at full rank, 5·C²;
    a rank r < C puts q, k, v on r channels. `to_out` starts at zero, so that a fresh module changes nothing
    (the reference starts at random).
    """

    def __init__(self, channels: int, rank: int | str) -> None:
        super().__init__()
        width = channels if rank == "full" else min(int(rank), channels)
        self.norm = nn.LayerNorm(channels)
        self.to_in = nn.Linear(channels, width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, channels)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: ((b f), n, c) → the same, to be added to x."""
        h = self.to_in(self.norm(x))
        q, k, v = self.to_q(h), self.to_k(h), self.to_v(h)
        k0, k1 = rearrange(k, "(b f) n c -> f b 1 n c", f=2)
        v0, v1 = rearrange(v, "(b f) n c -> f b 1 n c", f=2)
        q = rearrange(q, "(b f) n c -> b f n c", f=2)
        # softmax over two logits is a sigmoid of their difference
        weight0 = torch.sigmoid((q * (k0 - k1)).sum(-1, keepdim=True) / q.shape[-1] ** 0.5)
        mixed = v1 + weight0 * (v0 - v1)
        out: Tensor = self.to_out(rearrange(mixed, "b f n c -> (b f) n c"))
        return out


class TwoBranchAttnProcessor(nn.Module):
    """diffusers attention processor: multi-head attention within each branch, then SAIM across them."""

    def __init__(self, channels: int, saim_rank: int | str) -> None:
        super().__init__()
        self.saim = BranchInteraction(channels, saim_rank)

    def forward(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Shape: hidden_states ((b f), n, c), encoder_hidden_states ((b f), m, d) → ((b f), n, c)."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        heads = attn.heads
        q = rearrange(branch_linear(attn.to_q, hidden_states), "b n (h d) -> b h n d", h=heads)
        k = rearrange(branch_linear(attn.to_k, context), "b m (h d) -> b h m d", h=heads)
        v = rearrange(branch_linear(attn.to_v, context), "b m (h d) -> b h m d", h=heads)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        out = branch_linear(attn.to_out[0], rearrange(out, "b h n d -> b n (h d)"))
        return out + self.saim(out)
