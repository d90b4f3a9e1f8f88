"""A detector's backbone: a folder, a local file, the hub or a random start, and handing it to anomalib offline."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from downstream.config import DetectConfig, DetectorName
from downstream.encoder import CANNOT_BUILD, EncoderSpec, Weights, from_hub, load_weights, resolve_encoder
from downstream.errors import EncoderError

OPTION = "detect.backbone"

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
    encoder, weights = resolve_encoder(backbone or config.backbone, config.backbone_weights, OPTION)
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
        options |= encoder.model_args

        def build() -> nn.Module:
            made: nn.Module = timm.create_model(name, pretrained=ask_hub, **options)
            return made

        network = from_hub(name, build, OPTION) if ask_hub else build()
        if pretrained and isinstance(weights, Path):
            load_weights(network, weights, name)
        return network

    module: Any = extractor
    before = module.timm
    module.timm = SimpleNamespace(create_model=create_model)
    try:
        yield
    finally:
        module.timm = before


def _feature_maps(encoder: EncoderSpec, config: DetectConfig) -> tuple[tuple[str, ...], int]:
    """Names of the feature maps that the detector reads, and their channels together."""
    import timm

    try:
        info: list[dict[str, Any]] = timm.create_model(
            encoder.architecture, features_only=True, exportable=True, **encoder.model_args
        ).feature_info.info
    except CANNOT_BUILD as error:
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
