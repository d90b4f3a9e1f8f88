"""The bundled base: loads like any Stable Diffusion folder, and stays small."""

import torch
from diffusers import StableDiffusionPipeline

from dual_anodiff.adapter import attach_adapter
from dual_anodiff.base import MINI, resolve_base
from dual_anodiff.config import AdapterConfig


def test_the_bundle_is_at_most_thirty_megabytes() -> None:
    assert sum(file.stat().st_size for file in MINI.rglob("*") if file.is_file()) <= 30e6


def test_mini_loads_as_plain_stable_diffusion_and_takes_an_adapter() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(resolve_base("mini"), safety_checker=None)
    assert pipe.unet.dtype == pipe.text_encoder.dtype == torch.float32
    pipe.set_progress_bar_config(disable=True)
    pictures = pipe(
        ["a photo of a washer", "crack"], height=128, width=128, num_inference_steps=4, output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    # The anomaly part alone lies on mid-grey, a whole part does not: the weights are trained ones.
    washer, crack = ((p - 0.5).abs().mean() for p in pictures)
    assert crack < 0.5 * washer
    attach_adapter(
        pipe.unet, pipe.text_encoder, AdapterConfig(lora_rank=2, saim_rank=2, text_encoder_lora_rank=2)
    )
