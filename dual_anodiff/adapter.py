"""The trained part of DualAnoDiff: attach it to a base, save and load it, export the image branch as plain LoRA."""

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dual_anodiff.adapter_card import DESCRIPTION, AdapterCard
from dual_anodiff.attention import BRANCHES, BackgroundCompensation, TwoBranchAttnProcessor
from dual_anodiff.config import AdapterConfig
from dual_anodiff.errors import AdapterError
from dual_anodiff.initial import WEIGHTS


def attach_adapter(unet: Any, text_encoder: Any, config: AdapterConfig, *, seed: int = 0) -> None:
    """Freeze the base and put fresh adapters in place; the output stays the base's until they are trained.

    Except for a "residual" background, whose share starts at 0.1.

    Raises: AdapterError if the UNet's attention is not of the plain SD 1.x/2.x kind.
    """
    if config.saim_rank != "full" and not 1 <= config.saim_rank <= 2048:
        raise AdapterError(f"adapter.saim_rank: {config.saim_rank} is not in 1..2048, nor 'full'")
    unet.requires_grad_(False)
    text_encoder.requires_grad_(False)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            # peft warns of a second adapter on one model; two are what this method is.
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            for name in BRANCHES:
                unet.add_adapter(_lora(config.lora_rank, targets), adapter_name=name)
        for module in unet.modules():
            if hasattr(module, "set_processor") and hasattr(module, "to_q"):
                if module.to_out[0].in_features != module.inner_dim or getattr(
                    module, "residual_connection", False
                ):
                    raise AdapterError(
                        "base: its UNet has an attention layer of an unknown kind; use an SD 1.x/2.x base"
                    )
                channels = module.to_out[0].out_features
                module.set_processor(TwoBranchAttnProcessor(channels, config.saim_rank))
        if config.text_encoder_lora_rank:
            text_targets = ["q_proj", "k_proj", "v_proj", "out_proj"]
            text_encoder.add_adapter(_lora(config.text_encoder_lora_rank, text_targets), adapter_name="text")
        # Last, so that the same seed starts all else alike with and without it.
        if config.background != "off":
            for name, module in unet.named_modules():
                if name.endswith(".attn1"):
                    if module.to_k.bias is not None or module.to_v.bias is not None:
                        raise AdapterError(
                            "adapter.background: the base's attention has a bias, which it can't take; set it to 'off'"
                        )
                    channels = module.to_out[0].out_features
                    module.processor.background = BackgroundCompensation(channels, config.background)
    for _, parameter in adapter_parameters(unet, text_encoder):
        parameter.requires_grad_(True)


def _lora(rank: int, targets: list[str]) -> LoraConfig:
    # alpha = rank, as the reference: the LoRA's product is added unscaled.
    return LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets)


def adapter_parameters(unet: nn.Module, text_encoder: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of the adapters alone: LoRA of both branches, SAIM, BCM, LoRA of the text encoder."""
    for prefix, model in (("unet", unet), ("text_encoder", text_encoder)):
        for name, parameter in model.named_parameters():
            if ".lora_" in name or ".processor." in name:
                yield f"{prefix}.{name}", parameter


def save_adapter(
    folder: Path,
    card: AdapterCard,
    weights: dict[str, Tensor],
    kept: Mapping[int, dict[str, Tensor]] | None = None,
) -> None:
    """Write adapter.safetensors, then adapter.json: the second's existence means that the first is whole.

    `kept`: the weights as they were after these steps, adapter-STEP.safetensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for step, then in (kept or {}).items():
        save_file({name: w.contiguous() for name, w in then.items()}, kept_weights(folder, step))
    save_file({name: w.detach().cpu().contiguous() for name, w in weights.items()}, folder / WEIGHTS)
    (folder / DESCRIPTION).write_text(json.dumps(asdict(card), indent=2) + "\n")


@torch.no_grad()
def load_weights(
    folder: Path, unet: nn.Module, text_encoder: nn.Module, *, step: int | None = None, strength: float = 1.0
) -> None:
    """Fill attached adapters from a folder; `strength` is the share of the LoRA that is added to the base.

    `step`: as they were after it, one of those kept; None: the last. The interaction of the branches and the background
    stay whole at any strength: without them the two would draw different things.
    Raises: AdapterError if the file is missing, or names and shapes are not those of the attached adapters.
    """
    file = folder / WEIGHTS if step is None else kept_weights(folder, step)
    if step is not None and not file.is_file():
        kept = sorted(int(path.stem.rpartition("-")[2]) for path in folder.glob("adapter-*.safetensors"))
        raise AdapterError(
            f"{file}: not there; generate.adapter_step is one of {kept or 'none'}, kept by finetune.keep_checkpoints"
        )
    own = dict(adapter_parameters(unet, text_encoder))
    weights = _read_fitting(file, own)
    for name, parameter in own.items():
        # Of the product's two factors one.
        parameter.copy_(weights[name] * strength if ".lora_B." in name else weights[name])


@torch.no_grad()
def load_initial(folder: Path, unet: nn.Module, text_encoder: nn.Module) -> None:
    """Fill attached adapters, but for a background's module, which stays fresh.

    Raises: AdapterError if the file is missing, or names and shapes are not those of the attached adapters.
    """
    own = {name: p for name, p in adapter_parameters(unet, text_encoder) if ".background." not in name}
    weights = _read_fitting(folder / WEIGHTS, own)
    for name, parameter in own.items():
        parameter.copy_(weights[name])


def _read_fitting(file: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors, which have the names and shapes of `own`. Raises: AdapterError."""
    try:
        weights = load_file(file)
    except Exception as error:
        raise AdapterError(f"{file}: can't be read ({error}); make it again") from error
    if weights.keys() != own.keys() or any(own[n].shape != w.shape for n, w in weights.items()):
        odd = sorted(weights.keys() ^ own.keys())[:3]
        raise AdapterError(f"{file}: does not fit this base (first differences: {odd}); use its own base")
    return weights


def kept_weights(folder: Path, step: int) -> Path:
    """Where the weights of a kept step lie."""
    return folder / f"adapter-{step:06}.safetensors"
