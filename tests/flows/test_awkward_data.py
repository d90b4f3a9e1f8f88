"""Categories as factories have them: what cannot be is said, and the other models go on."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from tasks.config import RunConfig
from tasks.doctor.checks import examine
from tests.flows.running import run


def deepen(path: Path) -> None:
    """Write a picture anew as 16-bit grey."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"), dtype=np.uint16)
    Image.fromarray(pixels * 257).save(path)


def test_a_defect_without_a_test_picture_and_a_category_of_one_type_leave_the_other_models_their_figures(
    config: RunConfig, tmp_path: Path
) -> None:
    bolt = tmp_path / "data" / "bolt"
    shutil.copytree(config.data / "bolt", bolt)
    for folder in (bolt / "test" / "stain", bolt / "ground_truth" / "stain"):
        for path in sorted(folder.iterdir())[1:]:
            path.unlink()
    for path in bolt.rglob("*.png"):
        if "ground_truth" not in path.parts:
            deepen(path)
    compare = config.compare.model_copy(
        update={"models": ("localize", "classify", "detect"), "training_sets": ("real",)}
    )
    both = config.model_copy(update={"data": tmp_path / "data", "compare": compare})
    summary = run(both)
    assert summary.state == "completed"
    rows = summary.metrics[summary.metrics["size"] == "all"]
    assert set(rows["model"]) == {"localize", "classify", "detect"}
    tested = rows[rows["n_defect"] > 0].groupby("model")["defect_type"].agg(set)
    assert all("stain" not in types for types in tested), "its one picture trains"
    (note,) = rows[rows["metric"] == "balanced_accuracy"]["note"].unique()
    assert note == "left out, no test picture: stain"
    split = (both.store / "artifacts" / str(summary.stages[0].artifact) / "warnings.txt").read_text()
    assert "one picture of this defect" in split

    one_type = run(both.model_copy(update={"defects": ("dent",)}))
    (left_out,) = [stage for stage in one_type.stages if stage.status == "left out"]
    assert (left_out.stage, left_out.error) == (
        "classify", "one defect type only: there is nothing to tell apart",
    )  # fmt: skip
    assert one_type.state == "completed"
    assert set(one_type.metrics["model"]) == {"localize", "detect"}


def palette(path: Path) -> None:
    """Write a mask anew with white as its first colour."""
    with Image.open(path) as image:
        mask = np.asarray(image) > 0
    indexed = Image.fromarray((~mask).astype(np.uint8), "P")
    indexed.putpalette([255, 255, 255, 0, 0, 0])
    indexed.save(path)


def turned(path: Path) -> None:
    """Write a picture anew with a tag that viewers turn it by."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.copy().save(path, exif=exif)


def clear(path: Path) -> None:
    """Write a picture anew, transparent in a corner."""
    with Image.open(path) as image:
        picture = image.convert("RGBA")
    picture.putpixel((0, 0), (255, 0, 0, 0))
    picture.save(path)


def test_what_check_and_doctor_let_pass_gets_through_a_run(config: RunConfig, tmp_path: Path) -> None:
    bolt = tmp_path / "data" / "bolt"
    shutil.copytree(config.data / "bolt", bolt)
    for kind in ("test", "ground_truth"):
        (bolt / kind / "stain").rename(bolt / kind / "the one picture of its type, ä")
        for path in sorted((bolt / kind / "the one picture of its type, ä").iterdir())[1:]:
            path.unlink()
    (bolt / "ground_truth/dent").rename(tmp_path / "labels")
    (bolt / "ground_truth/dent").symlink_to(tmp_path / "labels")
    for path in sorted((tmp_path / "labels").iterdir())[:2]:
        palette(path)
    with Image.open(tmp_path / "labels/002_mask.png") as image:
        mask = np.asarray(image).astype(np.uint16)
    Image.fromarray(mask).save(tmp_path / "labels/002_mask.png")
    for change, name in (
        (turned, "test/dent/000.png"),
        (clear, "test/dent/001.png"),
        (clear, "train/good/000.png"),
    ):
        change(bolt / name)
    deepen(bolt / "train/good/001.png")
    shutil.copy(bolt / "train/good/002.png", bolt / "test/good/twin.png")
    with Image.open(bolt / "train/good/003.png") as image:
        image.resize((192, 48)).save(bolt / "train/good/003.png")
    Image.new("L", (48, 48)).save(tmp_path / "black.png")
    (bolt / "ground_truth/good").mkdir()
    shutil.copy(tmp_path / "black.png", bolt / "ground_truth/good/000_mask.png")
    (bolt / "train/good/Thumbs.db").write_text("x")

    checked = CliRunner().invoke(app, ["data", "check", str(bolt)])
    assert checked.exit_code == 0, checked.output
    assert "error:" not in checked.output
    assert "read: bolt: 6 train/good, 4 test/dent, 3 test/good, 1 test/the one picture" in checked.output
    compare = config.compare.model_copy(update={"training_sets": ("real",)})
    awkward = config.model_copy(update={"data": tmp_path / "data", "compare": compare})
    faults = [found for found in examine(awkward, has_data=True) if found.state == "fault"]
    assert [each for each in faults if each.what != "Prefect server"] == []  # that of these tests may be busy
    summary = run(awkward)
    assert summary.state == "completed", [each.error for each in summary.stages]
    assert summary.metrics["value"].notna().any()
