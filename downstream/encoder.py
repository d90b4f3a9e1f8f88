"""Where an encoder's weights come from (a folder, a local file, the hub, a random start), and the U-Net on it.

An encoder folder holds model.safetensors, a timm state dict in timm's own
naming, and config.json:
    {"architecture": "tf_efficientnet_lite0", "mean": [r, g, b], "std": [r, g, b]}
with, where the weights need it, "model_args" (handed to timm, such as {"pad_type": "same"}) and
"freeze_batch_norm": true (statistics that are not real ones must not be updated or replaced by the batch's).
"""

import json
import math
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from downstream.config import DEPTH
from downstream.errors import EncoderError

PRIOR = 0.01  # probability of defect that an untrained head gives each pixel
OPTION = "localize.encoder"
# What timm and smp raise of names and arguments that do not go together.
CANNOT_BUILD = (TypeError, ValueError, RuntimeError, AttributeError, AssertionError)


Weights = Literal["hub", "random"] | Path


class EncoderSpec(BaseModel):
    """All it takes to build an encoder again without its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = Field(min_length=1, description="timm model name.")
    mean: tuple[float, float, float] = Field(description="Per channel, of pictures in 0..1.")
    std: tuple[float, float, float] = Field(description="Per channel, of pictures in 0..1.")
    model_args: dict[str, str | bool | int | float] = Field(
        {}, description="Further arguments of timm.create_model."
    )
    freeze_batch_norm: bool = Field(
        False, description="Keep the encoder's batch norm in evaluation mode always."
    )


def build_unet(
    encoder: Path | str,
    encoder_weights: str | Path = "hub",
    decoder_channels: Sequence[int] = (128, 64, 32, 16, 16),
) -> tuple[nn.Module, EncoderSpec]:
    """U-Net for one-channel logits, encoder loaded, decoder fresh from torch's global generator.

    `encoder` is a folder or a timm name; `encoder_weights` counts for a name only.
    Shape: the network maps (b, 3, h, w) to (b, 1, h, w), h and w multiples of 32.
    Raises: EncoderError that names the option to change.
    """
    spec, weights = resolve_encoder(encoder, encoder_weights, OPTION)
    if weights == "hub":
        build = lambda: empty_unet(spec, decoder_channels, pretrained=True)  # noqa: E731
        return from_hub(spec.architecture, build, OPTION), spec
    network = empty_unet(spec, decoder_channels)
    if isinstance(weights, Path):
        body: Any = network.encoder
        load_weights(body.model, weights, body.name)
    return network, spec


def resolve_encoder(encoder: Path | str, weights: str | Path, option: str) -> tuple[EncoderSpec, Weights]:
    """What to build, and the file to load or where else weights are from; nothing is loaded yet.

    `option` is where the config says so, such as "localize.encoder". Raises: EncoderError that names it.
    """
    folder = Path(encoder)
    found: Weights
    if folder.is_dir():
        spec, found = read_spec(folder), folder / "model.safetensors"
    elif encoder == "imagenet":
        raise EncoderError(
            f'{option} "imagenet": this library has no weights of its own; pass the folder that holds them.'
        )
    elif isinstance(encoder, Path) or "/" in encoder:
        raise EncoderError(f"{option}: no folder {encoder}. Give an existing folder or a timm model name.")
    else:
        spec = _timm_spec(encoder, option)
        found = "hub" if weights == "hub" else "random" if weights == "random" else Path(weights)
    if isinstance(found, Path) and not found.is_file():
        raise EncoderError(f"{found}: no such file. It should hold the weights; {_local_hint(option)}.")
    return spec, found


def empty_unet(spec: EncoderSpec, decoder_channels: Sequence[int], *, pretrained: bool = False) -> nn.Module:
    """U-Net of this shape with random or the hub's weights. Raises: EncoderError if it can't be built."""
    # smp pulls in timm and torchvision, 5-10 s on a small machine: only those who build a network pay for it.
    import segmentation_models_pytorch as smp

    try:
        network: nn.Module = smp.Unet(
            f"tu-{spec.architecture}",
            encoder_depth=DEPTH,
            encoder_weights=True if pretrained else None,
            decoder_channels=tuple(decoder_channels),
            **spec.model_args,
        )
    except CANNOT_BUILD as error:
        if pretrained:
            raise
        raise EncoderError(
            f"encoder {spec.architecture} with {spec.model_args}: cannot be a U-Net's encoder ({error}). "
            "Choose a convolutional timm model with five stages, such as resnet18."
        ) from error
    return network


def read_spec(folder: Path) -> EncoderSpec:
    """Read an encoder folder's config.json. Raises: EncoderError that names file and key."""
    path = folder / "config.json"
    try:
        return EncoderSpec.model_validate(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise EncoderError(
            f"{path}: not found. An encoder folder holds config.json and model.safetensors."
        ) from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise EncoderError(f"{path}: {faults}") from error
    except ValueError as error:
        raise EncoderError(f"{path}: is not JSON ({error}).") from error


def load_weights(module: nn.Module, path: Path, architecture: str, *, fresh: Collection[str] = ()) -> None:
    """Copy a timm state dict into `module`; every tensor but those in `fresh` must be found, with its shape.

    timm's features-only wrapper renames "stages.0" to "stages_0" in some families, so names are compared
    with dots for underscores. Left over in the file may be what lies behind the last feature map (head,
    final norm). Raises: EncoderError with the first names that are missing or of other shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise EncoderError(f"{path}: is not a safetensors file ({error}).") from error
    found = {_dotted(name): tensor for name, tensor in state.items()}
    whole: dict[str, Tensor] = module.state_dict()
    wanted = {name: tensor for name, tensor in whole.items() if name not in fresh}
    if len(found) != len(state) or len({_dotted(name) for name in wanted}) != len(wanted):
        raise EncoderError(f"{path}: two tensors have names that differ by dot and underscore only.")
    # num_batches_tracked only counts, and converters often leave it out.
    missing = [n for n in wanted if _dotted(n) not in found and not n.endswith("num_batches_tracked")]
    if missing:
        raise EncoderError(
            f"{path}: {len(missing)} of {len(wanted)} tensors of encoder {architecture} are not in it, first "
            f"{missing[:3]}; it holds {list(state)[:3]}. Give weights of that timm model, in timm's naming."
        )
    loaded = dict(whole)
    for name, tensor in wanted.items():
        given = found.get(_dotted(name), tensor)
        if given.shape != tensor.shape:
            raise EncoderError(
                f"{path}: {name} is {tuple(given.shape)}, encoder {architecture} wants {tuple(tensor.shape)}."
            )
        loaded[name] = given.to(tensor.dtype)
    module.load_state_dict(loaded)


def train_mode(network: nn.Module, spec: EncoderSpec) -> None:
    """Put a U-Net (or a bare encoder) into training mode, but batch norm whose statistics must stay."""
    network.train()
    if spec.freeze_batch_norm:
        encoder: Any = network.encoder if hasattr(network, "segmentation_head") else network
        for module in encoder.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _dotted(name: str) -> str:
    return name.replace("_", ".")


def _local_hint(option: str) -> str:
    return f"set {option}_weights to a local safetensors file, or {option} to an encoder folder"


def _timm_spec(name: str, option: str) -> EncoderSpec:
    """Mean and standard deviation that timm's weights of this name were trained with."""
    import timm

    if not timm.is_model(name):
        raise EncoderError(
            f"{option}: {name!r} is neither a folder nor a timm model. "
            f"Names like it: {timm.list_models(f'*{name}*')[:5]}"
        )
    cfg = timm.get_pretrained_cfg(name)
    mean, std = (cfg.mean, cfg.std) if cfg is not None else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return EncoderSpec(architecture=name, mean=mean, std=std)


def from_hub(architecture: str, build: Callable[[], nn.Module], option: str) -> nn.Module:
    """What `build` loads from the hub; any failure becomes one error that names the local way."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return build()
    except Exception as error:  # the hub client raises OSError, httpx, requests and its own, by version
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise EncoderError(
            f"{option}: pretrained weights of {architecture} could not be had from the hub ({reason}). "
            f"Offline, {_local_hint(option)}; {option}_weights: random starts from random weights."
        ) from error


def seeded_unet(
    seed: int, encoder: Path | str, encoder_weights: str | Path, decoder_channels: Sequence[int]
) -> tuple[nn.Module, EncoderSpec]:
    """build_unet with its random numbers from `seed` (the global generator left as it was), ready to train.

    The head starts out saying "defect" with probability PRIOR everywhere (Lin et al. 2017, section 4.1).
    Compared with no such start on held-out shots: benchmarks.objective.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, spec = build_unet(encoder, encoder_weights, decoder_channels)
    whole: Any = network
    nn.init.constant_(whole.segmentation_head[0].bias, math.log(PRIOR / (1 - PRIOR)))
    return network, spec
