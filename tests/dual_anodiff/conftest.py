from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dual_anodiff.config import AdapterConfig, FinetuneConfig
from dual_anodiff.images import Shot
from tests.tiny_base import tiny_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> list[Shot]:
    """Three 80×64 px pictures, each with one bright square and its mask."""
    folder = tmp_path_factory.mktemp("shots")
    rng = np.random.default_rng(0)
    made = []
    for i in range(3):
        image = rng.integers(60, 90, (64, 80, 3), dtype=np.uint8)
        mask = np.zeros((64, 80), dtype=np.uint8)
        y, x = 10 + 12 * i, 20 + 10 * i
        mask[y : y + 14, x : x + 14] = 255
        image[mask > 0] = 230
        Image.fromarray(image).save(folder / f"{i}.png")
        Image.fromarray(mask).save(folder / f"{i}_mask.png")
        made.append(Shot(folder / f"{i}.png", folder / f"{i}_mask.png"))
    return made


@pytest.fixture(scope="session")
def config(base: Path) -> FinetuneConfig:
    return FinetuneConfig(
        base=str(base),
        size_px=64,
        adapter=AdapterConfig(lora_rank=4, saim_rank=8, text_encoder_lora_rank=2),
        train_steps=6,
        batch_size=2,
        learning_rate=1e-3,
        checkpoint_every_steps=3,
    )


@pytest.fixture(scope="session")
def normals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pictures of unlike size, the second grey."""
    folder, rng = tmp_path_factory.mktemp("normals"), np.random.default_rng(1)
    Image.fromarray(rng.integers(60, 90, (96, 120, 3), dtype=np.uint8)).save(folder / "0.png")
    Image.fromarray(rng.integers(60, 90, (70, 100), dtype=np.uint8)).save(folder / "1.png")
    return [folder / "0.png", folder / "1.png"]
