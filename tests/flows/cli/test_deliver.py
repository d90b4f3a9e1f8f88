"""What leaves a finished run by the command line, models, pictures and documents, is what the run said."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from downstream.delivery.delivered import scaled
from downstream.delivery.runtimes import run_onnx
from downstream.images import read_image, read_mask, resize_image
from downstream.training_sets import split_pairs
from dual_anodiff.generation import pair_seed
from flows.cli import app
from flows.cli.documents import summary_document
from tasks.config import RunConfig, load_config
from tasks.report.run_folder import RunSummary
from tests.flows.running import run


@pytest.fixture(scope="module")
def finished(yaml_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """A tiny run with two kinds of models and two training sets."""
    changes = ["compare.models=[localize, classify]", "compare.training_sets=[real, generated]"]
    changes += ["curate.rules=[empty]"]  # what a random base draws
    config = load_config(yaml_file, changes, store=tmp_path_factory.mktemp("deliver") / "store")
    summary = run(config)
    assert summary.state == "completed"
    return summary


def store_of(summary: RunSummary) -> Path:
    return summary.folder.parents[1]


def invoke(summary: RunSummary, *arguments: str | Path, expected: int = 0) -> str:
    """The command's output, in one line."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--store", str(store_of(summary))])
    assert result.exit_code == expected, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def predictions_of(summary: RunSummary, label: str) -> tuple[Any, dict[str, Any]]:
    """What the run's own model said of the test pictures, and its model.json."""
    (ref,) = [s.artifact for s in summary.stages if f"{s.stage} {s.label}" == label]
    folder = store_of(summary) / "artifacts" / str(ref)
    return np.load(folder / "predictions.npz"), json.loads((folder / "model.json").read_text())


def test_exported_files_say_of_the_test_pictures_what_the_run_said(
    finished: RunSummary, data: Path, tmp_path: Path
) -> None:
    output = invoke(finished, "export", "latest", tmp_path / "out", "--training-set", "generated")
    folders = [tmp_path / "out/bolt" / model / "generated/seed-0" for model in ("localize", "classify")]
    assert sorted(path.name for path in (tmp_path / "out/bolt").iterdir()) == ["classify", "localize"]
    said, described = predictions_of(finished, "localize bolt/generated/seed 0")
    classes_said, _ = predictions_of(finished, "classify bolt/generated/seed 0")
    localize, classify = (run_onnx(folder / "model.onnx") for folder in folders)
    assert len(said["image_path"]) > 4
    for i, path in enumerate(said["image_path"]):
        assert classes_said["image_path"][i] == path
        pixels = (resize_image(read_image(data / path), 32)[None].float() / 255).numpy()
        found = localize(pixels)
        np.testing.assert_allclose(found["anomaly_map"][0, 0], said["anomaly_map"][i], atol=1e-3)
        np.testing.assert_allclose(found["pred_score"], said["pred_score"][i], atol=1e-3)
        probabilities = classify(pixels)["probabilities"][0]
        np.testing.assert_allclose(probabilities, classes_said["probability"][i], atol=1e-3)

    for folder in folders:
        export = json.loads((folder / "export.json").read_text())
        assert export["n_checked"] == 4  # two normals, a shot of each defect type
        assert (export["run"], export["category"], export["training_set"]) == (
            finished.run,
            "bolt",
            "generated",
        )
        assert "squeezed into the square" in export["resizing"]
        worst = max(v for one in export["max_abs_difference"].values() for v in one.values())
        assert f"{folder}: max difference to PyTorch {worst:.1e} on 4 pictures" in output
    assert f"refuse from pred_score {described['image_threshold']:.4g}" in output
    assert "classes good, dent, stain" in output


