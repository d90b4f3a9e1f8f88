"""The command line beside `run`: help, data, generate, export."""

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from dual_anodiff.adapter_card import AdapterCard, ShotTrace
from flows.cli import app
from tasks.config import RunConfig
from tasks.data.samples import read_dataset
from tasks.data.split import split_samples
from tasks.stages.finetune import build_finetune
from tasks.stages.prepare import build_prepare
from tasks.store.artifacts import Staged
from tests.tasks.data_folders import healthy_category, save, square_mask, texture


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["run"],
        ["generate"],
        ["export"],
        ["handover"],
        ["data", "check"],
        ["data", "demo"],
        ["adapter", "export"],
    ],
)
def test_every_command_has_help(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_data_check_says_what_is_wrong_by_exit_code_and_line(tmp_path: Path) -> None:
    folder = healthy_category(tmp_path / "bolt")
    assert CliRunner().invoke(app, ["data", "check", str(folder)]).exit_code == 0
    (folder / "ground_truth/dent/000_mask.png").unlink()
    result = CliRunner().invoke(app, ["data", "check", str(folder)])
    assert result.exit_code == 2
    assert "test/dent/000.png: mask missing" in result.output


def test_data_demo_draws_what_data_check_accepts(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "demo", str(tmp_path / "demo"), "--categories", "nut"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path / "demo")])
    assert result.exit_code == 0, result.output


