"""The classifier: a timm network whose body is loaded as an encoder and whose head is fresh; its folder on disk."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from downstream.config import ClassifyConfig
from downstream.encoder import EncoderSpec, from_hub, load_weights, resolve_encoder
from downstream.errors import EncoderError, ModelError, TrainingSetError
from downstream.images import load_pictures, normalize
from downstream.prediction import autocast

SECTION = "classify"
# Rows drawn without a real defect's shape have no defect type that one could tell apart.
UNTYPED = "perlin"


class NotClassifiableError(TrainingSetError):
    """Rows from which no classifier can be made: a reason to skip classification, not a failure of the run."""


class ClassificationModel(BaseModel):
    """model.json: all that it takes to use model.safetensors without the encoder it started from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["anodiff-classification-1"] = "anodiff-classification-1"
    encoder: EncoderSpec
    config: ClassifyConfig
    classes: tuple[str, ...]
    seed: int
    selected_step: int
    val_balanced_accuracy: float | None  # over the classes that validation has; None if it has none
    n_train: dict[str, int]
    n_val: dict[str, int]


def class_names(train: pd.DataFrame, expected: Sequence[str] | None = None) -> tuple[str, ...]:
    """`good`, then the defect types by name: those of the training rows, or the `expected` ones.

    Raises: NotClassifiableError for rows without defect types, fewer than two of them, or a class without a
    training picture.
    """
    untyped = int(((train["source"] == UNTYPED) | (train["label"] == UNTYPED)).sum())
    if untyped:
        raise NotClassifiableError(
            f"{untyped} training pictures are drawn by the {UNTYPED} generator and have no defect type: "
            "classification needs real, copy-paste or generated defects."
        )
    count = train["label"].value_counts()
    defects = sorted({*(expected if expected is not None else count.index)} - {"good"})
    if len(defects) < 2:
        raise NotClassifiableError(
            f"classification needs two defect types beside good, found {defects or 'none'}: "
            "with one, image-level detection answers the same question."
        )
    empty = [name for name in ("good", *defects) if count.get(name, 0) < 1]
    if empty:
        raise NotClassifiableError(
            f"no training picture of class {', '.join(empty)}: add shots or pairs of it, or leave it out."
        )
    unexpected = sorted(set(count.index) - {"good", *defects})
    if unexpected:
        raise NotClassifiableError(
            f"training pictures of {', '.join(unexpected)}, not among the expected classes {defects}."
        )
    return ("good", *defects)


def build_classifier(
    num_classes: int, encoder: Path | str, encoder_weights: str | Path = "hub"
) -> tuple[nn.Module, EncoderSpec]:
    """timm network for `num_classes` logits, body loaded, head fresh from torch's global generator.

    `encoder` is a folder or a timm name; `encoder_weights` counts for a name only. Shape: the network maps
    (b, 3, h, w) to (b, num_classes). Raises: EncoderError that names the option to change.
    """
    spec, weights = resolve_encoder(encoder, encoder_weights, section=SECTION)
    if weights == "hub":
        build = lambda: empty_classifier(spec, num_classes, pretrained=True)  # noqa: E731
        return from_hub(spec, build, section=SECTION), spec
    network = empty_classifier(spec, num_classes)
    if isinstance(weights, Path):
        untyped: Any = network
        head = {id(parameter) for parameter in untyped.get_classifier().parameters()}
        fresh = {name for name, parameter in network.named_parameters() if id(parameter) in head}
        load_weights(network, weights, spec.architecture, section=SECTION, fresh=fresh)
    return network, spec


def empty_classifier(spec: EncoderSpec, num_classes: int, *, pretrained: bool = False) -> nn.Module:
    """timm network with random or the hub's weights and a fresh head. Raises: EncoderError."""
    # timm pulls in torchvision, seconds on a small machine: only those who build a network pay for it.
    import timm

    try:
        network: nn.Module = timm.create_model(
            spec.architecture, pretrained=pretrained, num_classes=num_classes, **spec.model_args
        )
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        if pretrained:
            raise
        raise EncoderError(
            f"encoder {spec.architecture} with {spec.model_args}: timm cannot build it ({error}). "
            f"Choose another {SECTION}.encoder, such as resnet18."
        ) from error
    return network


def load_classifier(folder: Path, device: str = "cpu") -> tuple[nn.Module, ClassificationModel]:
    """Network in evaluation mode and its description. Raises: ModelError that names the file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model = ClassificationModel.model_validate(json.loads((folder / "model.json").read_text()))
        state = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder}: no complete classification model ({error}). Train it again.") from error
    except (ValidationError, ValueError) as error:
        raise ModelError(f"{folder / 'model.json'}: {error}") from error
    network = empty_classifier(model.encoder, len(model.classes))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"{folder / 'model.safetensors'}: does not fit model.json ({str(error)[:200]})"
        ) from error
    return network.to(device).eval(), model


def load_images(rows: pd.DataFrame, size_px: int) -> Tensor:
    """All pictures of the rows; masks are neither needed nor read. Shape: (n, 3, size_px, size_px) uint8."""
    return load_pictures(rows["image_path"].tolist(), [""] * len(rows), [0] * len(rows), size_px)[0]


def class_probabilities(
    network: nn.Module, images: Tensor, spec: EncoderSpec, *, precision: str = "auto", batch_size: int = 32
) -> NDArray[np.float32]:
    """By a network in evaluation mode, on its device. Shape: (n, 3, s, s) uint8 → (n, k), rows sum to 1."""
    device = next(network.parameters()).device
    probabilities = []
    with torch.inference_mode():
        for batch in images.split(batch_size):
            pixels = normalize(batch.to(device).float() / 255, spec.mean, spec.std)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            with autocast(device, precision):
                logits = network(pixels)
            probabilities.append(logits.float().softmax(1).cpu())
    return torch.cat(probabilities).numpy()


def draw_class_batches(
    labels: Sequence[str], sources: Sequence[str], config: ClassifyConfig, seed: int
) -> Iterator[NDArray[np.int64]]:
    """Row numbers of batch after batch, every class equally often, of a defect type real_share real pictures.

    `sources` as training_set gives them: "real" counts as real, all others but "normal" as made. Within a class
    and source every row comes once before any comes twice; shares hold on average over batches.
    """
    label, real = np.asarray(labels), np.asarray(sources) == "real"
    generator = np.random.default_rng(seed)
    classes = sorted(set(label.tolist()))
    share, rows = {}, {}
    for name in classes:
        kinds = {kind: np.flatnonzero((label == name) & (real == kind)) for kind in (True, False)}
        for kind, members in kinds.items():
            if len(members):
                both = all(len(each) for each in kinds.values())
                of_kind = (config.real_share if kind else 1 - config.real_share) if both else 1.0
                share[name, kind] = of_kind / len(classes)
                rows[name, kind] = _rounds(members, generator)
    owed = dict.fromkeys(share, 0.0)
    while True:
        batch = []
        for _ in range(config.batch_size):
            # Whoever is furthest behind its share comes next; ties go to the first.
            for key in owed:
                owed[key] += share[key]
            key = max(owed, key=owed.__getitem__)
            owed[key] -= 1
            batch.append(next(rows[key]))
        yield np.asarray(batch, dtype=np.int64)


def _rounds(members: NDArray[np.int64], generator: np.random.Generator) -> Iterator[int]:
    """All members in random order, again and again."""
    while True:
        yield from generator.permutation(members).tolist()
