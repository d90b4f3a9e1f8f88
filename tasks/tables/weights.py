"""Weights from elsewhere that stages start from, the base's and the encoders': where they are, and what they are."""

from pathlib import Path

from dual_anodiff.base import fingerprint, resolve_base
from dual_anodiff.config import FinetuneConfig
from dual_anodiff.image_encoder import SHA256, imagenet_encoder
from tasks.config import ModelName, RunConfig
from tasks.errors import ConfigError
from tasks.store.artifacts import file_digest, folder_digest


def encoder_of(encoder: str) -> Path | str:
    """The encoder's folder or timm name. Raises: WeightsError if the ImageNet encoder's package is missing or another."""
    return imagenet_encoder() if encoder == "imagenet" else encoder


def encoder_digest(config: RunConfig, model: ModelName) -> str:
    """What the weights that a model starts from are, wherever they lie. Raises: ConfigError if a file is not there."""
    match model:
        case "localize" | "classify":
            settings = config.localize if model == "localize" else config.classify
            option, encoder, weights = f"{model}.encoder", settings.encoder, settings.encoder_weights
        case "detect":
            option, encoder, weights = (
                "detect.backbone",
                config.detect.backbone,
                config.detect.backbone_weights,
            )
            if config.detect.model == "draem":
                return "draem"  # networks of its own, that start at random
            if config.detect.model == "efficientad":
                encoder = "efficientad"  # so has this one; its teacher has weights
    if encoder == "imagenet":
        return f"imagenet:{SHA256}"  # known without the weights
    if Path(encoder).is_dir():
        return folder_digest(Path(encoder))
    if isinstance(weights, Path):
        if not weights.is_file():
            raise ConfigError(f"{option}_weights: no file {weights}")
        return f"{encoder}:{file_digest(weights)}"
    return f"{encoder}:{weights}"


def check_encoders(config: RunConfig) -> None:
    """See that the weights of all models to be trained are there. Raises: ConfigError that names the option."""
    for model in config.compare.models:
        encoder_digest(config, model)


def base_digest(config: FinetuneConfig) -> str:
    """What the base's weights are, wherever they lie. Raises: BaseModelError if a folder holds no pipeline."""
    return fingerprint(config.base)


def revision_read(config: FinetuneConfig) -> str | None:
    """The revision, where the base is a hub's: a folder has none."""
    return None if Path(resolve_base(config.base)).is_dir() else config.revision
