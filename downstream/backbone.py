"""A detector's backbone: a folder, a local file, the hub or a random start, and handing it to anomalib offline."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from downstream.config import DetectConfig, DetectorName
from downstream.encoder import EncoderSpec, load_encoder, read_spec
from downstream.errors import EncoderError

Weights = Literal["hub", "random"] | Path

# Strides of the feature maps in the papers: layer1 to layer3 of a ResNet, or layer2 and layer3.
STRIDES: dict[DetectorName, tuple[int, ...]] = {
    "padim": (4, 8, 16),
    "patchcore": (8, 16),
    "supersimplenet": (8, 16),
    "supersimplenet-unsupervised": (8, 16),
}

# anomalib's Perlin noise has up to 2⁵ cells a side and fails on fewer pixels; SuperSimpleNet doubles its finest map.
PERLIN_CELLS = 32


class BackboneSpec(BaseModel):
    """All it takes to build a backbone again without its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: EncoderSpec
    layers: tuple[str, ...] = Field(
        description="Names of the feature maps; empty for Dinomaly, which has its own."
    )
    channels: int = Field(description="Channels of all the feature maps together.")


def resolve_backbone(config: DetectConfig, backbone: Path | str | None) -> tuple[BackboneSpec, Weights]:
    """What to build and where its weights are; nothing is loaded yet.

    `backbone` is a folder or a timm name instead of config.backbone. Raises: EncoderError that names the option.
    """
    name = backbone or config.backbone
    folder = Path(name)
    weights: Weights = config.backbone_weights
    if folder.is_dir():
        encoder, weights = read_spec(folder), folder / "model.safetensors"
    elif name == "bundled":
        raise EncoderError(
            'backbone "bundled": this library has no weights of its own; pass the bundled folder\'s path.'
        )
    elif isinstance(name, Path) or "/" in name:
        raise EncoderError(
            f"detect.backbone: no folder {name}. Give an existing folder or a timm model name."
        )
    else:
        encoder = _timm_spec(name)
    if isinstance(weights, Path) and not weights.is_file():
        raise EncoderError(
            f"{weights}: no such file. It should hold the backbone's weights; set detect.backbone_weights to a "
            "local safetensors file, or detect.backbone to an encoder folder."
        )
    if config.model == "dinomaly":
        _check_transformer(encoder, config.size_px)
        return BackboneSpec(encoder=encoder, layers=(), channels=0), weights
    layers, channels = _feature_maps(encoder, config)
    return BackboneSpec(encoder=encoder, layers=layers, channels=channels), weights


@contextmanager
def weights_from(encoder: EncoderSpec, weights: Weights) -> Iterator[None]:
    """While anomalib builds a model, its timm makes this encoder with these weights.

    anomalib has no way to say so: SuperSimpleNet and Dinomaly always ask the hub, and none takes further
    arguments such as pad_type. Only the name `timm` in anomalib's own module is exchanged, for as long as it
    takes to build. Raises: EncoderError that names the option if the hub cannot be reached or names don't fit.
    """
    import timm
    from anomalib.models.components.feature_extractors import timm as extractor

    def create_model(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
        ask_hub = pretrained and weights == "hub"
        try:
            network: nn.Module = timm.create_model(
                name, pretrained=ask_hub, **(options | dict(encoder.model_args))
            )
        except Exception as error:  # the hub client raises OSError, httpx, requests and its own, by version
            if not ask_hub:
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise EncoderError(
                f"backbone {name}: its pretrained weights could not be had from the hub ({reason}). Offline, set "
                "detect.backbone_weights to a local safetensors file, or detect.backbone to an encoder folder; "
                "detect.backbone_weights: random starts from random weights."
            ) from error
        if pretrained and isinstance(weights, Path):
            _load(network, name, weights)
        return network

    module: Any = extractor
    before = module.timm
    module.timm = SimpleNamespace(create_model=create_model)
    try:
        yield
    finally:
        module.timm = before


def _load(network: nn.Module, name: str, path: Path) -> None:
    """Weights in timm's naming into a timm network; every tensor must be found, with its shape."""
    holder: Any = nn.Module()  # load_encoder wants the shape of a U-Net
    holder.encoder = SimpleNamespace(model=network, name=name)
    load_encoder(holder, path)


def _timm_spec(name: str) -> EncoderSpec:
    """Mean and standard deviation that timm's weights of this name were trained with."""
    import timm

    if not timm.is_model(name):
        raise EncoderError(
            f"detect.backbone: {name!r} is neither a folder nor a timm model. "
            f"Names like it: {timm.list_models(f'*{name}*')[:5]}"
        )
    cfg = timm.get_pretrained_cfg(name)
    mean, std = (cfg.mean, cfg.std) if cfg is not None else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return EncoderSpec(architecture=name, mean=mean, std=std)


def _feature_maps(encoder: EncoderSpec, config: DetectConfig) -> tuple[tuple[str, ...], int]:
    """Names of the feature maps that the detector reads, and their channels together."""
    import timm

    try:
        info: list[dict[str, Any]] = timm.create_model(
            encoder.architecture, features_only=True, exportable=True, **encoder.model_args
        ).feature_info.info
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        raise EncoderError(
            f"backbone {encoder.architecture} gives no feature maps ({error}). Choose a convolutional timm model."
        ) from error
    maps = {str(one["module"]): one for one in info}
    # anomalib leaves out an unknown layer with a warning
    missing = [layer for layer in config.layers or () if layer not in maps]
    if missing:
        raise EncoderError(f"detect.layers: {encoder.architecture} has no {missing}, only {sorted(maps)}.")
    strides = STRIDES[config.model]
    layers = config.layers or tuple(name for name, one in maps.items() if one["reduction"] in strides)
    if config.layers is None and len(layers) != len(strides):
        raise EncoderError(
            f"backbone {encoder.architecture} has no feature map for each of the strides {strides}: name some by "
            f"detect.layers, of { {name: one['reduction'] for name, one in maps.items()} }."
        )
    finest = 2 * config.size_px // maps[layers[0]]["reduction"]
    if "supersimplenet" in config.model and finest < PERLIN_CELLS:
        raise EncoderError(
            f"detect.size_px: supersimplenet draws its noise on a map of {finest} px here and needs {PERLIN_CELLS}. "
            f"Set it to {config.size_px * PERLIN_CELLS // finest}, or detect.layers to finer maps than {layers[0]}."
        )
    return layers, sum(maps[layer]["num_chs"] for layer in layers)


def _check_transformer(encoder: EncoderSpec, size_px: int) -> None:
    """Refuse what Dinomaly cannot be built around."""
    name = encoder.architecture
    if "vit_" not in name or not any(size in name for size in ("small", "base", "large", "huge")):
        raise EncoderError(
            f"detect.backbone: dinomaly reads the tokens of a vision transformer, not of {name}. Set it to such as "
            "vit_small_patch14_reg4_dinov2, and detect.backbone_weights to a local file of its weights."
        )
    patch = next(
        (int(part[5:]) for part in name.split("_") if part.startswith("patch") and part[5:].isdigit()), 14
    )
    if size_px % patch:
        raise EncoderError(
            f"detect.size_px: {name} cuts pictures into patches of {patch} px, which {size_px} is no multiple of. "
            f"Set it to {max(1, round(size_px / patch)) * patch}."
        )
