"""The two-branch UNet: what a fresh adapter, a swap of branches and a loop over branches must give."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from dual_anodiff.adapter import adapter_parameters, attach_adapter
from dual_anodiff.attention import BRANCHES, BranchInteraction, branch_linear
from dual_anodiff.config import AdapterConfig

RANKS: list[int | str] = [8, "full"]


def load(base: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32)


def inputs(b: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    latents = torch.randn(2 * b, 4, 8, 8, generator=g)
    text = torch.randn(2, 5, 32, generator=g).repeat(b, 1, 1)
    return latents, torch.tensor([30, 30, 700, 700][: 2 * b]), text


def randomise(unet: Any, *, interaction: bool = True) -> None:
    """Give every adapter parameter a value: a trained adapter, as far as the algebra is concerned."""
    g = torch.Generator().manual_seed(1)
    for name, p in adapter_parameters(unet, torch.nn.Module()):
        if interaction or ".saim." not in name:
            p.data = 0.2 * torch.randn(p.shape, generator=g)


@torch.no_grad()
def run(unet: Any, latents: Tensor, t: Tensor, text: Tensor) -> Tensor:
    out: Tensor = unet(latents, t, encoder_hidden_states=text).sample
    return out


@pytest.mark.parametrize("rank", RANKS)
def test_fresh_adapter_is_the_base_model(base: Path, rank: int | str) -> None:
    pipe = load(base)
    latents, t, text = inputs()
    before = run(pipe.unet, latents, t, text)
    words = pipe.text_encoder(torch.tensor([[0, 40, 1]])).last_hidden_state
    attach_adapter(pipe.unet, pipe.text_encoder, AdapterConfig(lora_rank=4, saim_rank=rank))
    torch.testing.assert_close(run(pipe.unet, latents, t, text), before, atol=1e-5, rtol=1e-5)
    after = pipe.text_encoder(torch.tensor([[0, 40, 1]])).last_hidden_state
    torch.testing.assert_close(after, words, atol=1e-6, rtol=1e-5)


def test_batched_branches_equal_branches_run_one_by_one_by_peft(base: Path) -> None:
    """Reference: peft's own single-adapter forward, one branch at a time, without interaction."""
    latents, t, text = inputs()
    two = load(base)
    attach_adapter(two.unet, two.text_encoder, AdapterConfig(lora_rank=4, saim_rank=8))
    randomise(two.unet, interaction=False)
    both = run(two.unet, latents, t, text)

    weights = two.unet.state_dict()
    for f, name in enumerate(BRANCHES):
        one = load(base)
        attach_adapter(one.unet, one.text_encoder, AdapterConfig(lora_rank=4, saim_rank=8))
        one.unet.load_state_dict(weights)
        one.unet.set_attn_processor(_plain_processor())
        one.unet.set_adapter(name)
        alone = run(one.unet, latents[f::2], t[f::2], text[f::2])
        torch.testing.assert_close(both[f::2], alone, atol=1e-4, rtol=1e-4)


def _plain_processor() -> Any:
    from diffusers.models.attention_processor import AttnProcessor2_0

    return AttnProcessor2_0()


@pytest.mark.parametrize("rank", RANKS)
def test_swapped_branches_give_swapped_outputs(base: Path, rank: int | str) -> None:
    pipe = load(base)
    attach_adapter(pipe.unet, pipe.text_encoder, AdapterConfig(lora_rank=4, saim_rank=rank))
    randomise(pipe.unet)
    latents, t, text = inputs()
    straight = run(pipe.unet, latents, t, text)
    swap = [1, 0, 3, 2]
    state = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    exchanged = {}
    for name, value in state.items():
        image, anomaly = f".{BRANCHES[0]}.", f".{BRANCHES[1]}."
        other = (
            name.replace(image, "\0").replace(anomaly, image).replace("\0", anomaly)
            if ".lora_" in name
            else name
        )
        exchanged[other] = value
    pipe.unet.load_state_dict(exchanged)
    crossed = run(pipe.unet, latents[swap], t[swap], text[swap])
    torch.testing.assert_close(crossed[swap], straight, atol=1e-4, rtol=1e-4)


def test_interaction_couples_the_branches_of_a_pair_and_no_others(base: Path) -> None:
    pipe = load(base)
    attach_adapter(pipe.unet, pipe.text_encoder, AdapterConfig(lora_rank=4, saim_rank=8))
    randomise(pipe.unet)
    latents, t, text = inputs()
    before = run(pipe.unet, latents, t, text)
    changed = latents.clone()
    changed[1] += 1  # the anomaly branch of the first pair
    after = run(pipe.unet, changed, t, text)
    assert (after[0] - before[0]).abs().max() > 1e-3
    torch.testing.assert_close(after[2:], before[2:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", RANKS)
def test_interaction_is_softmax_attention_over_two_tokens(rank: int | str) -> None:
    torch.manual_seed(0)
    saim = BranchInteraction(16, rank)
    torch.nn.init.normal_(saim.to_out.weight)
    x = torch.randn(4, 9, 16)
    h = saim.to_in(saim.norm(x))
    q, k, v = (
        layer(h).unflatten(0, (2, 2)).movedim(2, 1) for layer in (saim.to_q, saim.to_k, saim.to_v)
    )  # b n f c
    attended = torch.nn.functional.scaled_dot_product_attention(q, k, v).movedim(1, 2).flatten(0, 1)
    torch.testing.assert_close(saim(x), saim.to_out(attended), atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_adapter_parameter_and_no_base_parameter(base: Path) -> None:
    pipe = load(base)
    attach_adapter(
        pipe.unet, pipe.text_encoder, AdapterConfig(lora_rank=4, saim_rank=8, text_encoder_lora_rank=2)
    )
    # LoRA's B and SAIM's last layer start at zero and hide what lies before them: move them off first.
    randomise(pipe.unet)
    adapter = dict(adapter_parameters(pipe.unet, pipe.text_encoder))
    for name, p in adapter.items():
        if name.startswith("text_encoder."):
            p.data.normal_(0, 0.2)
    latents, t, _ = inputs()
    ids = torch.tensor([[0, 40, 1], [0, 50, 1]]).repeat(2, 1)
    text = pipe.text_encoder(ids).last_hidden_state
    pipe.unet(latents, t, encoder_hidden_states=text).sample.square().mean().backward()
    dead = [n for n, p in adapter.items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead
    own = {id(p) for p in adapter.values()}
    rest = [p for m in (pipe.unet, pipe.text_encoder) for p in m.parameters() if id(p) not in own]
    assert rest
    assert all(p.grad is None and not p.requires_grad for p in rest)


def test_a_layer_without_lora_is_applied_as_it_is() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(4, 3), torch.randn(2, 5, 4)
    assert torch.equal(branch_linear(layer, x), layer(x))
