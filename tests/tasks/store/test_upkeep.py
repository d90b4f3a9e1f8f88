"""The store's upkeep: what runs need is never deleted, what is damaged is named, and a dry run deletes nothing."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from flows.cli import app
from tasks.errors import AnodiffError, ArtifactError
from tasks.store import lock
from tasks.store.artifacts import Artifact, Staged, plan, publish, verified
from tasks.store.place import Remote, open_store, push_runs, read, remote_of, sizes, write
from tasks.store.upkeep import damage, find_garbage, list_artifacts, sweep
from tests.s3 import make_bucket, s3_server, speak_to

WEEK_AGO_S = 8 * 86_400.0


def made(store: Path, stage: str, **inputs: Any) -> Artifact:
    artifact = plan(store, stage, 1, "bolt", label=f"bolt/{stage}", **inputs)

    def make(staged: Staged) -> None:
        (staged.out / "file").write_text(stage * 100)

    publish(artifact, make, device="cpu")
    return artifact


def ended(store: Path, name: str, *refs: Artifact | None) -> None:
    folder = store / "runs" / name
    folder.mkdir(parents=True)
    stages = [{"artifact": None if each is None else each.ref} for each in refs]
    (folder / "run.json").write_text(json.dumps({"stages": stages, "of": "any version"}))
    push_runs(store)


def age(*paths: Path) -> None:
    for top in paths:
        for path in (top, *top.rglob("*")):
            os.utime(path, (time.time() - WEEK_AGO_S,) * 2)


def age_all(store: Path) -> None:
    age(store / "artifacts")


def refs(*artifacts: Artifact) -> list[str]:
    return sorted(each.ref for each in artifacts)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


# What goes and what stays.


def test_runs_keep_what_they_refer_to_and_all_that_this_was_made_from(store: Path) -> None:
    drawn = made(store, "generate", seed=1)
    adapter = made(store, "finetune", nested={"list": [drawn]})
    curated = made(store, "curate", pairs=[adapter])
    unused = made(store, "generate", seed=2)
    ended(store, "20260101-1", None, curated)
    age_all(store)
    assert list(find_garbage(store, older_than_days=7).artifacts) == refs(unused)
    ended(store, "20260102-1", unused)
    assert not find_garbage(store, older_than_days=7).artifacts
    assert list(find_garbage(store, older_than_days=7, keep_runs=1).artifacts) == refs(
        adapter, curated, drawn
    )
    assert len(find_garbage(store, older_than_days=7, keep_runs=0).artifacts) == 4


def test_telling_deletes_nothing_and_deleting_takes_that_alone(store: Path) -> None:
    needed, unused = made(store, "prepare"), made(store, "finetune")
    ended(store, "20260101-1", needed)
    age_all(store)
    garbage = find_garbage(store, older_than_days=7)
    assert verified(unused)
    size = sum(path.stat().st_size for path in unused.path.iterdir())
    assert garbage.bytes == size
    assert sweep(store, garbage) == size
    assert not unused.path.exists()
    assert verified(needed)
    assert publish(
        unused, lambda staged: (staged.out / "x").touch(), device="cpu"
    )  # the next run makes it again


def test_what_is_young_or_was_used_lately_stays_for_a_run_under_way(store: Path) -> None:
    old, hit, young = made(store, "prepare"), made(store, "finetune"), made(store, "generate")
    age(old.path, hit.path)
    assert verified(hit)
    assert list(find_garbage(store, older_than_days=7).artifacts) == refs(old)
    assert list(find_garbage(store, older_than_days=0).artifacts) == refs(old, hit, young)


def test_folders_of_stages_that_were_stopped_go_unless_they_are_young_or_held(store: Path) -> None:
    for name in ("old", "young", "held"):
        (store / "staging" / "finetune" / "bolt" / name).mkdir(parents=True)
        (store / "staging" / "finetune" / "bolt" / name / "checkpoint").write_text("12345")
    folder = store / "staging" / "finetune" / "bolt"
    age(folder / "old", folder / "held")
    with FileLock(folder / "held.lock"):
        garbage = find_garbage(store, older_than_days=7)
        assert garbage.leftovers == {"staging/finetune/bolt/old": 5}
    garbage = find_garbage(store, older_than_days=7)
    with FileLock(folder / "held.lock"):  # taken between telling and deleting
        assert sweep(store, garbage) == 5
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["held", "young"]


def test_a_run_that_cannot_be_read_keeps_everything(store: Path) -> None:
    made(store, "prepare")
    ended(store, "20260101-1")
    (store / "runs" / "20260101-1" / "run.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"20260101-1: run.json cannot be read .* nobody knows"):
        find_garbage(store, older_than_days=0)


def test_a_folder_whose_manifest_is_gone_is_garbage_and_listed(store: Path) -> None:
    broken = made(store, "prepare")
    (broken.path / "manifest.json").unlink()
    age_all(store)
    (entry,) = list_artifacts(store)
    assert (entry.created, entry.bytes) == ("", 700)
    sweep(store, find_garbage(store, older_than_days=7))
    assert not broken.path.exists()


# What is there, and whether it is whole.


def test_listed_by_stage_category_and_run(store: Path) -> None:
    first, second = made(store, "prepare"), made(store, "finetune")
    ended(store, "20260101-1", first, second)
    ended(store, "20260102-1", second)
    assert [(each.artifact.stage, each.runs) for each in list_artifacts(store)] == [
        ("finetune", ("20260101-1", "20260102-1")),
        ("prepare", ("20260101-1",)),
    ]
    assert [each.artifact.ref for each in list_artifacts(store, stage="prepare")] == refs(first)
    assert [each.artifact.ref for each in list_artifacts(store, run="latest")] == refs(second)
    assert not list_artifacts(store, category="nut")
    with pytest.raises(AnodiffError, match="no run '2027'; see `anodiff runs`"):
        list_artifacts(store, run="2027")


def test_damaged_and_missing_are_named_with_what_mends_them(store: Path) -> None:
    whole, damaged, missing = made(store, "prepare"), made(store, "finetune"), made(store, "generate")
    ended(store, "20260101-1", whole, damaged, missing)
    assert damage(store) == damage(store, "latest") == (3, [])
    (damaged.path / "file").write_text("x" * 800)
    for path in missing.path.iterdir():
        path.unlink()
    missing.path.rmdir()
    checked, lines = damage(store, "20260101-1")
    assert checked == 3
    assert len(lines) == 2
    assert lines[0].startswith("finetune bolt/finetune: ")
    assert "changed since it was written; anodiff rerun 20260101-1 --category bolt" in lines[0]
    assert "not there; anodiff rerun 20260101-1" in lines[1]
    assert damage(store)[0] == 2  # what is gone is missed only by the run asked for


def test_the_command_line(store: Path) -> None:
    needed, unused = made(store, "prepare"), made(store, "finetune")
    ended(store, "20260101-1", needed)
    age_all(store)

    def said(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["artifacts", *arguments, "--store", str(store)])
        assert result.exit_code == code, result.output
        return result.output

    assert "2 artifacts" in said("ls")
    assert "1 artifacts" in said("ls", "--stage", "prepare")
    assert unused.ref in said("gc")
    assert verified(unused)
    age_all(store)
    assert "deleted" in said("gc", "--delete")
    assert not unused.path.exists()
    assert "1 artifacts, none damaged" in said("verify")
    (needed.path / "file").write_text("")
    assert "1 artifacts, 1 damaged" in said("verify", "--run", "latest", code=1)
    said("verify", "--run", "nope", code=2)


# A store elsewhere.


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture
def url(server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    speak_to(server, monkeypatch)
    monkeypatch.setenv("ANODIFF_CACHE", str(tmp_path))
    bucket = f"upkeep-{tmp_path.name}".replace("_", "-").lower()[:60].rstrip("-")
    make_bucket(bucket)
    return f"s3://{bucket}/store"


def elsewhere(store: Path) -> Remote:
    remote = remote_of(store)
    assert remote is not None
    return remote


def made_long_ago(artifact: Artifact) -> None:
    name = f"artifacts/{artifact.ref}/manifest.json"
    manifest = json.loads(read(elsewhere(artifact.store), name) or b"")
    text = json.dumps({**manifest, "created": "2020-01-01T00:00:00+00:00"})
    write(elsewhere(artifact.store), name, text.encode())


def test_of_a_store_elsewhere_what_lies_there_is_judged(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(url)
    drawn = made(store, "generate")
    needed, unused, young = (
        made(store, "curate", pairs=[drawn]),
        made(store, "finetune"),
        made(store, "prepare"),
    )
    ended(store, "20260101-1", needed)
    for each in (drawn, needed, unused):
        made_long_ago(each)
        age(each.path)
    # A machine that is sending files now has not sent the manifest yet.
    being_sent = plan(store, "localize", 1, "bolt")
    write(elsewhere(store), f"artifacts/{being_sent.ref}/file", b"half")
    with lock.locked(elsewhere(store), being_sent.ref):
        assert list(find_garbage(store, older_than_days=7).artifacts) == refs(unused)

    monkeypatch.setenv("ANODIFF_CACHE", str(tmp_path / "another machine"))
    other = open_store(url)
    assert len(list_artifacts(other)) == 5
    assert [each.artifact.ref for each in list_artifacts(other, run="latest")] == refs(needed)
    assert list(find_garbage(other, older_than_days=7).artifacts) == refs(unused, being_sent)
    assert not find_garbage(other, older_than_days=7).copies

    garbage = find_garbage(store, older_than_days=7)
    assert list(garbage.copies) == refs(drawn, needed)
    sweep(store, garbage)
    assert not unused.path.exists()
    assert not sizes(elsewhere(store), f"artifacts/{unused.ref}")
    assert not sizes(elsewhere(store), f"artifacts/{being_sent.ref}")
    assert not needed.path.exists()
    assert young.path.exists()
    assert [each.artifact.ref for each in list_artifacts(store)] == refs(needed, drawn, young)
    assert verified(needed)  # fetched again


def test_damage_elsewhere_is_found_though_the_copy_here_is_whole(url: str) -> None:
    store = open_store(url)
    artifact = made(store, "prepare")
    ended(store, "20260101-1", artifact)
    assert damage(store, "latest") == (1, [])
    write(elsewhere(store), f"artifacts/{artifact.ref}/file", b"x" * 700)
    checked, (line,) = damage(store)
    assert checked == 1
    assert f"{url}/artifacts/{artifact.ref}: file: changed since it was written; anodiff rerun" in line
    assert verified(artifact)
    assert not list(artifact.staging.glob("*"))
