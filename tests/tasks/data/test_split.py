"""The split: DESIGN's counts, no part on two sides in any directory, the same wherever the data lies."""

import shutil
import tempfile
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.data.samples import read_dataset
from tasks.data.split import (
    Fold,
    SplitConfig,
    chosen_shots,
    first_shots,
    held_out_shots,
    read_split,
    split_digest,
    split_faults,
    split_samples,
    write_split,
)
from tasks.errors import DataError
from tests.tasks.data_folders import exposed, healthy_category, save, square_mask, texture

EXPOSURES = [(1.0, 0.0, 1.0), (0.7, 0.0, 1.0), (0.8, 25.0, 1.0), (1.0, 0.0, 1.4)]
PLACES = ["train/good", "test/good", "test/dent", "test/stain"]


def _split(folder: Path, **config: object) -> pd.DataFrame:
    return split_samples(read_dataset(folder), SplitConfig.model_validate(config))


def _names(split: pd.DataFrame, side: str, label: str) -> list[str]:
    chosen = split[(split["split"] == side) & (split["label"] == label)]
    return [Path(path).name for path in chosen["image_path"]]


def test_first_third_by_name_and_a_fifth_of_the_normals(tmp_path: Path) -> None:
    split = _split(healthy_category(tmp_path / "bolt", defects=8))
    assert _names(split, "train", "dent") == _names(split, "train", "stain") == ["000.png", "001.png"]
    assert len(_names(split, "test", "dent")) == 6
    assert len(_names(split, "val", "good")) == 2
    assert len(_names(split, "train", "good")) == 8
    assert split_faults(split, SplitConfig()) == []


def test_number_of_shots(tmp_path: Path) -> None:
    folder = healthy_category(tmp_path / "bolt")
    assert len(_names(_split(folder, shots=5), "train", "dent")) == 5
    most = _split(folder, shots=6)
    assert len(_names(most, "train", "dent")) == 5
    assert len(_names(most, "test", "dent")) == 1
    assert [fault.what for fault in split_faults(most, SplitConfig(shots=6))] == 2 * [
        "5 shot(s) instead of 6: a part must be left to test"
    ]


@pytest.mark.parametrize("shots", ["third", 3])
def test_a_defect_of_one_or_two_pictures_trains_what_it_has_and_is_warned_of(
    tmp_path: Path, shots: Literal["third"] | int
) -> None:
    folder = healthy_category(tmp_path / "bolt")
    for name, count in (("chip", 1), ("burr", 2)):
        for index in range(count):
            save(folder / "test" / name / f"{index}.png", texture(5000 + 10 * len(name) + index))
            save(folder / "ground_truth" / name / f"{index}_mask.png", square_mask())
    split = _split(folder, shots=shots)
    sides = {name: split[split["label"] == name]["split"].tolist() for name in ("chip", "burr")}
    assert sides == {"chip": ["train"], "burr": ["train", "test"]}
    warned = {fault.path.name for fault in split_faults(split, SplitConfig(shots=shots))}
    assert "chip" in warned
    assert ("burr" in warned) == (shots == 3)


@pytest.mark.parametrize("bad", [{"shots": 0}, {"shots": "half"}, {"val_share": 1}, {"share": 0.2}])
def test_values_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SplitConfig.model_validate(bad)