def test_an_adapter_is_used_without_a_run(config: RunConfig, tmp_path: Path) -> None:
    samples = split_samples(read_dataset(config.data, ["bolt"]), config.split)
    build_finetune(samples, "dent", config.finetune, tmp_path / "adapter")
    result = CliRunner().invoke(
        app,
        ["generate", str(tmp_path / "adapter"), str(tmp_path / "pairs"), "--num-pairs", "2", "--device", "cpu",
         "--set", "generate.num_inference_steps=1"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    pairs = pd.read_parquet(tmp_path / "pairs" / "pairs.parquet")
    assert len(pairs) == 2
    assert all((tmp_path / "pairs" / path).is_file() for path in pairs["mask_path"])

    result = CliRunner().invoke(
        app,
        ["generate", str(tmp_path / "adapter"), str(tmp_path / "placed"), "--num-pairs", "1", "--device", "cpu",
         "--where", "0,0,0.5,0.5", "--size", "0.1-0.3", "--set", "generate.num_inference_steps=1"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    drawn = [(tmp_path / run / "anomaly" / "000000.png").read_bytes() for run in ("pairs", "placed")]
    assert drawn[0] != drawn[1]

    redraw = ["generate", str(tmp_path / "adapter"), str(tmp_path / "redrawn"), "--num-pairs", "2", "--device", "cpu",
              "--shots", str(config.data / "bolt"), "--set", "generate.num_inference_steps=2"]  # fmt: skip
    result = CliRunner().invoke(app, redraw)
    assert result.exit_code == 2, result.output
    assert "give --defect" in " ".join(result.output.split())
    result = CliRunner().invoke(app, [*redraw, "--defect", "scratch"])
    assert "has the defect types dent, stain" in " ".join(result.output.split())
    result = CliRunner().invoke(app, [*redraw, "--defect", "dent"])
    assert result.exit_code == 0, result.output
    redrawn = pd.read_parquet(tmp_path / "redrawn" / "pairs.parquet")
    assert redrawn["shot"].str.startswith("bolt/test/dent/").all()
    assert redrawn["normal"].str.startswith("bolt/train/good/").all()

    # Killed while it drew the second pair: the rest is drawn, and nothing of the way there is left.
    first, second = (tmp_path / "redrawn" / "mask" / f"00000{i}.png" for i in (0, 1))
    kept, before = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    (tmp_path / "redrawn" / "starts" / "image").mkdir(parents=True)
    (tmp_path / "redrawn" / "starts" / "image" / "000000.part").write_bytes(b"half")
    assert CliRunner().invoke(app, [*redraw, "--defect", "dent"]).exit_code == 0
    assert (first.stat().st_mtime_ns, second.read_bytes()) == (kept, before)
    left = {path.name for path in (tmp_path / "redrawn").iterdir()}
    assert left == {"image", "anomaly", "mask", "pairs.parquet"}

    result = CliRunner().invoke(app, ["adapter", "export", str(tmp_path / "adapter"), str(tmp_path / "lora")])
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "lora").glob("*.safetensors"))


def write_card(folder: Path, background: str) -> None:
    """An adapter that is a card alone, of a base that is nowhere."""
    card = AdapterCard(
        base="nowhere", base_fingerprint="", revision=None, image_prompt="a", anomaly_prompt="b", size_px=64,
        adapter={"background": background}, train_steps=1, num_shots=1, mask_threshold=0.1, mask_iou=1, seed=0,
        shots=[ShotTrace([0.1, 0.1, 0.3, 0.3], [[0.0] * 4] * 2)],
    )  # fmt: skip
    (folder / "adapter.json").write_text(json.dumps(asdict(card)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "0.1,0.2,0.3"], "has 3 numbers; a box is x0,y0,x1,y1"),
        (["--where", "nowhere.png"], "neither a box x0,y0,x1,y1 nor a mask file"),
        (["--where", "0.5,0,0.2,1"], "is no box"),
        (["--where", "0,0,200,50"], "is out of the picture, which is 64 px"),
        (["--where", "EMPTY"], "empty.png: marks no pixel"),
        (["--size", "0.3-0.1"], "is no range"),
        (["--size", "large"], "is no MIN-MAX such as 0.05-0.2, nor 'shots'"),
        (["--size", "0.1-1.5"], "is no range"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_before_the_model_is_loaded(
    options: list[str], message: str, tmp_path: Path
) -> None:
    """The adapter has a card alone, and a base that is nowhere: loading either would give another message."""
    write_card(tmp_path, background="off")
    Image.new("L", (8, 8)).save(tmp_path / "empty.png")
    options = [str(tmp_path / "empty.png") if option == "EMPTY" else option for option in options]
    result = CliRunner().invoke(app, ["generate", str(tmp_path), str(tmp_path / "pairs"), *options])
    assert result.exit_code == 2
    assert message in result.output.replace("\n", "")
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("background", "options", "message"),
    [
        (
            "convex",
            [],
            "trained with backgrounds (adapter.background = 'convex'): give `backgrounds`, normal pictures",
        ),
        ("convex", ["--backgrounds", "empty"], "empty holds no picture; give a folder of normal pictures"),
        ("convex", ["--backgrounds", "gone"], "gone holds no picture; give a folder of normal pictures"),
        (
            "convex",
            ["--backgrounds", "few"],
            "3 normal pictures are too few to tell an object from its background",
        ),
        ("convex", ["--backgrounds", "broken"], "003.png: cannot be read as a picture"),
        ("convex", ["--backgrounds", "twice"], "two pictures of one name"),
        ("off", ["--backgrounds", "few"], "was trained without (adapter.background = 'off'); give none"),
    ],
)
def test_backgrounds_that_do_not_serve_are_refused_before_the_model_is_loaded(
    background: str, options: list[str], message: str, tmp_path: Path
) -> None:
    write_card(tmp_path, background)
    (tmp_path / "empty").mkdir()
    for name, count in (("few", 3), ("broken", 3), ("twice", 3)):
        for index in range(count):
            save(tmp_path / name / f"{index:03}.png", texture(index))
    (tmp_path / "broken/003.png").write_bytes((tmp_path / "few/000.png").read_bytes()[:300])
    save(tmp_path / "twice/000.bmp", texture(0))
    command = ["generate", str(tmp_path), str(tmp_path / "pairs"), *options[:1]]
    command += [str(tmp_path / folder) for folder in options[1:]]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_what_is_no_adapter_is_refused_in_one_message(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["adapter", "export", str(tmp_path), str(tmp_path / "lora")])
    assert result.exit_code == 2
    assert "adapter.json" in result.output
    assert "Traceback" not in result.output


def test_warnings_about_the_data_are_kept_with_the_split(config: RunConfig, tmp_path: Path) -> None:
    healthy_category(tmp_path / "bolt")
    save(tmp_path / "bolt/ground_truth/dent/000_mask.png", square_mask(side=2))
    staged = Staged(tmp_path / "out", tmp_path / "checkpoint")
    staged.out.mkdir()
    build_prepare(config.model_copy(update={"data": tmp_path / "bolt"}), "bolt", staged)
    assert "mask of 4 pixel(s)" in (staged.out / "warnings.txt").read_text()
    assert str(tmp_path) not in (staged.out / "split.csv").read_text()
