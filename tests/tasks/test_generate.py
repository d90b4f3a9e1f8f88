"""The pairs' key: a wish counts by what it is, no wish by nothing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dual_anodiff.config import GenerateConfig, WhereConfig
from tasks.artifacts import plan
from tasks.config import RunConfig
from tasks.errors import ConfigError
from tasks.generate import plan_generate


def key(tmp_path: Path, where: WhereConfig) -> str:
    config = RunConfig(data=tmp_path, store=tmp_path / "store", generate=GenerateConfig(where=where))
    return plan_generate(config, plan(config.store, "finetune", 1, "bolt", label="bolt/dent")).digest


def test_a_wished_region_enters_the_key_by_what_is_in_its_file(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[:4] = 255
    for name in ("a.png", "b.png"):
        Image.fromarray(mask).save(tmp_path / name)
    first = key(tmp_path, WhereConfig(region=tmp_path / "a.png"))
    assert key(tmp_path, WhereConfig(region=tmp_path / "b.png")) == first
    Image.fromarray(255 - mask).save(tmp_path / "a.png")
    wishes = [
        WhereConfig(),
        WhereConfig(region=tmp_path / "a.png"),
        WhereConfig(region=tmp_path / "b.png", size="shots"),
        WhereConfig(region=(0, 0, 0.5, 0.5)),
        WhereConfig(size="shots"),
        WhereConfig(size=(0.1, 0.2)),
    ]
    assert len({first, *(key(tmp_path, wish) for wish in wishes)}) == 7
    with pytest.raises(ConfigError, match=r"generate\.where\.region: .*gone\.png is no file"):
        key(tmp_path, WhereConfig(region=tmp_path / "gone.png"))
