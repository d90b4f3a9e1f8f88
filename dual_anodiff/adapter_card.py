"""adapter.json: what an adapter was made of and what it takes to draw with it. Read without torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dual_anodiff.config import AdapterConfig
from dual_anodiff.errors import AdapterError

DESCRIPTION = "adapter.json"
FORMAT = 1


@dataclass(frozen=True)
class ShotTrace:
    """What is kept of a shot's defect, to place others like it.

    box: of its mask, top, left, bottom, right in shares of the picture.
    contrast: how its latents differ from those around it, a list of channels for each branch.
    """

    box: list[float]
    contrast: list[list[float]]


@dataclass(frozen=True)
class AdapterCard:
    """What adapter.json holds: everything needed to draw pairs with the weights beside it.

    Units: mask_threshold is a distance from the background in [0, 1]; mask_iou is measured on the few shots themselves.
    """

    base: str
    base_fingerprint: str
    revision: str | None
    image_prompt: str
    anomaly_prompt: str
    size_px: int
    adapter: dict[str, Any]
    train_steps: int
    num_shots: int
    mask_threshold: float
    mask_iou: float
    seed: int
    normals: str | None = (
        None  # digest of the normals.safetensors beside it, which is fused into the base first
    )
    shots: list[ShotTrace] | None = None  # None: made before this was kept
    format: int = FORMAT


def adapter_config(card: AdapterCard) -> AdapterConfig:
    """How to attach a card's adapter; a card older than a setting has what was done before that setting."""
    return AdapterConfig(**{"background": "off", "background_from": "noised", **card.adapter})


def read_card(folder: Path) -> AdapterCard:
    """Read adapter.json.

    Raises: AdapterError if it is missing or of another format.
    """
    try:
        values = json.loads((folder / DESCRIPTION).read_text())
        shots = values.pop("shots", None)
        return AdapterCard(**values, shots=None if shots is None else [ShotTrace(**shot) for shot in shots])
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"{folder / DESCRIPTION}: {error}; is this the folder of a finished fine-tuning (made by this version)?"
        ) from error
