"""No training, selection or threshold reads a test picture: with other test pictures all of them stay byte for byte."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tasks.config import RunConfig
from tasks.report.run_folder import RunSummary
from tasks.tables.pairs import PATHS
from tasks.tables.prepared import SPLIT
from tests.flows.running import run
from tests.tasks.data_folders import save

# What a model leaves of the test pictures; every other file of a stage is made without them.
OF_TEST = {"predictions.npz", "metrics.parquet", "confusion.parquet", "manifest.json"}


def planted(seed: int, px: int = 48) -> NDArray[np.float64]:
    """Noise with a bright square: like no picture of the data, nor like another planted one."""
    pixels = np.random.default_rng(seed).uniform(0, 120, size=(px, px))
    pixels[10:30, 10:30] = 255
    return pixels


def folders(config: RunConfig, summary: RunSummary) -> dict[str, Path]:
    return {
        f"{stage.stage} {stage.label}": config.store / "artifacts" / str(stage.artifact)
        for stage in summary.stages
    }


def content(path: Path) -> bytes:
    """A file's bytes; a table of pairs without the names of the artifacts that drew them, which follow the data's."""
    if path.name != "pairs.parquet":
        return path.read_bytes()
    return pd.read_parquet(path).drop(columns=["adapter_key", *PATHS], errors="ignore").to_csv().encode()


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in OF_TEST
    }


def replace_test_pictures(split: pd.DataFrame, category: Path) -> None:
    """Plant a marked picture in place of every test picture, and another mask for every test mask."""
    for number, row in enumerate(split[split["split"] == "test"].to_dict("records")):
        save(category / row["image_path"], planted(number))
        if row["mask_path"]:
            save(category / row["mask_path"], np.where(planted(number) == 255, 255.0, 0.0))


@pytest.mark.timeout(900)  # two whole runs
def test_other_test_pictures_change_the_predictions_and_nothing_else(
    config: RunConfig, tmp_path: Path
) -> None:
    normals = config.finetune.normals.model_copy(update={"train_steps": 2, "batch_size": 1, "lora_rank": 2})
    finetune = config.finetune.model_copy(update={"adapt_to_normals": True, "normals": normals})
    compare = config.compare.model_copy(
        update={
            "models": ("localize", "classify", "detect"),
            "training_sets": ("real", "generated+real"),
        }
    )
    # Both ways to choose a checkpoint: the last one, and that of the best validation figure.
    localize = config.localize.model_copy(update={"select": "validation", "evaluate_every_steps": 1})
    ours = config.model_copy(update={"finetune": finetune, "compare": compare, "localize": localize})
    first = folders(ours, run(ours))
    split = pd.read_csv(first["prepare bolt"] / SPLIT, keep_default_na=False)

    shutil.copytree(config.data, tmp_path / "planted")
    replace_test_pictures(split, tmp_path / "planted" / "bolt")
    theirs = ours.model_copy(update={"data": tmp_path / "planted", "store": tmp_path / "other store"})
    other = folders(theirs, run(theirs))

    planted_split = pd.read_csv(other["prepare bolt"] / SPLIT, keep_default_na=False)
    pd.testing.assert_frame_equal(
        planted_split.drop(columns=["sha256", "group"]), split.drop(columns=["sha256", "group"])
    )
    changed = split["sha256"] != planted_split["sha256"]
    assert changed.tolist() == (split["split"] == "test").tolist()

    trained = [name for name in first if not name.startswith(("prepare", "report", "page"))]
    assert len(trained) == 2 + 2 * 4 + 3 * 2
    for name in trained:
        here, there = files(first[name]), files(other[name])
        assert {file for file in here if here[file] != there.get(file)} == set(), name
        assert set(here) == set(there), name
    models = [name for name in trained if name.startswith(tuple(compare.models))]
    for name in models:
        assert {"model.safetensors", "model.json"} <= set(files(first[name])), name
        # The pictures that were planted are those that are tested: else all of the above would hold of any code.
        read, replaced = ((each[name] / "predictions.npz").read_bytes() for each in (first, other))
        assert read != replaced, name