def test_a_training_set_is_handed_over_with_its_provenance(
    finished: RunSummary, config: RunConfig, tmp_path: Path
) -> None:
    from pycocotools.coco import COCO  # type: ignore[import-untyped]

    arguments = ["--format", "coco", "--training-set", "generated"]
    output = invoke(finished, "handover", finished.run, tmp_path / "out", *arguments)
    assert "too few test pictures" in output  # the run's verdict: two good ones
    seen = []
    for split in ("train", "val"):
        coco = COCO(str(tmp_path / f"out/bolt/annotations/instances_{split}.json"))
        assert {each["name"] for each in coco.loadCats(coco.getCatIds())} == {"dent", "stain"}
        for image in coco.loadImgs(coco.getImgIds()):
            seen.append((split, image["source"]))
            picture = read_image(tmp_path / "out/bolt/images" / split / image["file_name"])
            if image["source"] == "normal":
                assert image["run"] is None
                continue
            assert image["run"] == finished.run
            assert image["seed"] == pair_seed(config.seed, image["index"])
            adapter = store_of(finished) / "artifacts" / image["adapter_key"]
            assert json.loads((adapter / "manifest.json").read_text())["label"] == f"bolt/{image['label']}"
            # The very pair of the store, with its mask, as large as the pictures are.
            (original,) = (store_of(finished) / "artifacts/generate").glob(image["original"])
            drawn, drawn_mask = scaled(
                np.asarray(Image.open(original)),
                np.asarray(read_mask(original.parents[1] / "mask" / original.name)) > 0,
                (48, 48),
            )
            np.testing.assert_array_equal((picture * 255).round(), drawn)
            mask = np.max([coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds(image["id"]))], axis=0)
            np.testing.assert_array_equal(mask, drawn_mask)
    assert {source for _, source in seen} == {"normal", "generated"}

    pairs = pd.concat(
        pd.read_parquet(path).assign(label=path.parent.name)
        for path in (store_of(finished) / "artifacts/generate").rglob("pairs.parquet")
    )
    train, val = split_pairs(pairs[pairs["mask_share"] > 0], seed=config.seed)
    assert seen.count(("train", "generated")) == len(train)
    assert seen.count(("val", "generated")) == len(val)
    note = (tmp_path / "out/bolt/README.txt").read_text()
    assert finished.run in note
    assert "too few test pictures" in note


