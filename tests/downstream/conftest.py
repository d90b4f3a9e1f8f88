"""Small pictures on disk and a random encoder folder, drawn once per test run."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from downstream.config import LocalizeConfig

SIZE_PX = 64


@dataclass(frozen=True)
class Squares:
    """Noise pictures, some with bright squares: the samples table and generated pairs of a toy category."""

    samples: pd.DataFrame
    pairs: pd.DataFrame


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks run faster on one thread, and sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_square(folder: Path, name: str, generator: np.random.Generator, defect: bool) -> tuple[str, str]:
    """Write noise, with one bright square if `defect`, and its mask; return both paths ("" for no mask)."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = generator.normal(110, 12, (SIZE_PX, SIZE_PX, 3))
    mask = np.zeros((SIZE_PX, SIZE_PX), dtype=np.uint8)
    if defect:
        side = int(generator.integers(8, 16))
        y, x = generator.integers(0, SIZE_PX - side, 2)
        picture[y : y + side, x : x + side] += 45
        mask[y : y + side, x : x + side] = 255
    image_path, mask_path = folder / f"{name}.png", folder / f"{name}_mask.png"
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(image_path)
    if not defect:
        return str(image_path), ""
    Image.fromarray(mask).save(mask_path)
    return str(image_path), str(mask_path)


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Squares:
    """16 + 6 normals, 3 shots, 22 test pictures and 20 pairs, of defect type "spot" (and "dot" in the test set)."""
    root = tmp_path_factory.mktemp("squares")
    generator = np.random.default_rng(0)
    rows = []
    parts = [("train", "good", 16), ("val", "good", 6), ("test", "good", 11), ("train", "spot", 3)]
    parts += [("test", "spot", 6), ("test", "dot", 5)]
    for split, label, count in parts:
        for i in range(count):
            paths = draw_square(root / split / label, f"{i:03}", generator, label != "good")
            rows.append(("toy", *paths, label, int(label != "good"), split))
    pairs = [(*draw_square(root / "pairs", f"{i:03}", generator, True), "spot") for i in range(20)]
    columns = ["category", "image_path", "mask_path", "label", "label_index", "split"]
    return Squares(
        pd.DataFrame(rows, columns=columns), pd.DataFrame(pairs, columns=["image_path", "mask_path", "label"])
    )


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random resnet10t, saved in half precision, timm's naming."""
    import timm
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("encoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("resnet10t", num_classes=0)
    state = {n: t.half() if t.is_floating_point() else t for n, t in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    config = {"architecture": "resnet10t", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> LocalizeConfig:
    """Small enough for seconds on one core."""
    return LocalizeConfig(
        size_px=SIZE_PX,
        train_steps=4,
        batch_size=4,
        evaluate_every_steps=2,
        decoder_channels=(32, 16, 16, 8, 8),
    )
