"""Pairs in a run: more is drawn for refused ones, backgrounds join where there are objects, a search sets the sampling."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from dual_anodiff.demo_data import write_demo_data
from flows.cli import app
from tasks.config import RunConfig
from tasks.data.split import read_split
from tasks.report.run_folder import RunSummary
from tasks.tables.prepared import SPLIT
from tests.flows.running import run


def stages(summary: RunSummary, stage: str) -> dict[str, str | None]:
    """Label and artifact."""
    return {each.label: each.artifact for each in summary.stages if each.stage == stage}


def test_more_is_drawn_until_the_budget_is_spent_and_each_pair_keeps_its_reason(config: RunConfig) -> None:
    # A random base's masks cover the whole picture: all are refused.
    strict = config.model_copy(
        update={
            "defects": ("dent",),
            "curate": config.curate.model_copy(update={"rules": ("empty", "too_large"), "max_draws": 2.5}),
        }
    )
    summary = run(strict)
    assert list(stages(summary, "generate")) == ["bolt/dent", "bolt/dent, from 3"]
    pairs = pd.read_parquet(summary.folder / "pairs.parquet")
    assert pairs["index"].tolist() == list(range(7)), "7 of 3: not more than 2.5 times as many"
    assert (pairs["reasons"] == "mask too large").all()
    assert [path.name for path in summary.sheets] == ["bolt-dent-refused.png", "bolt-dent.png"]
    failed = {each.stage for each in summary.stages if each.status == "failed"}
    assert failed == {"localize"}, "there is nothing to learn from, and that is said"
    again = run(strict)
    assert {each.status for each in again.stages} == {"cached", "failed"}


@pytest.fixture
def demo(config: RunConfig, tmp_path: Path) -> RunConfig:
    write_demo_data(tmp_path / "data", categories=["nut"], num_train=8, num_test_good=2, num_defects=3)
    adapter = config.finetune.adapter.model_copy(update={"background": "residual"})
    return config.model_copy(
        update={
            "data": tmp_path / "data",
            "categories": None,
            "defects": ("scratch",),
            "finetune": config.finetune.model_copy(update={"adapter": adapter}),
            "compare": config.compare.model_copy(update={"training_sets": ("real",)}),
        }
    )


def test_each_pair_of_an_object_has_a_normal_as_its_background_in_a_run_and_without_one(
    demo: RunConfig, yaml_file: Path, tmp_path: Path
) -> None:
    nut = run(demo)
    assert nut.state == "completed"
    (drawn,) = stages(nut, "generate").values()
    assert drawn is not None
    pairs = pd.read_parquet(demo.store / "artifacts" / drawn / "pairs.parquet")
    normals = {path.name for path in (demo.data / "nut/train/good").iterdir()}
    assert set(pairs["background"]) <= normals
    assert all(pairs["background"])

    (trained,), (prepared,) = stages(nut, "finetune").values(), stages(nut, "prepare").values()
    assert trained is not None
    assert prepared is not None
    artifacts = demo.store / "artifacts"
    split = read_split(artifacts / prepared / SPLIT, demo.data / "nut")
    known = tmp_path / "nut" / "train" / "good"
    known.mkdir(parents=True)
    for picture in split.query("split == 'train' and label == 'good'")["image_path"]:
        shutil.copy(picture, known)
    command = ["generate", str(artifacts / trained), str(tmp_path / "out"), "--config", str(yaml_file)]
    command += ["--backgrounds", str(tmp_path / "nut"), "--num-pairs", "3", "--device", "cpu"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    alone = pd.read_parquet(tmp_path / "out" / "pairs.parquet")
    pd.testing.assert_frame_equal(alone, pairs)
    for path in alone["image_path"]:
        assert (tmp_path / "out" / path).read_bytes() == (artifacts / drawn / path).read_bytes()
    assert (tmp_path / "out" / "objects" / "objects.png").is_file()


def test_a_search_sets_the_sampling_of_its_defect_type(config: RunConfig) -> None:
    search = config.search.model_copy(
        update={"rounds": 1, "num_pairs": 2, "guidance_scale": (1.0, 2.0), "adapter_strength": (0.5,)}
    )
    summary = run(config.model_copy(update={"search": search, "defects": ("dent",)}))
    assert summary.state == "completed"
    (found,) = stages(summary, "search").values()
    assert found is not None
    candidates = pd.read_parquet(config.store / "artifacts" / found / "candidates.parquet")
    assert len(candidates) >= 3
    (chosen,) = candidates[candidates["chosen"]].to_dict("records")
    (drawn,) = stages(summary, "generate").values()
    assert drawn is not None
    pairs = pd.read_json(config.store / "artifacts" / drawn / "manifest.json", typ="series")["inputs"]
    assert (pairs["guidance_scale"], pairs["adapter_strength"]) == (
        chosen["guidance_scale"],
        chosen["adapter_strength"],
    )
