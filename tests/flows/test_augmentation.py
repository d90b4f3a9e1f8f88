"""The whole chain on real, tiny stages: what is cached, what is done again, what a failure leaves alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.augmentation import augment
from flows.cli import app
from tasks.config import RunConfig, load_config
from tasks.report.run_folder import RunSummary
from tasks.stages.finetune import plan_finetune
from tasks.stages.prepare import plan_prepare
from tasks.store.artifacts import plan
from tests.flows.running import STAGES, artifact, block, only, run, stage_path, statuses


def test_a_run_from_start_to_end_and_what_makes_its_stages_run_again(config: RunConfig) -> None:
    first = run(config)
    assert statuses(first) == dict.fromkeys(STAGES, "ran")
    check_run_folder(config, first)

    again = run(config)
    assert statuses(again) == dict.fromkeys(STAGES, "cached")
    assert again.run != first.run
    pd.testing.assert_frame_equal(again.metrics.drop(columns="run"), first.metrics.drop(columns="run"))
    assert set(again.metrics["run"]) == {again.run}

    # A deleted and a damaged artifact: these stages run again, and no other; what they make is the same.
    shutil.rmtree(stage_path(config, first, "finetune bolt/dent"))
    pair = stage_path(config, first, "generate bolt/stain") / "mask" / "000001.png"
    before = pair.read_bytes()
    Image.new("L", (64, 64), 7).save(pair)
    mended = run(config)
    assert only(mended, "ran") == {"finetune bolt/dent", "generate bolt/stain"}
    assert pair.read_bytes() == before
    assert only(mended, "failed") == set()

    # A changed field runs the stages that read it and those after them.
    changed = config.model_copy(update={"localize": config.localize.model_copy(update={"train_steps": 3})})
    assert only(run(changed), "ran") == {
        name for name in STAGES if name.startswith(("localize", "report", "page"))
    }

    # Prefect's own record gone, a moved store, another copy of the same data, fields that change no artifact: nothing
    # is made again.
    shutil.rmtree(config.store / "results")
    shutil.copytree(config.data, config.store.parent / "copy")
    config.store.rename(config.store.parent / "moved")
    elsewhere = config.model_copy(
        update={
            "generate": config.generate.model_copy(update={"batch_size": 2}),
            "finetune": config.finetune.model_copy(update={"checkpoint_every_steps": 7}),
            "device": "cpu",
            "data": config.store.parent / "copy",
            "store": config.store.parent / "moved",
        }
    )
    assert only(run(elsewhere), "cached") == set(STAGES)


def check_run_folder(config: RunConfig, summary: RunSummary) -> None:
    """run.json refers to artifacts by name; tables and sheets are there; no artifact holds a path of the data."""
    described = json.loads((summary.folder / "run.json").read_text())
    assert described["state"] == "completed"
    assert str(config.store) not in (summary.folder / "run.json").read_text()
    for stage in described["stages"]:
        assert (artifact(config, stage["artifact"]) / "manifest.json").is_file()
    for file in (config.store / "artifacts").rglob("*"):
        assert not file.is_file() or str(config.data).encode() not in file.read_bytes(), file
    assert not list((config.store / "staging").rglob("out"))

    metrics = pd.read_parquet(summary.folder / "metrics.parquet")
    of_all = metrics[(metrics["defect_type"] == "all") & (metrics["size"] == "all")]
    assert set(of_all["training_set"]) == {"real", "generated+real"}
    assert {
        "image_auroc",
        "image_ap",
        "image_f1_max",
        "pixel_auroc",
        "pixel_ap",
        "pixel_f1_max",
        "aupro",
    } <= set(of_all["metric"])
    pairs = pd.read_parquet(summary.folder / "pairs.parquet")
    assert pairs.groupby("label").size().to_dict() == {"dent": 3, "stain": 3}
    assert {"run", "category", "reasons", "seed", "adapter_key"} <= set(pairs.columns)
    quality = pd.read_parquet(summary.folder / "quality.parquet")
    assert set(quality["defect"]) == {"dent", "stain"}
    lift = pd.read_parquet(summary.folder / "lift.parquet")
    assert set(lift["training_set"]) == {"generated+real"}
    assert (lift["low"] <= lift["difference"]).all() or lift["low"].isna().any()
    assert [sheet.name for sheet in summary.sheets] == ["bolt-dent.png", "bolt-stain.png"]
    with Image.open(summary.sheets[0]) as sheet:
        assert sheet.width > 5 * 32
        assert sheet.height > 2 * 32


def test_a_failing_defect_and_category_leave_the_others_alone(
    config: RunConfig, yaml_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = config.model_copy(update={"categories": ("bolt", "nut")})
    in_the_way = [block(plan_finetune(both, plan_prepare(both, "bolt").out, "dent").out)]
    in_the_way += [
        block(plan_finetune(both, plan_prepare(both, "nut").out, d).out) for d in ("dent", "stain")
    ]
    arguments = ["run", "--config", str(yaml_file), "--categories", "bolt,nut", "--store", str(config.store)]
    monkeypatch.setattr("sys.argv", ["anodiff", *arguments])
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1, result.output
    assert "Failed" in result.output
    assert "a stage before it failed" in result.output
    assert "NotADirectoryError" in result.output
    assert "Traceback" not in result.output
    assert " ".join(["anodiff", *arguments]) in result.output.replace("\n", "")
    assert "Figures lack what failed in: bolt, nut" in result.output

    for path in in_the_way:
        path.unlink()
    summary = run(both)
    assert summary.state == "completed"
    cached = only(summary, "cached")
    whole = {f"{stage} bolt/stain" for stage in ("finetune", "generate", "curate", "quality")}
    assert cached == whole | {
        f"{stage} {category}" for stage in ("prepare", "objects") for category in ("bolt", "nut")
    }
    # With all pairs there, the models are other ones than those of the run that lacked some.
    assert {"localize bolt/real/seed 0", "localize nut/real/seed 0", "report bolt", "page bolt"} <= only(
        summary, "ran"
    )


def remove_a_mask(data: Path) -> None:
    (data / "nut/ground_truth/stain/000_mask.png").unlink()


def break_a_picture(data: Path) -> None:
    (data / "nut/train/good/001.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("arguments", "damage", "expected"),
    [
        (["--set", "finetune.steps=5"], None, "did you mean finetune.train_steps?"),
        (
            ["--set", "finetune.train_steps=0"],
            None,
            "finetune.train_steps: 0 is not allowed; allowed: a whole number",
        ),
        (["--categories", "bolt,cable"], None, "no category cable"),
        (["--defects", "crack"], None, "no defect type crack; found: dent, stain"),
        (["--set", "finetune.base=/nowhere"], None, "/nowhere"),
        (
            ["--set", "localize.encoder_weights=/no", "--set", "localize.encoder=resnet18"],
            None,
            "no file /no",
        ),
        (["--data", "/nowhere"], None, "/nowhere: no such folder"),
        (["--categories", "bolt,nut"], remove_a_mask, "mask missing"),
        (["--categories", "bolt,nut"], break_a_picture, "001.png"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(
    config: RunConfig,
    yaml_file: Path,
    tmp_path: Path,
    arguments: list[str],
    damage: Callable[[Path], None] | None,
    expected: str,
) -> None:
    if damage is not None:
        shutil.copytree(config.data, tmp_path / "data")
        damage(tmp_path / "data")
        arguments = [*arguments, "--data", str(tmp_path / "data")]
    result = CliRunner().invoke(
        app, ["run", "--config", str(yaml_file), "--store", str(config.store), *arguments]
    )
    assert result.exit_code == 2, result.output
    assert expected in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (config.store / "artifacts" / "finetune").exists()


def test_a_config_is_a_form_that_prefect_can_show() -> None:
    schema = augment.parameters.model_dump()["definitions"]["RunConfig"]
    assert schema["properties"]["device"]["enum"] == ["auto", "cpu", "cuda"]
    train_steps = augment.parameters.model_dump()["definitions"]["FinetuneConfig"]["properties"][
        "train_steps"
    ]
    assert train_steps["minimum"] == 1
    assert train_steps["description"]


def test_a_key_is_of_content_not_of_place(config: RunConfig, tmp_path: Path) -> None:
    here = plan_prepare(config, "bolt").out
    shutil.copytree(config.data / "bolt", tmp_path / "elsewhere" / "bolt")
    there = plan_prepare(config.model_copy(update={"data": tmp_path / "elsewhere" / "bolt"}), "bolt").out
    assert here.ref == there.ref
    assert plan(config.store, "prepare", 1, "bolt").ref != here.ref
    (tmp_path / "elsewhere/bolt/test/dent/000.png").write_bytes(b"another")
    changed = plan_prepare(load_config("demo", data=tmp_path / "elsewhere"), "bolt").out
    assert changed.ref != here.ref
