"""Artifacts: named by content, published whole or not at all, believed only while their files are what they were."""

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tasks.errors import ArtifactError
from tasks.store import artifacts
from tasks.store.artifacts import Artifact, Staged, plan, publish, verified


class Settings(BaseModel):
    steps: int = 3
    rate: float = 0.5


def planned(store: Path, **inputs: Any) -> Artifact:
    return plan(store, "finetune", 1, "bolt", **inputs)


def write_two(staged: Staged) -> None:
    (staged.out / "sub").mkdir(exist_ok=True)
    (staged.out / "a.txt").write_text("a")
    (staged.out / "sub" / "b.bin").write_bytes(b"\0" * 1000)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    one = planned(tmp_path / "store", settings=Settings())
    assert publish(one, write_two, device="cpu")
    return one


def test_same_inputs_same_name_wherever_the_store_lies(tmp_path: Path) -> None:
    first = planned(tmp_path / "a", settings=Settings(), names=("x", "y"), other=None)
    again = planned(tmp_path / "b", other=None, names=["x", "y"], settings=Settings(steps=3))
    assert first.ref == again.ref
    assert str(tmp_path) not in first.ref


def test_every_input_and_the_version_count(tmp_path: Path) -> None:
    base = planned(tmp_path, settings=Settings(), upstream=planned(tmp_path, seed=0))
    others = [
        planned(tmp_path, settings=Settings(steps=4), upstream=planned(tmp_path, seed=0)),
        planned(tmp_path, settings=Settings(), upstream=planned(tmp_path, seed=1)),
        planned(tmp_path, settings=Settings(), upstream=planned(tmp_path, seed=0), more=1),
        plan(tmp_path, "finetune", 2, "bolt", settings=Settings(), upstream=planned(tmp_path, seed=0)),
        plan(tmp_path, "generate", 1, "bolt", settings=Settings(), upstream=planned(tmp_path, seed=0)),
        plan(tmp_path, "finetune", 1, "nut", settings=Settings(), upstream=planned(tmp_path, seed=0)),
    ]
    assert len({each.digest for each in [base, *others]}) == len(others) + 1
    label = plan(
        tmp_path, "finetune", 1, "bolt", label="x", settings=Settings(), upstream=planned(tmp_path, seed=0)
    )
    assert label.digest == base.digest


def test_paths_and_objects_cannot_be_part_of_a_key(tmp_path: Path) -> None:
    class WithPath(BaseModel):
        weights: Path

    for value in (tmp_path, WithPath(weights=tmp_path), object(), {1, 2}):
        with pytest.raises(TypeError, match="part of a key"):
            planned(tmp_path, value=value)


def test_published_artifact_is_whole_and_says_how_it_was_made(artifact: Artifact) -> None:
    assert verified(artifact)
    manifest = artifacts.read_manifest(artifact)
    assert set(manifest["files"]) == {"a.txt", "sub/b.bin"}
    assert manifest["inputs"] == {"version": 1, "settings": {"rate": 0.5, "steps": 3}}
    assert set(manifest["versions"]) >= {"torch", "diffusers", "dualanodiff"}
    assert manifest["device"].startswith("cpu")
    assert manifest["seconds"] >= 0
    assert manifest["peak_memory_bytes"]["process"] > 1_000_000
    assert str(artifact.store) not in (artifact.path / artifacts.MANIFEST).read_text()
    assert not artifact.staging.exists()


def test_a_moved_store_still_verifies(artifact: Artifact, tmp_path: Path) -> None:
    artifact.store.rename(tmp_path / "moved")
    assert not verified(artifact)
    assert verified(planned(tmp_path / "moved", settings=Settings()))


def corrupt_a_byte(artifact: Artifact) -> None:
    (artifact.path / "sub" / "b.bin").write_bytes(b"\0" * 999 + b"\1")


def truncate(artifact: Artifact) -> None:
    (artifact.path / "a.txt").write_text("")


def lose_a_file(artifact: Artifact) -> None:
    (artifact.path / "a.txt").unlink()


def add_a_file(artifact: Artifact) -> None:
    (artifact.path / "c.txt").write_text("c")


def lose_the_manifest(artifact: Artifact) -> None:
    (artifact.path / artifacts.MANIFEST).unlink()


def break_the_manifest(artifact: Artifact) -> None:
    (artifact.path / artifacts.MANIFEST).write_text("{")


def empty_the_manifest(artifact: Artifact) -> None:
    (artifact.path / artifacts.MANIFEST).write_text("{}")


def put_another_in_its_place(artifact: Artifact) -> None:
    manifest = artifacts.read_manifest(artifact)
    (artifact.path / artifacts.MANIFEST).write_text(json.dumps({**manifest, "digest": "0" * 20}))


def delete(artifact: Artifact) -> None:
    shutil.rmtree(artifact.path)


DAMAGES = [
    corrupt_a_byte,
    truncate,
    lose_a_file,
    add_a_file,
    lose_the_manifest,
    break_the_manifest,
    empty_the_manifest,
    put_another_in_its_place,
    delete,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_seen_and_publishing_again_mends_it(artifact: Artifact, damage: object) -> None:
    assert callable(damage)
    damage(artifact)
    assert not verified(artifact)
    assert str(artifact.path) in str(artifacts.fault(artifact))
    assert publish(artifact, write_two, device="cpu")
    assert verified(artifact)
    assert not artifact.staging.exists()


def test_a_stage_that_fails_publishes_nothing_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    one = planned(tmp_path, seed=0)

    def fail(staged: Staged) -> None:
        (staged.out / "half").write_text("half")
        staged.checkpoint.write_text("step 3")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        publish(one, fail, device="cpu")
    assert not one.path.exists()

    def resume(staged: Staged) -> None:
        assert staged.checkpoint.read_text() == "step 3"
        assert list(staged.out.iterdir()) == []
        (staged.out / "whole").write_text("whole")

    assert publish(one, resume, device="cpu")
    assert {path.name for path in one.path.iterdir()} == {"whole", artifacts.MANIFEST}
    assert not one.staging.exists()


def test_a_resumable_stage_finds_what_it_had_written(tmp_path: Path) -> None:
    one = planned(tmp_path, seed=0)

    def write_one_then_two(staged: Staged) -> None:
        first = staged.out / "1"
        if not first.exists():
            first.write_text("1")
            raise RuntimeError("killed")
        (staged.out / "2").write_text("2")

    with pytest.raises(RuntimeError, match="killed"):
        publish(one, write_one_then_two, device="cpu", resumable=True)
    assert publish(one, write_one_then_two, device="cpu", resumable=True)
    assert set(artifacts.read_manifest(one)["files"]) == {"1", "2"}


def test_a_stage_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="wrote no file"):
        publish(planned(tmp_path), lambda staged: None, device="cpu")


def test_of_two_that_want_the_same_one_makes_it(tmp_path: Path) -> None:
    one, made, results = planned(tmp_path), [], []

    def slowly(staged: Staged) -> None:
        made.append(1)
        time.sleep(0.2)
        write_two(staged)

    threads = [
        threading.Thread(target=lambda: results.append(publish(one, slowly, device="cpu"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, False, True]
    assert len(made) == 1


def test_folder_digest_sees_names_and_contents_not_the_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("a")
    assert artifacts.folder_digest(tmp_path / "one") == artifacts.folder_digest(tmp_path / "two")
    before = artifacts.folder_digest(tmp_path / "two")
    (tmp_path / "two" / "a").rename(tmp_path / "two" / "b")
    assert artifacts.folder_digest(tmp_path / "two") != before
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="no files"):
        artifacts.folder_digest(tmp_path / "empty")