def test_the_note_beside_the_pictures_is_in_no_readers_way(
    finished: RunSummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    arguments = ["--format", "huggingface", "--training-set", "real"]
    output = invoke(finished, "handover", finished.folder, tmp_path / "out", *arguments)
    assert "none: these are the real shots" in output
    read = datasets.load_dataset(str(tmp_path / "out/bolt"), cache_dir=str(tmp_path / "cache"))
    assert set(read) == {"train", "validation"}
    assert set(read["train"]["source"]) == {"normal", "real"}
    assert f"{len(read['train'])} pictures to train on, {len(read['validation'])} to validate on" in output


@pytest.fixture
def hurting(finished: RunSummary) -> Any:
    """A run like the finished one whose generated pairs made localization worse."""
    folder = finished.folder.with_name("0-hurting")
    shutil.copytree(finished.folder, folder)
    lift = pd.read_parquet(folder / "lift.parquet")
    row = (lift["model"] == "localize") & (lift["metric"] == "pixel_ap")
    assert row.sum() == 1
    lift.loc[row, "difference"], lift.loc[row, "low"], lift.loc[row, "high"] = -0.092, -0.134, -0.053
    lift.loc[row, "verdict"] = "hurts"
    lift.to_parquet(folder / "lift.parquet")
    yield folder
    shutil.rmtree(folder)


def test_pairs_that_hurt_are_handed_over_only_when_told_so(
    finished: RunSummary, hurting: Path, tmp_path: Path
) -> None:
    arguments = ["handover", str(hurting), str(tmp_path / "out"), "--format", "mvtec"]
    arguments += ["--training-set", "generated"]
    output = invoke(finished, *arguments, expected=2)
    assert "localize, pixel_ap -9.2 [-13.4, -5.3] points: hurts" in output
    assert "--anyway" in output
    assert not (tmp_path / "out").exists()
    invoke(finished, *arguments, "--anyway")
    assert "NOT RECOMMENDED" in (tmp_path / "out/bolt/README.txt").read_text()
    assert list((tmp_path / "out/bolt/test").iterdir())


@pytest.mark.parametrize(
    ("command", "changes", "expected"),
    [
        ("export", {"RUN": "yesterday"}, "no run 'yesterday'; runs there: RUN_NAME, or latest"),
        ("export", {}, "several training sets; choose one with --training-set: generated, real"),
        ("export", {"--training-set": "perlin"}, "perlin: not in run RUN_NAME; it has real, generated"),
        ("export", {"--category": "nut"}, "no category nut; it has bolt"),
        ("export", {"--model": "detect"}, "detect: not in run RUN_NAME; it has localize, classify"),
        ("export", {"--seed": "7"}, "--seed 7: not in run RUN_NAME; it has 0"),
        ("export", {"--training-set": "real", "OUT": "."}, "is not empty; name a new folder"),
        ("export", {"--training-set": "real", "--data": "gone"}, "with --data"),
        ("handover", {}, "several training sets; choose one with --training-set: real, generated"),
        ("handover", {"--training-set": "real", "OUT": "."}, "is not empty; name a new folder"),
        ("handover", {"--training-set": "real", "--data": "changed"}, "pictures or masks changed since"),
    ],
)
def test_what_cannot_be_delivered_is_refused_by_name(
    finished: RunSummary, data: Path, tmp_path: Path, command: str, changes: dict[str, str], expected: str
) -> None:
    shutil.copytree(data / "bolt", tmp_path / "changed" / "bolt")
    (tmp_path / "changed/bolt/train/good/000.png").unlink()
    given = {"RUN": "latest", "OUT": "out"} | changes
    if "--data" in given:
        given["--data"] = str(tmp_path / given["--data"])
    options = [part for name, value in given.items() if name.startswith("--") for part in (name, value)]
    options += ["--format", "yolo"] if command == "handover" else []
    output = invoke(finished, command, given["RUN"], tmp_path / given["OUT"], *options, expected=2)
    assert expected.replace("RUN_NAME", finished.run) in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed"]


def test_a_damaged_model_is_not_exported(finished: RunSummary, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store_of(finished), copy)
    for weights in (copy / "artifacts/classify").rglob("model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1])
    folder = copy / "runs" / finished.run
    arguments = ["--training-set", "real", "--model", "classify"]
    output = invoke(finished, "export", folder, tmp_path / "out", *arguments, expected=2)
    assert "changed since it was written" in output
    assert "`anodiff run` makes it again" in output


def document(summary: RunSummary, *words: str) -> Any:
    """A command's document."""
    result = CliRunner().invoke(app, [*words, "--store", str(store_of(summary)), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_run_is_told_alike_by_every_command(finished: RunSummary) -> None:
    told = json.loads(json.dumps(summary_document(finished), allow_nan=False))
    assert told["state"] == "completed"
    assert {each["status"] for each in told["stages"]} == {"ran"}
    figures = {(each["training_set"], each["metric"]): each for each in told["figures"]}
    assert 0 <= figures["real", "pixel_auroc"]["value"] <= 1
    assert figures["real", "pixel_auroc"]["n_seeds"] == 1
    assert {"training_set", "against", "difference", "low", "high", "verdict"} <= set(told["lift"][0])
    assert {each["defect_type"]: each["drawn"] for each in told["pairs"]} == {"dent": 3, "stain": 3}

    assert document(finished, "runs", finished.run)["stages"] == told["stages"]
    listed = document(finished, "runs")["runs"]
    assert [(each["run"], each["state"]) for each in listed] == [(finished.run, "completed")]
    artifacts = document(finished, "artifacts", "ls")["artifacts"]
    assert {each["artifact"] for each in artifacts} == {each["artifact"] for each in told["stages"]}
    assert document(finished, "artifacts", "verify") == {"checked": len(artifacts), "damaged": []}
    assert document(finished, "artifacts", "gc")["deleted_bytes"] is None
    assert document(finished, "rerun", "latest", "--failed")["run"] == finished.run
