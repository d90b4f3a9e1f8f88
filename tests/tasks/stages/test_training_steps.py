"""The choice of steps for every kind of model, on folds of drawn squares; an open number is chosen before it is used."""

from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from downstream.config import ClassifyConfig, DetectConfig, LocalizeConfig
from downstream.localization import train_localization
from downstream.training_sets import TrainingSet
from tasks.config import ModelName, RunConfig
from tasks.stages.training_steps import build_training_steps
from tasks.tables.chosen_steps import SCORE, read_folder
from tests.tasks.data_folders import healthy_category


@pytest.fixture
def fold(tmp_path: Path) -> TrainingSet:
    """Two defect types: two shots of each to train on, one of each held out, normals on both sides."""
    folder = healthy_category(tmp_path / "bolt", normals=6, tests=2, defects=3)

    def rows(pattern: str, label: str) -> pd.DataFrame:
        paths = sorted(folder.glob(pattern))
        masks = [
            str(folder / "ground_truth" / label / f"{p.stem}_mask.png") if label != "good" else ""
            for p in paths
        ]
        source = "normal" if label == "good" else "real"
        table = {"image_path": [str(p) for p in paths], "mask_path": masks, "label": label, "source": source}
        return pd.DataFrame(table).assign(label_index=int(label != "good"))

    good = rows("train/good/*.png", "good")
    shots = {label: rows(f"test/{label}/*.png", label) for label in ("dent", "stain")}
    train = pd.concat([good[:4], *(of_type[:2] for of_type in shots.values())], ignore_index=True)
    val = pd.concat([good[4:], *(of_type[2:] for of_type in shots.values())], ignore_index=True)
    return TrainingSet("real", train, val)


@pytest.mark.parametrize("model", ["localize", "classify", "detect"])
def test_each_kind_of_model_is_scored_over_its_steps(
    model: ModelName, fold: TrainingSet, tmp_path: Path
) -> None:
    random = {"encoder": "resnet10t", "encoder_weights": "random", "size_px": 32, "batch_size": 2}
    steps = {"train_steps": "auto", "auto_steps": (1, 2)}
    config = RunConfig(
        data=tmp_path,
        store=tmp_path / "store",
        localize=LocalizeConfig.model_validate(random | steps | {"decoder_channels": (8, 8, 8, 8, 8)}),
        classify=ClassifyConfig.model_validate(random | steps),
        detect=DetectConfig.model_validate(
            {"model": "supersimplenet", "backbone": "resnet10t", "backbone_weights": "random", "size_px": 128}
            | {"batch_size": 2, **steps}
        ),
    )
    out = tmp_path / "out"
    out.mkdir()
    build_training_steps([fold, fold], model, config, out)
    found = read_folder(out)
    assert found.chosen in (1, 2)
    assert found.why == "best on shots held out in 2 folds"
    assert found.curve[["fold", "step"]].to_dict("list") == {"fold": [1, 1, 2, 2], "step": [1, 2, 1, 2]}
    assert found.curve["score"].between(0, 1).all()
    assert set(found.curve["n_shots"]) == {2}
    assert set(SCORE) == {"localize", "classify", "detect"}
    assert sorted(path.name for path in out.iterdir()) == ["curve.parquet", "steps.json"], "no model is kept"


def test_an_open_number_of_steps_is_refused_where_it_cannot_be_chosen(
    fold: TrainingSet, tmp_path: Path
) -> None:
    for model in ("efficientad", "supersimplenet-unsupervised"):
        with pytest.raises(ValidationError, match=f"train_steps auto: {model} learns from normals alone"):
            DetectConfig.model_validate({"model": model, "train_steps": "auto", "picture_folder": tmp_path})
    with pytest.raises(ValidationError, match="auto_steps: 9 to 3; give the fewest steps first"):
        LocalizeConfig(auto_steps=(9, 3))
    config = LocalizeConfig(encoder="resnet10t", encoder_weights="random", size_px=32, train_steps="auto")
    with pytest.raises(ValueError, match=r"localize\.train_steps is auto: choose a number first"):
        train_localization(fold.train, fold.val, config, tmp_path / "model")
