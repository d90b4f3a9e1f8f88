"""Who trains on what: one validation set for all, nobody trains on it, test rows never appear."""

import pandas as pd
import pytest

from downstream.errors import TrainingSetError
from downstream.training_sets import TrainingSetName, split_pairs, training_set

from .conftest import Squares

NAMES: tuple[TrainingSetName, ...] = ("real", "generated", "generated+real")


def test_each_set_holds_its_sources(squares: Squares) -> None:
    counts = {
        name: training_set(name, squares.samples, squares.pairs).train["source"].value_counts().to_dict()
        for name in NAMES
    }
    assert counts == {
        "real": {"normal": 16, "real": 3},
        "generated": {"normal": 16, "generated": 16},
        "generated+real": {"normal": 16, "generated": 16, "real": 3},
    }


def test_validation_is_shared_and_nobody_trains_on_it(squares: Squares) -> None:
    sets = [training_set(name, squares.samples, squares.pairs, seed=5) for name in NAMES]
    for one in sets:
        pd.testing.assert_frame_equal(one.val, sets[0].val)
        assert not set(one.val["image_path"]) & set(one.train["image_path"])
        assert not set(one.val["mask_path"]) & set(one.train["mask_path"]) - {""}
    assert sets[0].val["source"].value_counts().to_dict() == {"normal": 6, "generated": 4}


def test_test_rows_never_appear(squares: Squares) -> None:
    test = set(squares.samples.loc[squares.samples["split"] == "test", "image_path"])
    for name in NAMES:
        one = training_set(name, squares.samples, squares.pairs)
        assert not test & (set(one.train["image_path"]) | set(one.val["image_path"]))


def test_pairs_are_held_back_per_defect_type_by_seed(squares: Squares) -> None:
    pairs = squares.pairs.assign(label=["spot"] * 10 + ["dot"] * 9 + ["rare"])
    train, val = split_pairs(pairs, seed=0)
    assert val["label"].value_counts().to_dict() == {"spot": 2, "dot": 2}
    assert len(train) + len(val) == len(pairs)
    assert set(split_pairs(pairs, seed=0)[1]["image_path"]) == set(val["image_path"])
    assert set(split_pairs(pairs, seed=1)[1]["image_path"]) != set(val["image_path"])


def test_missing_parts_are_said_plainly(squares: Squares) -> None:
    samples, pairs = squares.samples, squares.pairs
    normal = samples["label_index"] == 0
    cases = [
        (samples, pairs.iloc[:0], "no generated pairs.*also `real`"),
        (samples, pairs.iloc[:1], "only 1 generated pair"),
        (samples[~(normal & (samples["split"] == "train"))], pairs, 'normal pictures with split "train"'),
        (samples[~(normal & (samples["split"] == "val"))], pairs, 'normal pictures with split "val"'),
        (samples[normal], pairs, "no defect picture"),
        (samples.assign(category=["a"] + ["b"] * (len(samples) - 1)), pairs, "mix the categories"),
    ]
    for rows, given, fault in cases:
        with pytest.raises(TrainingSetError, match=fault):
            training_set("real", rows, given)


def test_a_picture_on_both_sides_is_refused(squares: Squares) -> None:
    samples = squares.samples.copy()
    first_normal = samples.index[(samples["split"] == "val")][0]
    samples.loc[samples.index[0], "image_path"] = samples.loc[first_normal, "image_path"]
    with pytest.raises(TrainingSetError, match="1 pictures are in train and val"):
        training_set("generated", samples, squares.pairs)
