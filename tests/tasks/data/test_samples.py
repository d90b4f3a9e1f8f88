"""The reader of the MVTec AD layout."""

import unicodedata
from pathlib import Path

import pytest

from tasks.data.check import check_dataset
from tasks.data.samples import COLUMNS, defect_types, find_categories, read_dataset
from tasks.errors import DataError
from tests.tasks.data_folders import healthy_category, real_data, save, square_mask, texture


def test_table_of_one_category(tmp_path: Path) -> None:
    table = read_dataset(healthy_category(tmp_path / "bolt"))
    assert list(table.columns) == COLUMNS
    assert table.groupby(["split", "label"]).size().to_dict() == {
        ("train", "good"): 10,
        ("test", "good"): 3,
        ("test", "dent"): 6,
        ("test", "stain"): 6,
    }
    assert (table["category"] == "bolt").all()
    assert ((table["label_index"] == 1) == (table["mask_path"] != "")).all()
    assert defect_types(table) == ["dent", "stain"]
    assert table["sha256"].is_unique


def test_several_categories_in_one_root(tmp_path: Path) -> None:
    for name in ("nut", "bolt"):
        healthy_category(tmp_path / name, normals=2)
    (tmp_path / "notes").mkdir()
    assert read_dataset(tmp_path)["category"].unique().tolist() == ["bolt", "nut"]
    assert read_dataset(tmp_path, ["nut"])["category"].unique().tolist() == ["nut"]


def test_both_mask_names_and_any_suffix(tmp_path: Path) -> None:
    for name, mask in (("000.jpg", "000_mask.png"), ("001.bmp", "001.png"), ("002.tif", "002_mask.PNG")):
        save(tmp_path / "test/dent" / name, texture(1))
        save(tmp_path / "ground_truth/dent" / mask, square_mask())
    table = read_dataset(tmp_path)
    assert [Path(path).name for path in table["image_path"]] == ["000.jpg", "001.bmp", "002.tif"]
    assert [Path(path).name for path in table["mask_path"]] == ["000_mask.png", "001.png", "002_mask.PNG"]


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="expected CATEGORY/train/good"):
        read_dataset(tmp_path)
    healthy_category(tmp_path / "bolt", normals=1)
    with pytest.raises(DataError, match="no category nut; found bolt"):
        read_dataset(tmp_path, ["nut"])


def test_links_spaces_and_both_forms_of_an_umlaut(tmp_path: Path) -> None:
    composed, decomposed = "Öse", unicodedata.normalize("NFD", "Öse")
    healthy_category(tmp_path / "elsewhere" / "x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / decomposed).symlink_to(tmp_path / "elsewhere" / "x")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "x")
    for kind, name in (("test", decomposed), ("ground_truth", composed)):
        (tmp_path / "elsewhere/x" / kind / "dent").rename(tmp_path / "elsewhere/x" / kind / f"{name} bent")
    picture = tmp_path / "elsewhere/x/test" / f"{decomposed} bent" / "000.png"
    picture.rename(picture.with_name(f"{decomposed}.png"))
    mask = tmp_path / "elsewhere/x/ground_truth" / f"{composed} bent" / "000_mask.png"
    mask.rename(mask.with_name(f"{composed}_mask.png"))

    table = read_dataset(tmp_path / "data", [composed])
    assert set(table["category"]) == {composed}
    assert defect_types(table) == ["stain", f"{composed} bent"]
    assert ((table["label_index"] == 1) == (table["mask_path"] != "")).all()
    assert set(find_categories(tmp_path / "link")) == {"link"}, "a link is called as it is"
    assert [fault for fault in check_dataset(tmp_path / "data") if fault.severity == "error"] == []


def test_real_pictures() -> None:
    table = read_dataset(real_data("hazelnut_toy").parent)
    assert table.groupby("category").size().to_dict() == {"hazelnut_toy": 51, "magnetic_tile": 1340}
    assert ((table["label_index"] == 1) == (table["mask_path"] != "")).all()
