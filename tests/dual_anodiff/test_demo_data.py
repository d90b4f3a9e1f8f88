"""The demo's data set on disk."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dual_anodiff.demo_data import DEMO_CATEGORIES, write_demo_data
from dual_anodiff.errors import InputError
from dual_anodiff.procedural import parts


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.png"))}


def small(root: Path, *categories: str, seed: int = 0) -> None:
    write_demo_data(
        root, categories=categories, num_train=4, num_test_good=2, num_defects=2, size_px=64, seed=seed
    )


def test_at_least_four_categories_with_three_defect_types_of_objects_and_textures() -> None:
    assert len(DEMO_CATEGORIES) >= 4
    assert all(len(c.defect_types) >= 3 for c in DEMO_CATEGORIES.values())
    kinds = {c.kind in parts.TEXTURES for c in DEMO_CATEGORIES.values()}
    assert kinds == {True, False}


def test_layout_is_mvtecs_and_every_mask_marks_something(tmp_path: Path) -> None:
    small(tmp_path, "tile")
    files = contents(tmp_path)
    assert len(files) == 4 + 2 + 3 * 2 * 2
    for name in DEMO_CATEGORIES["tile"].defect_types:
        image = Image.open(tmp_path / "tile" / "test" / name / "000.png")
        mask = Image.open(tmp_path / "tile" / "ground_truth" / name / "000_mask.png")
        assert image.size == mask.size == (64, 64)
        assert set(np.unique(np.asarray(mask))) == {0, 255}


def test_seeded_and_independent_of_the_other_categories(tmp_path: Path) -> None:
    small(tmp_path / "a", "nut")
    small(tmp_path / "b", "tile", "nut")
    small(tmp_path / "c", "nut", seed=1)
    a, b, c = (contents(tmp_path / x / "nut") for x in "abc")
    assert a == b
    assert a != c


def test_written_once_and_nothing_of_the_users_is_overwritten(tmp_path: Path) -> None:
    small(tmp_path, "nut")
    before = (tmp_path / "nut" / "train" / "good" / "000.png").stat().st_mtime_ns
    small(tmp_path, "nut")
    assert (tmp_path / "nut" / "train" / "good" / "000.png").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="something else"):
        small(tmp_path, "nut", seed=1)
    with pytest.raises(InputError, match="choose from nut"):
        small(tmp_path, "banana")
