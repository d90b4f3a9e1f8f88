"""train_steps: auto in a run: folds of the shots, a choice for each training set, no test picture, all of it cached."""

import json

import pandas as pd
import pytest

from flows.cli.tables import figures_table
from tasks.config import RunConfig
from tasks.data.split import Fold
from tasks.report.run_folder import RunSummary
from tasks.store.artifacts import Artifact
from tasks.tables.training_rows import Pictures, rows_of, rows_of_fold
from tests.flows.running import only, run, stage_path


@pytest.fixture
def auto(config: RunConfig) -> RunConfig:
    """The tiny run with two shots of each type, the U-Net's steps left open."""
    compare = config.compare.model_copy(update={"training_sets": ("real", "copy-paste", "generated+real")})
    localize = config.localize.model_copy(update={"train_steps": "auto", "auto_steps": (2, 4)})
    split = config.split.model_copy(update={"shots": 2})
    return config.model_copy(update={"compare": compare, "localize": localize, "split": split})


def test_each_training_set_takes_the_steps_that_held_out_shots_choose(auto: RunConfig) -> None:
    summary = run(auto)
    assert summary.state == "completed"
    ran = only(summary, "ran")
    assert {
        "finetune bolt/dent, fold 1 of 2",
        "curate bolt/stain, fold 2 of 2",
        "synthesize bolt/copy-paste, fold 1 of 2",
        "training_steps bolt/localize on real",
        "training_steps bolt/localize on generated+real",
    } <= ran
    steps = pd.read_parquet(summary.folder / "training_steps.parquet")
    pd.testing.assert_frame_equal(steps, summary.steps)
    assert set(steps["training_set"]) == {"real", "copy-paste", "generated+real"}
    assert set(steps["step"]) <= {2, 3, 4}
    assert set(steps["fold"]) == {1, 2}
    assert set(steps["n_shots"]) == {2}, "one of two shots of each of two types is held out"
    for name, of_set in steps.groupby("training_set"):
        (chosen,) = set(of_set["chosen"])
        model = json.loads(
            (stage_path(auto, summary, f"localize bolt/{name}/seed 0") / "model.json").read_text()
        )
        assert model["selected_step"] == model["config"]["train_steps"] == chosen
    table = figures_table(summary, "localize")
    assert [column.header for column in table.columns][:3] == ["category", "training set", "steps"]
    assert "How long each model was trained" in (summary.folder / "report.html").read_text()

    check_folds(auto, summary)
    assert only(run(auto), "ran") == set(), "a second run finds every choice"
    fixed = auto.localize.model_copy(update={"train_steps": 3})
    again = run(auto.model_copy(update={"localize": fixed}))
    assert not [stage for stage in again.stages if stage.stage == "training_steps"]
    assert again.steps.empty


def check_folds(auto: RunConfig, summary: RunSummary) -> None:
    """No fold trains on a shot that it is scored on, itself or by way of a generator; no test picture is read."""
    (prepared,) = [stage for stage in summary.stages if stage.stage == "prepare"]
    pairs = [each for each in summary.stages if each.stage == "curate" and "fold" not in each.label]
    generated = {each.label.removeprefix("bolt/"): named(auto, each.artifact) for each in pairs}
    full = Pictures(named(auto, prepared.artifact), generated)
    _, test = rows_of(full, "real", auto)
    scored: list[str] = []
    for number in range(2):
        fold = Pictures(full.prepared, full.generated, choice=Fold(number, 2))
        rows = rows_of_fold(fold, "real", auto)
        assert rows is not None
        assert set(rows.train["image_path"]).isdisjoint(rows.val["image_path"])
        assert set(rows.val["image_path"]).isdisjoint(test["image_path"])
        assert set(rows.val["source"]) == {"normal", "real"}
        scored += rows.val.loc[rows.val["label_index"] == 1, "image_path"].tolist()
    assert len(scored) == len(set(scored)) == 4
    (steps,) = [s.artifact for s in summary.stages if s.label == "bolt/localize on generated+real"]
    assert steps is not None
    folds = json.loads((auto.store / "artifacts" / steps / "manifest.json").read_text())["inputs"]["folds"]
    made = [ref for fold in folds for ref in fold["pairs"].values()]
    assert len(set(made)) == 4, "each fold has pairs of its own generators"
    for fold in folds:
        for ref in fold["pairs"].values():
            curated = json.loads((auto.store / "artifacts" / ref / "manifest.json").read_text())["inputs"]
            assert curated["fold"] == fold["fold"]


def named(config: RunConfig, ref: str | None) -> Artifact:
    assert ref is not None
    stage, category, digest = ref.split("/")
    return Artifact(config.store, stage, category, digest, category, inputs={})


def test_with_one_shot_the_middle_is_taken_and_said(auto: RunConfig) -> None:
    split = auto.split.model_copy(update={"shots": 1})
    compare = auto.compare.model_copy(update={"training_sets": ("real", "generated+real")})
    summary = run(auto.model_copy(update={"split": split, "compare": compare}))
    assert summary.state == "completed"
    assert not [stage for stage in summary.stages if "fold" in stage.label], (
        "no generator is trained for nothing"
    )
    row, other = summary.steps.to_dict("records")
    assert (row["training_set"], other["training_set"]) == ("real", "generated+real")
    assert (row["chosen"], row["fold"]) == (3, 0)
    assert "none could be held out: the middle of 2 to 4" in row["why"]
    assert row["why"] in (summary.folder / "report.html").read_text()
