"""Shots by name: what a list may say, and what of it is refused."""

from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from tasks.data.samples import read_dataset
from tasks.data.split import SplitConfig, split_faults, split_samples
from tasks.errors import DataError
from tests.tasks.data_folders import healthy_category, real_data, save, square_mask, texture

# The pictures of magnetic tile that NVIDIA's AnomalyGen is trained on, by the names of those who took them.
ANOMALYGEN = {
    "blowhole": "exp1_num_265077 exp1_num_4727 exp2_num_51697 exp5_num_297552 exp5_num_7054",
    "break": "exp2_num_116961 exp2_num_271384 exp3_num_148977 exp3_num_26146 exp5_num_98336",
    "crack": "exp1_num_265613 exp1_num_276355 exp1_num_339819 exp4_num_116553 exp5_num_116575",
    "fray": "exp1_num_135544 exp1_num_331149 exp3_num_135593 exp3_num_136351 exp3_num_20409",
    "uneven": "exp0_num_461 exp5_num_109313 exp5_num_352540 exp6_num_139916 exp6_num_172365",
}


@pytest.fixture
def bolt(tmp_path: Path) -> Path:
    return healthy_category(tmp_path / "data" / "bolt")


def _split(bolt: Path, *lines: str) -> pd.DataFrame:
    file = bolt.parents[1] / "shots.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    return split_samples(read_dataset(bolt), SplitConfig(shots=file))


def _shots(split: pd.DataFrame) -> list[str]:
    chosen = split[(split["split"] == "train") & (split["label_index"] == 1)]
    return sorted("/".join(Path(path).parts[-2:]) for path in chosen["image_path"])


def test_names_may_be_of_any_length_with_or_without_their_ending(bolt: Path) -> None:
    split = _split(
        bolt, "# mine", "dent/002", "test/dent/004.png  # the clearest", "", "bolt/test/stain/001.png"
    )
    assert _shots(split) == ["dent/002.png", "dent/004.png", "stain/001.png"]
    assert (split["split"] == "test").sum() == 3 + 4 + 5
    assert split_faults(split, SplitConfig()) == []


def test_names_of_the_originals(bolt: Path) -> None:
    (bolt / "origin.csv").write_text(
        "path,original\ntest/dent/003.png,raw/exp1_num_7.jpg\ntest/stain/000.png,raw/s.jpg\n"
    )
    assert _shots(_split(bolt, "exp1_num_7", "s.jpg")) == ["dent/003.png", "stain/000.png"]


def test_what_shows_the_part_of_a_named_shot_is_not_tested(bolt: Path) -> None:
    save(bolt / "test/dent/006.png", texture(2002))
    save(bolt / "ground_truth/dent/006_mask.png", square_mask())
    split = _split(bolt, "dent/002", "stain/002")
    assert split.loc[split["image_path"].str.endswith("dent/006.png"), "split"].tolist() == ["excluded"]


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (["dent/002"], "names no picture of stain"),
        (["dent/002", "stain/002", "dent/099"], "dent/099: no such picture in .*test; correct the name"),
        (["002", "stain/002"], "002 may mean test/dent/002.png, test/stain/002.png; write its folder too"),
        (["dent/002", "stain/002", "test/good/001"], "is a good picture"),
        (["# nothing"], "names no picture; write one a line"),
    ],
)
def test_a_list_that_will_not_do_is_refused_with_its_line(bolt: Path, lines: list[str], what: str) -> None:
    with pytest.raises(DataError, match=rf"shots\.txt: .*{what}"):
        _split(bolt, *lines)


def test_a_list_for_several_categories_and_one_that_is_not_there(bolt: Path) -> None:
    healthy_category(bolt.with_name("nut"))
    lines = ["bolt/test/dent/001.png", "bolt/test/stain/001.png", "nut/test/dent/000.png"]
    assert _shots(_split(bolt, *lines)) == ["dent/001.png", "stain/001.png"]
    with pytest.raises(
        DataError, match=r"shot\.txt: split\.shots: neither a number, nor 'third', nor a text"
    ):
        split_samples(read_dataset(bolt), SplitConfig(shots=Path("shot.txt")))
    with pytest.raises(ValidationError, match=r"neither a number, nor third, nor a file such as shots\.txt"):
        SplitConfig.model_validate({"shots": "thrid"})


def test_the_shots_that_others_publish_figures_on(tmp_path: Path) -> None:
    names = [name for of_type in ANOMALYGEN.values() for name in of_type.split()]
    file = tmp_path / "shots.txt"
    file.write_text("\n".join(names))
    samples = read_dataset(real_data("magnetic_tile"))
    samples["group"] = range(len(samples))
    split = split_samples(samples, SplitConfig(shots=file, naive=True))
    shots = split[(split["split"] == "train") & (split["label_index"] == 1)]
    assert shots.groupby("label").size().to_dict() == dict.fromkeys(ANOMALYGEN, 5)
