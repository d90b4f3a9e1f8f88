"""Weights, as `anodiff doctor` looks for them: here, in the hub's cache, or at least within reach."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import httpx
from huggingface_hub import constants, try_to_load_from_cache

from downstream.encoder import resolve_encoder
from downstream.errors import DownstreamError
from dual_anodiff.base import resolve_base
from dual_anodiff.config import FinetuneConfig, QualityConfig
from dual_anodiff.errors import DualAnoDiffError
from tasks.config import ModelName, RunConfig
from tasks.doctor.finding import Finding
from tasks.errors import ConfigError
from tasks.tables.weights import encoder_digest, encoder_of

HUB_S = 3.0


def base_found(config: FinetuneConfig) -> Iterator[Finding]:
    """The base model, whole as far as its files tell."""
    what, option = "base model", "finetune.base"
    try:
        base = resolve_base(config.base)
    except DualAnoDiffError as error:
        yield Finding(what, "fault", str(error), f"--set {option}=FOLDER of a diffusers pipeline, or mini")
        return
    folder = Path(base)
    if not folder.is_dir():
        yield from of_hub(what, base, "model_index.json", option, "FOLDER", config.revision)
        return
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6
    yield Finding(what, "ok", f"{config.base}{' (bundled)' if config.base == 'mini' else ''}, {size:.0f} MB")


def encoders_found(config: RunConfig) -> Iterator[Finding]:
    """What each model that is to be trained starts from."""
    for model in config.compare.models:
        what, option, name, weights = encoder_named(config, model)
        try:
            encoder_digest(config, model)
            _, source = resolve_encoder(encoder_of(name), weights, option)
        except (ConfigError, DownstreamError, DualAnoDiffError) as error:
            yield Finding(what, "fault", str(error))
            continue
        if source == "hub":
            from timm.models import get_pretrained_cfg

            known = get_pretrained_cfg(name)
            place = known.hf_hub_id if known is not None else None
            yield from of_hub(what, place or name, "model.safetensors", f"{option}_weights", "FILE")
        else:
            yield Finding(what, "ok", name if weights == "hub" else f"{name}, {weights}")


def encoder_named(config: RunConfig, model: ModelName) -> tuple[str, str, str, str | Path]:
    """What it is called here, its option, the encoder's name or folder, its weights."""
    match model:
        case "localize":
            option, name, weights = (
                "localize.encoder",
                config.localize.encoder,
                config.localize.encoder_weights,
            )
        case "classify":
            option, name, weights = (
                "classify.encoder",
                config.classify.encoder,
                config.classify.encoder_weights,
            )
        case "detect":
            option, name, weights = "detect.backbone", config.detect.backbone, config.detect.backbone_weights
    return f"weights of {model}", option, name, weights


def quality_weights_found(config: QualityConfig) -> Iterator[Finding]:
    """The networks of IS, KID, FID and IC-LPIPS, which are never downloaded."""
    for option, figures in (("inception_weights", "IS, KID, FID"), ("lpips_weights", "IC-LPIPS")):
        path = getattr(config, option)
        if path is None:
            yield Finding(f"{figures}", "ok", f"left out: no quality.{option}")
        elif not path.is_file():
            yield Finding(
                f"{figures}", "fault", f"quality.{option}: no file {path}", "correct it, or leave it out"
            )
        else:
            yield Finding(f"{figures}", "ok", str(path))


def of_hub(
    what: str, name: str, file: str, option: str, kind: str, revision: str | None = None
) -> Iterator[Finding]:
    """Weights that a hub has: in its cache here, or at least within reach."""
    if isinstance(try_to_load_from_cache(name, file, revision=revision), str):
        yield Finding(what, "ok", f"{name}, in the hub's cache")
        return
    why = hub_silent()
    if why is None:
        yield Finding(what, "ok", f"{name}, not here: downloaded at first use")
    else:
        fix = (
            f"--set {option}={kind} on this machine, or fetch it where there is a network and copy the cache"
        )
        yield Finding(
            what, "fault", f"{name}: not in the hub's cache, and the hub cannot be reached ({why})", fix
        )


@lru_cache(maxsize=1)
def hub_silent() -> str | None:
    """Why the model hub cannot be reached; None if it can."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        httpx.head(constants.ENDPOINT, timeout=HUB_S)
    except httpx.HTTPError as error:
        return f"{constants.ENDPOINT}: {type(error).__name__}"
    return None