def test_shots_come_part_after_part(tmp_path: Path) -> None:
    folder = healthy_category(tmp_path / "bolt")
    for index in range(9):  # three parts, three exposures each, sorted by exposure
        save(folder / f"test/dent/{index:03}.png", exposed(texture(7000 + index % 3), *EXPOSURES[index // 3]))
        save(folder / f"ground_truth/dent/{index:03}_mask.png", square_mask())
    split = _split(folder)
    assert _names(split, "train", "dent") == ["000.png", "003.png", "006.png"]
    assert len(_names(split, "test", "dent")) == 6
    two = _split(folder, shots=2)
    assert _names(two, "train", "dent") == ["000.png", "001.png"]
    assert _names(two, "test", "dent") == ["002.png", "005.png", "008.png"]
    assert "shows the part of the shot test/dent/000.png" in two["reason"].tolist()


def test_the_naive_split_goes_by_name_and_puts_parts_on_both_sides(tmp_path: Path) -> None:
    folder = healthy_category(tmp_path / "bolt")
    save(folder / "test/dent/005.png", exposed(texture(2000), 0.7, 10, 1))  # the part of dent/000
    honest, naive = _split(folder, shots=2), _split(folder, shots=2, naive=True)
    assert "005.png" not in _names(honest, "test", "dent")
    assert _names(naive, "train", "dent") == ["000.png", "001.png"]
    assert "005.png" in _names(naive, "test", "dent")
    assert (naive["split"] != "excluded").all()
    assert naive["group"].is_unique


def test_fewer_shots_are_those_that_the_split_would_have_taken(tmp_path: Path) -> None:
    folder = healthy_category(tmp_path / "bolt", defects=8)
    save(folder / "test/dent/001.png", exposed(texture(2000), 0.7, 10, 1))  # the part of dent/000
    save(folder / "test/stain/003.png", exposed(texture(2102), 0.7, 10, 1))
    full = _split(folder, shots=5)
    for count in range(1, 6):
        fewer = first_shots(full, count)
        for label in ("dent", "stain"):
            assert _names(fewer, "train", label) == _names(_split(folder, shots=count), "train", label)
            assert _names(fewer, "test", label) == _names(full, "test", label)
        assert _names(fewer, "train", "good") == _names(full, "train", "good")
    pd.testing.assert_frame_equal(first_shots(full, 6), full)


def test_normals_that_show_a_test_picture_are_excluded(tmp_path: Path) -> None:
    folder = healthy_category(tmp_path / "bolt")
    save(folder / "test/good/001.png", exposed(texture(4), 0.7, 10, 1))
    split = _split(folder)
    excluded = split[split["split"] == "excluded"]
    assert [Path(path).name for path in excluded["image_path"]] == ["004.png"]
    assert excluded["reason"].tolist() == ["shows the part of the test picture test/good/001.png"]


def test_which_normals_are_held_back_depends_on_content_alone(tmp_path: Path) -> None:
    folder = healthy_category(tmp_path / "bolt", normals=20)
    split = _split(folder)
    held_back = set(split.loc[split["split"] == "val", "sha256"])
    for path in (folder / "train/good").iterdir():
        path.rename(path.with_stem(f"x{997 - int(path.stem) * 7 % 20}"))
    renamed = _split(folder)
    assert set(renamed.loc[renamed["split"] == "val", "sha256"]) == held_back
    other = _split(folder, seed=1)
    assert set(other.loc[other["split"] == "val", "sha256"]) != held_back


def test_file_and_digest_move_with_the_data(tmp_path: Path) -> None:
    split = _split(healthy_category(tmp_path / "here/bolt"))
    write_split(split, tmp_path / "here", tmp_path / "split.csv")
    assert str(tmp_path) not in (tmp_path / "split.csv").read_text()
    pd.testing.assert_frame_equal(
        read_split(tmp_path / "split.csv", tmp_path / "here"), split, check_dtype=False
    )

    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = read_split(tmp_path / "split.csv", tmp_path / "there")
    assert split_digest(moved) == split_digest(_split(tmp_path / "there/bolt"))
    assert split_digest(moved) != split_digest(_split(tmp_path / "there/bolt", seed=1))
    before = split_digest(moved)
    save(tmp_path / "there/bolt/ground_truth/dent/000_mask.png", square_mask(side=9))
    assert split_digest(moved) != before


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"other\.csv: columns"):
        read_split(tmp_path / "other.csv", tmp_path)


def test_a_split_that_leaves_nothing_is_a_fault(tmp_path: Path) -> None:
    folder = healthy_category(tmp_path / "bolt", normals=1, tests=1)
    shutil.copy(folder / "train/good/000.png", folder / "test/good/000.png")
    whats = [fault.what for fault in split_faults(_split(folder), SplitConfig())]
    assert any("no normal picture to train on: 1 are excluded" in what for what in whats)


pictures = st.tuples(st.integers(0, 11), st.sampled_from(EXPOSURES), st.sampled_from(PLACES))


@settings(max_examples=25, deadline=None)
@given(st.lists(pictures, min_size=1, max_size=24), st.sampled_from(["third", 1, 2]), st.integers(0, 3))
def test_split_is_disjoint_for_any_directory(
    listing: list[tuple[int, tuple[float, float, float], str]], shots: object, seed: int
) -> None:
    part_of: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        (folder / "train").mkdir()
        # Parts that come once: what is common to a category shows only where several are seen.
        single = [(100 + index, EXPOSURES[0], "train/good") for index in range(6)]
        for index, (part, exposure, place) in enumerate(listing + single):
            path = save(folder / place / f"{index:03}.png", exposed(texture(part), *exposure))
            part_of[str(path)] = part
        split = _split(folder, shots=shots, seed=seed)
    split["part"] = split["image_path"].map(part_of)
    test, val = split[split["split"] == "test"], split[split["split"] == "val"]
    train = split[split["split"] == "train"]
    for key in ("sha256", "group", "part"):
        for one, other in ((train, test), (val, test), (train, val)):
            assert set(one[key]).isdisjoint(other[key]), key
    assert set(split["split"]) <= {"train", "val", "test", "excluded"}
    assert ((split["split"] == "excluded") == (split["reason"] != "")).all()
    assert (val["label_index"] == 0).all()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["dent", "stain", "crack"]), st.integers(0, 6)), min_size=1, max_size=20
    ),
    st.integers(2, 4),
)
def test_folds_hold_each_shot_out_once_at_most_and_no_part_is_on_both_sides(
    shots: list[tuple[str, int]], of: int
) -> None:
    rows = [(label, 1, part, "train") for label, part in shots] + [
        ("good", 0, 99, "train"),
        ("dent", 1, 98, "test"),
    ]
    split = pd.DataFrame(rows, columns=["label", "label_index", "group", "split"])
    split["image_path"] = [f"{number:03}.png" for number in range(len(split))]
    seen: list[str] = []
    for number in range(of):
        out = held_out_shots(split, Fold(number, of))
        left = chosen_shots(split, Fold(number, of))
        seen += out["image_path"].tolist()
        assert len(left) + len(out) == len(split)
        of_left = left[(left["split"] == "train") & (left["label_index"] == 1)]
        assert set(of_left["group"]).isdisjoint(out["group"])
        assert set(of_left["label"]) == {label for label, _ in shots}, "every type has a shot to train on"
        assert set(out["split"]) <= {"train"}
    assert len(seen) == len(set(seen))


def test_folds_of_distinct_parts_hold_out_every_shot(tmp_path: Path) -> None:
    split = _split(healthy_category(tmp_path / "bolt", defects=8), shots=5)
    counts = [held_out_shots(split, Fold(number, 2))["label"].value_counts().to_dict() for number in range(2)]
    assert counts == [{"dent": 3, "stain": 3}, {"dent": 2, "stain": 2}]
    assert held_out_shots(_split(tmp_path / "bolt", shots=1), Fold(0, 2)).empty, (
        "a single shot stays to train on"
    )
