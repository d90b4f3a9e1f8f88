"""What a category's normals bear, found in the stage objects, and the augmentation of its models settled by it."""

import json
from typing import Any

from tasks.config import RunConfig
from tasks.errors import ArtifactError
from tasks.store.artifacts import Artifact

SYMMETRIES = "symmetries.json"


def read_symmetries(objects: Artifact) -> dict[str, Any]:
    """What was found, by the names of AugmentConfig's options. Raises: ArtifactError if it is missing or broken."""
    path = objects.path / SYMMETRIES
    try:
        found = json.loads(path.read_text())
        return {name: found[name] for name in ("horizontal_flip", "vertical_flip", "rotate90", "rotation")}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path}: can't be read ({error}); remove the folder, then run again") from error


def symmetries_text(found: dict[str, Any]) -> str:
    """What training pictures may be subjected to, in one sentence."""
    words = {
        "horizontal_flip": "mirrored left-right",
        "vertical_flip": "mirrored top-bottom",
        "rotate90": "turned by 90°",
    }
    allowed = [text for name, text in words.items() if found[name]]
    angle = "any angle" if found["rotation"] >= 180 else f"up to {found['rotation']:g}°"
    return f"by its normals, training pictures may be {', '.join([*allowed, f'rotated by {angle}'])}"


def with_symmetries(config: RunConfig, objects: Artifact | None) -> RunConfig:
    """The category's config: "auto" in localize.augment and classify.augment replaced by what its normals bear.

    Raises: ArtifactError if what was found can't be read.
    """
    asking = [name for name in ("localize", "classify") if getattr(config, name).augment.asks_normals]
    if objects is None or not asking:
        return config
    found = read_symmetries(objects)
    settled = {}
    for name in asking:
        model = getattr(config, name)
        settled[name] = model.model_copy(update={"augment": model.augment.settled(found)})
    return config.model_copy(update=settled)
