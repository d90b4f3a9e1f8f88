"""The digest of a category is of the files that are read, through links, and of no others."""

import os
from pathlib import Path

import pytest

from tasks.config import RunConfig
from tasks.stages.prepare import build_prepare, plan_prepare
from tasks.store.artifacts import Artifact, Staged
from tasks.tables.prepared import data_digest, read_samples
from tests.tasks.data_folders import healthy_category, save, square_mask, texture


@pytest.fixture
def bolt(tmp_path: Path) -> Path:
    return healthy_category(tmp_path / "data" / "bolt", normals=3)


@pytest.mark.parametrize(
    "name", ["train/good/Thumbs.db", "train/good/000.json", "license.txt", "a.png", "train/good/._0.png"]
)
def test_what_is_not_read_changes_nothing(bolt: Path, name: str) -> None:
    before = data_digest(bolt)
    (bolt / name).write_text("x")
    assert data_digest(bolt) == before


@pytest.mark.parametrize("name", ["ground_truth/dent", "train/good", "test"])
def test_what_lies_behind_a_link_counts(bolt: Path, name: str, tmp_path: Path) -> None:
    before = data_digest(bolt)
    (bolt / name).rename(tmp_path / "elsewhere")
    (bolt / name).symlink_to(tmp_path / "elsewhere")
    assert data_digest(bolt) == before, "the same files, called the same"
    changed = next(path for path in sorted((tmp_path / "elsewhere").rglob("*.png")))
    save(changed, square_mask(side=7) if "mask" in changed.name else texture(99))
    assert data_digest(bolt) != before


def test_pictures_and_masks_that_are_redrawn_added_or_removed_count(bolt: Path) -> None:
    seen = {data_digest(bolt)}
    for change in (
        lambda: save(bolt / "ground_truth/dent/001_mask.png", square_mask(side=9)),
        lambda: save(bolt / "train/good/100.png", texture(100)),
        lambda: (bolt / "test/stain/005.png").unlink(),
        lambda: (bolt / "test/dent").rename(bolt / "test/chip"),
    ):
        change()
        seen.add(data_digest(bolt))
    assert len(seen) == 5


def _config(data: Path, tmp_path: Path, **split: object) -> RunConfig:
    return RunConfig.model_validate({"data": data, "store": tmp_path / "store", "split": split})


def _prepared(config: RunConfig, category: str) -> Artifact:
    out = plan_prepare(config, category).out
    out.path.mkdir(parents=True)
    build_prepare(config, category, Staged(out.path, out.path / "checkpoint"))
    return out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere, so nothing is shown")
def test_data_may_be_read_only(bolt: Path, tmp_path: Path) -> None:
    for path in [*bolt.rglob("*"), bolt]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        _prepared(_config(bolt.parent, tmp_path), "bolt")
    finally:
        for path in [bolt, *bolt.rglob("*")]:
            path.chmod(0o755)


def test_a_linked_category_is_prepared_and_read_under_its_own_name(bolt: Path, tmp_path: Path) -> None:
    (tmp_path / "lines with spaces").mkdir()
    link = tmp_path / "lines with spaces" / "Nr. 7"
    link.symlink_to(bolt)
    config = _config(link.parent, tmp_path)
    samples = read_samples(_prepared(config, "Nr. 7"), config.data)
    assert set(samples["category"]) == {"Nr. 7"}
    assert all(Path(path).is_file() for path in samples["image_path"])
    assert plan_prepare(config, "Nr. 7").out.inputs["data"] == data_digest(bolt)


def test_shots_by_name_count_by_what_the_list_says(bolt: Path, tmp_path: Path) -> None:
    file = tmp_path / "shots.txt"
    file.write_text("dent/001\nstain/002\n")
    config = _config(bolt, tmp_path, shots=file)
    out = _prepared(config, "bolt")
    samples = read_samples(out, bolt)
    shots = samples[(samples["split"] == "train") & (samples["label_index"] == 1)]
    assert sorted(Path(path).name for path in shots["image_path"]) == ["001.png", "002.png"]
    moved = file.rename(tmp_path / "mine.txt")
    moved.write_text("# ours\ndent/001\nstain/002\n")
    assert plan_prepare(_config(bolt, tmp_path, shots=moved), "bolt").out == out
    moved.write_text("dent/002\nstain/002\n")
    assert plan_prepare(_config(bolt, tmp_path, shots=moved), "bolt").out != out


def test_the_same_file_in_train_and_test_trains_nothing(bolt: Path, tmp_path: Path) -> None:
    (bolt / "test/good/100.png").write_bytes((bolt / "train/good/001.png").read_bytes())
    out = _prepared(_config(bolt, tmp_path), "bolt")
    samples = read_samples(out, bolt)
    side = dict(zip(samples["image_path"], samples["split"], strict=True))
    assert side[str(bolt / "train/good/001.png")] == "excluded"
    assert side[str(bolt / "test/good/100.png")] == "test"
    assert "the split keeps them on one side" in (out.path / "warnings.txt").read_text()
