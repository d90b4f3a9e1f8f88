"""The pairs' key: a wish counts by what it is, no wish by nothing; what is said of a wish that fits the defects badly."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from dual_anodiff.config import GenerateConfig, WhereConfig
from tasks.config import RunConfig
from tasks.errors import ConfigError
from tasks.stages.generate import plan_generate, warn_of_thin_defects
from tasks.store.artifacts import plan


def key(tmp_path: Path, where: WhereConfig) -> str:
    config = RunConfig(data=tmp_path, store=tmp_path / "store", generate=GenerateConfig(where=where))
    return plan_generate(config, plan(config.store, "finetune", 1, "bolt", label="bolt/dent")).out.digest


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


def test_boxes_for_thin_defects_are_warned_of(tmp_path: Path, said: list[str]) -> None:
    marks = {"crack": ([(10, 30), (60, 50), (110, 40)], 2), "dent": ([(40, 40), (70, 40)], 20)}
    for name, (points, width) in marks.items():
        mask = Image.new("L", (128, 128))
        ImageDraw.Draw(mask).line(points, fill=255, width=width)
        mask.save(tmp_path / f"{name}.png")

    def warn(name: str, where: WhereConfig) -> None:
        shots = pd.DataFrame({"mask_path": [str(tmp_path / f"{name}.png")]})
        warn_of_thin_defects(f"bolt/{name}", shots, where, size_px=128)

    warn("dent", WhereConfig(size="shots"))
    warn("crack", WhereConfig(region=tmp_path / "crack.png"))
    assert said == []
    warn("crack", WhereConfig(region=(0, 0, 0.5, 0.5)))
    assert len(said) == 1
    assert "bolt/crack: its defects are thin" in said[0]
    assert "generate.where.region" in said[0]
