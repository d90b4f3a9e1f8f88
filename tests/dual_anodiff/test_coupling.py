"""Coupling: zero for branches that do not look at each other, above it for those that do."""

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline

from dual_anodiff.adapter import attach_adapter
from dual_anodiff.attention import TwoBranchAttnProcessor
from dual_anodiff.base import load_base
from dual_anodiff.config import AdapterConfig
from dual_anodiff.coupling import coupling


def test_a_fresh_adapter_has_none_and_one_whose_branches_see_each_other_has_some(base: Path) -> None:
    pipe = load_base(StableDiffusionPipeline, str(base))
    attach_adapter(pipe.unet, pipe.text_encoder, AdapterConfig(lora_rank=2, saim_rank=4))
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    channels = pipe.unet.config.in_channels
    latents = torch.randn(4, 2, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    text = torch.zeros(2, 4, pipe.unet.config.cross_attention_dim)
    fresh = coupling(pipe.unet, scheduler, latents, text)
    assert fresh.image_gain == pytest.approx(0, abs=1e-6)
    assert fresh.part_gain == pytest.approx(0, abs=1e-6)
    for processor in pipe.unet.attn_processors.values():
        if isinstance(processor, TwoBranchAttnProcessor):
            torch.nn.init.normal_(processor.saim.to_out.weight)
    seen = coupling(pipe.unet, scheduler, latents, text)
    assert abs(seen.image_gain) > 1e-4
    assert coupling(pipe.unet, scheduler, latents, text) == seen


def test_one_pair_has_no_other_to_compare_with(base: Path) -> None:
    pipe = load_base(StableDiffusionPipeline, str(base))
    with pytest.raises(ValueError, match="two at least"):
        coupling(pipe.unet, pipe.scheduler, torch.zeros(1, 2, 4, 8, 8), torch.zeros(2, 4, 8))
