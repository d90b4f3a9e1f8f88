"""The adapter that few-shot fine-tuning starts from: fresh, or one that a base brings, trained on many defects.

Read without torch: a plan asks for it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dual_anodiff.base import fingerprint, resolve_base
from dual_anodiff.config import FinetuneConfig
from dual_anodiff.errors import AdapterError

WEIGHTS, DESCRIPTION = "adapter.safetensors", "initial.json"
FOLDER = "adapter"  # beside a base's unet and vae
SIZES = ("lora_rank", "saim_rank", "text_encoder_lora_rank")


@dataclass(frozen=True)
class InitialCard:
    """What initial.json holds: for which base and of which sizes, trained how."""

    base_fingerprint: str
    adapter: dict[str, Any]
    train_steps: int
    num_pictures: int
    seed: int


def initial_adapter(config: FinetuneConfig) -> Path | None:
    """The folder of the adapter to start from; None for a fresh one.

    'auto' takes the base's own, where it has one of the sizes asked for.
    Raises: AdapterError if a folder that was asked for has none, or of other sizes or for another base.
    """
    if config.initial_adapter == "fresh":
        return None
    if config.initial_adapter == "auto":
        folder = Path(resolve_base(config.base)) / FOLDER
        fits = (folder / DESCRIPTION).is_file() and _misfit(folder, config) is None
        return folder if fits else None
    folder = Path(config.initial_adapter).expanduser()
    misfit = _misfit(folder, config)
    if misfit is not None:
        raise AdapterError(f"finetune.initial_adapter: {folder}: {misfit}")
    return folder


def read_initial(folder: Path) -> InitialCard:
    """Raises: AdapterError if it is missing or of another format."""
    try:
        return InitialCard(**json.loads((folder / DESCRIPTION).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise AdapterError(
            f"{folder / DESCRIPTION}: {error}; give a folder that `python -m dual_anodiff.pretrain adapter` wrote"
        ) from error


def initial_digest(folder: Path) -> str:
    """Hash of its weights, for the key of what is fine-tuned from it."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]


def _misfit(folder: Path, config: FinetuneConfig) -> str | None:
    """Why an adapter can't be the start of this fine-tuning."""
    card = read_initial(folder)
    if card.base_fingerprint != fingerprint(config.base):
        return f"was made for another base than '{config.base}'"
    other = [name for name in SIZES if card.adapter[name] != getattr(config.adapter, name)]
    if other:
        told = ", ".join(f"{name} {card.adapter[name]}" for name in other)
        return f"has {told}; set finetune.adapter to these, or initial_adapter to 'fresh'"
    return None
