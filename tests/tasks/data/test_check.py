"""Each fault of a data folder, by name."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.data.check import check_dataset
from tasks.data.faults import Fault, faults_text, has_errors
from tasks.data.samples import read_dataset
from tasks.errors import DataError
from tests.tasks.data_folders import exposed, healthy_category, real_data, save, square_mask, texture


@pytest.fixture
def bolt(tmp_path: Path) -> Path:
    return healthy_category(tmp_path / "bolt")


def _only(folder: Path) -> Fault:
    (fault,) = check_dataset(folder)
    return fault


def _is(fault: Fault, severity: str, path: Path, what: str) -> bool:
    return fault.severity == severity and fault.path == path and what in fault.what and fault.fix != ""


def test_nothing_to_say_about_healthy_data(bolt: Path) -> None:
    assert check_dataset(bolt) == []


def test_missing_mask(bolt: Path) -> None:
    (bolt / "ground_truth/dent/002_mask.png").unlink()
    assert _is(_only(bolt), "error", bolt / "test/dent/002.png", "mask missing")


def test_mask_of_other_size(bolt: Path) -> None:
    mask = save(bolt / "ground_truth/dent/002_mask.png", square_mask(px=40))
    assert _is(_only(bolt), "error", mask, "mask is 40×40, its picture 48×48")


def test_empty_mask(bolt: Path) -> None:
    mask = save(bolt / "ground_truth/dent/002_mask.png", square_mask(side=0))
    assert _is(_only(bolt), "error", mask, "mask is empty")


def test_unreadable_picture_and_mask(bolt: Path) -> None:
    picture, mask = bolt / "train/good/001.png", bolt / "ground_truth/dent/002_mask.png"
    picture.write_bytes(picture.read_bytes()[:200])
    mask.write_bytes(b"")
    of_mask, of_picture = check_dataset(bolt)
    assert _is(of_picture, "error", picture, "cannot be read as a picture")
    assert _is(of_mask, "error", mask, "cannot be read as a mask")


def test_same_file_across_splits_labels_or_in_one_folder(bolt: Path) -> None:
    shutil.copy(bolt / "train/good/001.png", bolt / "test/good/009.png")
    assert _is(
        _only(bolt),
        "warning",
        bolt / "train/good/001.png",
        "the same file as test/good/009.png, in train and",
    )
    (bolt / "test/good/009.png").unlink()
    shutil.copy(bolt / "test/dent/001.png", bolt / "test/stain/001.png")
    assert _is(_only(bolt), "error", bolt / "test/dent/001.png", "under other labels (dent, stain)")
    save(bolt / "test/stain/001.png", texture(77))
    shutil.copy(bolt / "train/good/001.png", bolt / "train/good/099.png")
    assert _is(_only(bolt), "warning", bolt / "train/good/001.png", "the same file as train/good/099.png")


def test_too_few_pictures_of_a_defect(bolt: Path) -> None:
    save(bolt / "test/chip/000.png", texture(5000))
    save(bolt / "ground_truth/chip/000_mask.png", square_mask())
    assert _is(_only(bolt), "warning", bolt / "test/chip", "one picture of this defect: it trains")
    (bolt / "test/chip/000.png").unlink()
    (bolt / "ground_truth/chip/000_mask.png").unlink()
    assert _is(_only(bolt), "error", bolt / "test/chip", "no picture of this defect")


def test_missing_folders(bolt: Path) -> None:
    shutil.rmtree(bolt / "train")
    assert _is(_only(bolt), "error", bolt / "train/good", "no pictures of good parts")
    shutil.rmtree(bolt / "test/good")
    assert _is(check_dataset(bolt)[1], "warning", bolt / "test/good", "no good test pictures")


def test_no_test_folder(bolt: Path) -> None:
    shutil.rmtree(bolt / "test")
    shutil.rmtree(bolt / "ground_truth")
    assert _is(_only(bolt), "error", bolt / "test", "no test pictures")


def test_mask_without_picture_and_pictures_that_are_not_read(bolt: Path) -> None:
    mask = save(bolt / "ground_truth/dent/099_mask.png", square_mask())
    save(bolt / "train/dent/000.png", texture(1))
    of_mask, of_folder = check_dataset(bolt)
    assert _is(of_mask, "warning", mask, "mask without a picture")
    assert _is(of_folder, "warning", bolt / "train/dent", "pictures here are not read")


def test_two_pictures_of_one_name(bolt: Path) -> None:
    save(bolt / "test/dent/002.bmp", texture(4000))
    assert _is(_only(bolt), "error", bolt / "test/dent/002", "2 pictures have the name 002")


def test_mask_of_few_pixels_and_inverted_mask(bolt: Path) -> None:
    few = save(bolt / "ground_truth/dent/001_mask.png", square_mask(side=2))
    most = save(bolt / "ground_truth/dent/002_mask.png", 255 - square_mask(side=2))
    of_few, of_most = check_dataset(bolt)
    assert _is(of_few, "warning", few, "mask of 4 pixel(s)")
    assert _is(of_most, "warning", most, "inverted?")


def test_twins_with_other_labels(bolt: Path) -> None:
    save(bolt / "test/stain/002.png", exposed(texture(3), gain=0.7, offset=10, gamma=1))
    fault = _only(bolt)
    assert _is(fault, "warning", bolt / "train/good/003.png", "same part as test/stain/002.png")
    assert "(good, stain)" in fault.what


def test_exif_rotation(bolt: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(texture(4).astype(np.uint8)).save(bolt / "train/good/004.png", exif=exif)
    assert _is(_only(bolt), "warning", bolt / "train/good/004.png", "orientation 6 is not applied")


def test_black_masks_of_good_pictures_are_fine_and_drawn_ones_are_not(bolt: Path) -> None:
    for index in range(3):
        save(bolt / f"ground_truth/good/{index:03}_mask.png", square_mask(side=0))
    assert check_dataset(bolt) == []
    save(bolt / "ground_truth/good/002_mask.png", square_mask())
    fault = _only(bolt)
    assert _is(
        fault, "error", bolt / "test/good/002.png", "good, yet its mask ground_truth/good/002_mask.png"
    )
    assert "marks 144 px" in fault.what


@pytest.mark.parametrize("name", ["002_gt.png", "002_MASK.PNG", "gt_002.png", "002-label.png"])
def test_a_mask_under_another_name_is_named(bolt: Path, name: str) -> None:
    mask = bolt / "ground_truth/dent/002_mask.png"
    mask.rename(mask.with_name(name))
    fault = _only(bolt)
    assert _is(fault, "error", bolt / "test/dent/002.png", f"{name} looks like the mask of 002.png")
    assert fault.fix == "rename it to 002_mask.png"


def test_masks_in_a_folder_of_their_picture_or_of_a_label_spelt_otherwise_are_named(bolt: Path) -> None:
    mask = bolt / "ground_truth/dent/002_mask.png"
    (mask.parent / "002").mkdir()
    mask.rename(mask.parent / "002/000.png")
    assert _is(_only(bolt), "error", bolt / "test/dent/002.png", "the folder dent/002 holds 1 in its stead")
    (mask.parent / "002/000.png").rename(mask)
    (bolt / "ground_truth/stain").rename(bolt / "ground_truth/Stain")
    faults = [fault for fault in check_dataset(bolt) if fault.severity == "error"]
    assert len(faults) == 6
    assert all("ground_truth has Stain, but no stain" in fault.what for fault in faults)


def test_a_mask_that_can_be_read_in_two_ways_is_refused_with_a_way_out(bolt: Path) -> None:
    path = save(bolt / "ground_truth/dent/002_mask.png", square_mask() / 2 + square_mask(side=6) / 4 + 20)
    fault = _only(bolt)
    assert _is(fault, "error", path, "areas of 2 kinds beside black")
    assert "255" in fault.fix


def test_twelve_bits_pages_transparency_and_wide_pictures_are_warned_of(bolt: Path) -> None:
    for path in [*bolt.glob("train/good/*"), *bolt.glob("test/*/*")]:
        Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * 16).save(path)
    assert _is(_only(bolt), "warning", bolt, "no picture is brighter than 6% of its range: 12 bits in 16?")
    for path in bolt.glob("train/good/*"):
        save(path, texture(int(path.stem)))
    assert [fault.path for fault in check_dataset(bolt)] == [
        bolt / "test" / each for each in ("dent", "good", "stain")
    ]

    shutil.rmtree(bolt)
    healthy_category(bolt)
    page = Image.fromarray(texture(0).astype(np.uint8))
    (bolt / "train/good/000.png").unlink()
    page.save(bolt / "train/good/000.tif", save_all=True, append_images=[page, page])
    clear = Image.fromarray(texture(1).astype(np.uint8)).convert("RGBA")
    clear.putpixel((0, 0), (255, 0, 0, 0))
    clear.save(bolt / "train/good/001.png")
    of_pages, of_clear = check_dataset(bolt)
    assert _is(of_pages, "warning", bolt / "train/good/000.tif", "3 pages, only the first is read")
    assert _is(
        of_clear, "warning", bolt / "train/good/001.png", "transparent in part, which is read as black"
    )

    shutil.rmtree(bolt)
    healthy_category(bolt)
    save(bolt / "train/good/000.png", np.tile(texture(0), (1, 4)))
    assert _is(_only(bolt), "warning", bolt / "train/good/000.png", "192×48 (4:1)")


def test_pictures_larger_than_the_limit_are_refused_by_name(
    bolt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(bolt / "train/good/000.png", texture(0, px=100))
    monkeypatch.setenv("ANODIFF_MAX_MEGAPIXELS", "0.005")
    fault = _only(bolt)
    assert _is(fault, "error", bolt / "train/good/000.png", "has 0 megapixels, more than 0.005")
    assert "ANODIFF_MAX_MEGAPIXELS" in fault.fix


def test_what_is_not_read_is_counted_and_named(bolt: Path) -> None:
    good = bolt / "train/good"
    for name in ("Thumbs.db", "000.json", ".DS_Store"):
        (good / name).touch()
    assert check_dataset(bolt) == []
    for name in ("a.webp", "b.jfif"):
        (good / name).touch()
    save(good / "more/000.png", texture(1))
    (good / "gone.png").symlink_to(bolt / "nowhere.png")
    save(bolt / "test/000.png", texture(2))
    save(bolt / "validation/good/000.png", texture(2))
    told = {(fault.path, fault.what) for fault in check_dataset(bolt)}
    assert told == {
        (good, "2 file(s) of kinds that are not read: a.webp, b.jfif"),
        (good, "1 sub-folder(s) that are not read: more"),
        (good, "1 link(s) that lead nowhere: gone.png"),
        (bolt / "test", "1 picture(s) in no folder of their own are not read: 000.png"),
        (bolt / "validation", "pictures here are not read"),
    }


def test_a_folder_good_that_is_spelt_otherwise(bolt: Path) -> None:
    (bolt / "train/good").rename(bolt / "train/Good")
    (bolt / "test/good").rename(bolt / "test/GOOD")
    faults = {fault.path: fault for fault in check_dataset(bolt) if "rename it to good" in fault.fix}
    assert set(faults) == {bolt / "train/Good", bolt / "test/GOOD"}
    assert all(fault.severity == "error" for fault in faults.values())


def test_a_name_that_is_no_text(bolt: Path) -> None:
    (bolt / "train/good/001.png").rename(bolt / "train/good" / os.fsdecode(b"\xff.png"))
    with pytest.raises(DataError, match=r"udcff\.png': the name is not in UTF-8.*rename it"):
        check_dataset(bolt)


def test_all_faults_at_once_errors_first(bolt: Path) -> None:
    (bolt / "ground_truth/dent/002_mask.png").unlink()
    save(bolt / "ground_truth/dent/001_mask.png", square_mask(side=2))
    save(bolt / "ground_truth/stain/003_mask.png", square_mask(side=0))
    faults = check_dataset(read_dataset(bolt.parent))
    assert [fault.severity for fault in faults] == ["error", "error", "warning"]
    assert has_errors(faults)
    assert not has_errors(faults[2:])
    text = faults_text(faults, bolt.parent)
    assert text.splitlines()[1].startswith("error: bolt/test/dent/002.png: mask missing; draw ")


def test_real_pictures_have_no_errors() -> None:
    assert check_dataset(real_data("hazelnut_toy")) == []


@pytest.mark.slow
def test_magnetic_tile_has_what_its_readme_says() -> None:
    faults = check_dataset(real_data("magnetic_tile"))
    assert not has_errors(faults)
    few = [fault.path.name for fault in faults if "pixel(s)" in fault.what]
    assert few == ["042_mask.png", "057_mask.png"]
    assert sum("labels differ" in fault.what for fault in faults) >= 4
