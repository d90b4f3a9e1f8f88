"""Who trains on what: one validation set for all, nobody trains on it, test rows never appear."""

from typing import get_args

import pandas as pd
import pytest

from downstream.errors import TrainingSetError
from downstream.synthesis import copy_paste_pairs, perlin_pairs
from downstream.training_sets import TrainingSetName, split_pairs, training_set

from .conftest import Squares

NAMES: tuple[TrainingSetName, ...] = get_args(TrainingSetName)


@pytest.fixture(scope="module")
def baselines(squares: Squares, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """As many pairs of each baseline as there are generated ones."""
    out = tmp_path_factory.mktemp("baselines")
    return {
        "copy-paste": copy_paste_pairs(squares.samples, out / "c", 20, seed=0),
        "perlin": perlin_pairs(squares.samples, out / "p", 20, size_px=32, seed=0),
    }


def test_each_set_holds_its_sources(squares: Squares, baselines: dict[str, pd.DataFrame]) -> None:
    counts = {
        name: training_set(name, squares.samples, squares.pairs, baselines=baselines)
        .train["source"]
        .value_counts()
        .to_dict()
        for name in NAMES
    }
    assert counts == {
        "real": {"normal": 16, "real": 3},
        "copy-paste": {"normal": 16, "copy-paste": 16},
        "perlin": {"normal": 16, "perlin": 16},
        "copy-paste+real": {"normal": 16, "copy-paste": 16, "real": 3},
        "perlin+real": {"normal": 16, "perlin": 16, "real": 3},
        "generated": {"normal": 16, "generated": 16},
        "generated+real": {"normal": 16, "generated": 16, "real": 3},
        "generated+copy-paste+real": {"normal": 16, "generated": 16, "copy-paste": 16, "real": 3},
    }


def test_validation_is_shared_and_nobody_trains_on_it(
    squares: Squares, baselines: dict[str, pd.DataFrame]
) -> None:
    sets = [training_set(name, squares.samples, squares.pairs, baselines=baselines, seed=5) for name in NAMES]
    for one in sets:
        pd.testing.assert_frame_equal(one.val, sets[0].val)
        assert not set(one.val["image_path"]) & set(one.train["image_path"])
        assert not set(one.val["mask_path"]) & set(one.train["mask_path"]) - {""}
    assert sets[0].val["source"].value_counts().to_dict() == {"normal": 6, "generated": 4}


def test_test_rows_never_appear(squares: Squares, baselines: dict[str, pd.DataFrame]) -> None:
    test = set(squares.samples.loc[squares.samples["split"] == "test", "image_path"])
    for name in NAMES:
        one = training_set(name, squares.samples, squares.pairs, baselines=baselines)
        assert not test & (set(one.train["image_path"]) | set(one.val["image_path"]))


def test_pairs_are_held_back_per_defect_type_by_seed(squares: Squares) -> None:
    pairs = squares.pairs.assign(label=["spot"] * 10 + ["dot"] * 9 + ["rare"])
    train, val = split_pairs(pairs, seed=0)
    assert val["label"].value_counts().to_dict() == {"spot": 2, "dot": 2}
    assert len(train) + len(val) == len(pairs)
    assert set(split_pairs(pairs, seed=0)[1]["image_path"]) == set(val["image_path"])
    assert set(split_pairs(pairs, seed=1)[1]["image_path"]) != set(val["image_path"])


def test_provenance_goes_with_the_pairs(squares: Squares) -> None:
    pairs = squares.pairs.assign(index=range(20), score=0.5, run="r1")
    one = training_set("generated+real", squares.samples, pairs)
    of_source = dict(list(one.train.groupby("source")))
    held_back = one.val.loc[one.val["source"] == "generated", "index"].tolist()
    assert sorted([*of_source["generated"]["index"].tolist(), *held_back]) == list(range(20))
    assert set(of_source["generated"]["run"]) == {"r1"}
    assert of_source["real"][["run", "index", "score"]].isna().all(axis=None)
    assert one.train["index"].dtype == "Int64"


def test_a_baseline_without_pairs_is_said_plainly(squares: Squares) -> None:
    with pytest.raises(TrainingSetError, match=r"'perlin': its pairs were not given.*downstream\.synthesis"):
        training_set("perlin", squares.samples, squares.pairs)
    with pytest.raises(TrainingSetError, match="'copy-paste': there are no pairs"):
        training_set(
            "copy-paste", squares.samples, squares.pairs, baselines={"copy-paste": squares.pairs.iloc[:0]}
        )


def test_missing_parts_are_said_plainly(squares: Squares) -> None:
    samples, pairs = squares.samples, squares.pairs
    normal = samples["label_index"] == 0
    cases = [
        (samples, pairs.iloc[:1], "only 1 generated pair"),
        (samples[~(normal & (samples["split"] == "train"))], pairs, 'normal pictures with split "train"'),
        (samples[~(normal & (samples["split"] == "val"))], pairs, 'normal pictures with split "val"'),
        (samples[normal], pairs, "no defect picture"),
        (samples.assign(category=["a"] + ["b"] * (len(samples) - 1)), pairs, "mix the categories"),
    ]
    for rows, given, fault in cases:
        with pytest.raises(TrainingSetError, match=fault):
            training_set("real", rows, given)
    with pytest.raises(TrainingSetError, match="no generated pairs"):
        training_set("generated", samples, pairs.iloc[:0])


def test_a_picture_on_both_sides_is_refused(squares: Squares) -> None:
    samples = squares.samples.copy()
    first_normal = samples.index[(samples["split"] == "val")][0]
    samples.loc[samples.index[0], "image_path"] = samples.loc[first_normal, "image_path"]
    with pytest.raises(TrainingSetError, match="1 pictures are in train and val"):
        training_set("generated", samples, squares.pairs)


def test_where_no_pair_passed_shots_are_held_back_to_validate_on(
    squares: Squares, baselines: dict[str, pd.DataFrame]
) -> None:
    none = squares.pairs.iloc[:0]
    one = training_set("real", squares.samples, none)
    shots = squares.samples[(squares.samples["split"] == "train") & (squares.samples["label_index"] == 1)]
    trained, validated = (rows[rows["source"] == "real"]["image_path"] for rows in (one.train, one.val))
    assert set(trained) | set(validated) == set(shots["image_path"])
    assert not set(trained) & set(validated)
    assert (validated.size, trained.size) == (1, 2)
    pd.testing.assert_frame_equal(
        one.val, training_set("copy-paste+real", squares.samples, none, baselines=baselines).val
    )
    with pytest.raises(TrainingSetError, match="no generated pairs"):
        training_set("generated", squares.samples, none)
    single = squares.samples.drop(shots.index[1:])
    with pytest.raises(TrainingSetError, match="only one shot of each defect type"):
        training_set("real", single, none)
