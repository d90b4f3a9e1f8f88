"""A store with a URL: what one machine made is a hit on the next, nothing half sent counts, nothing is made twice."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.config import RunConfig, load_config
from tasks.errors import AnodiffError, ArtifactError, ConfigError, StoreUnreachableError
from tasks.report.run_folder import write_run
from tasks.runs.ended import artifacts_of, find_run, run_names
from tasks.runtime.stage import StageOutcome
from tasks.store import artifacts, lock, place
from tasks.store.artifacts import Artifact, Staged, plan, publish, read_manifest, verified
from tasks.store.place import Remote, open_store, place_of, remote_of
from tests.s3 import make_bucket, s3_server, speak_to

Machine = Callable[[str], Path]


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture
def url(server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    speak_to(server, monkeypatch)
    bucket = f"plant-{tmp_path.name}".replace("_", "-").lower()[:60].rstrip("-")
    make_bucket(bucket)
    return f"s3://{bucket}/night shift"


@pytest.fixture
def machine(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The store as a machine of this name sees it."""

    def enter(name: str) -> Path:
        monkeypatch.setenv("ANODIFF_CACHE", str(tmp_path / name))
        return open_store(url)

    return enter


def write_two(staged: Staged) -> None:
    (staged.out / "sub").mkdir(exist_ok=True)
    (staged.out / "a.txt").write_text("a")
    (staged.out / "sub" / "b [1] %.bin").write_bytes(b"\0" * 1000)


def must_not(staged: Staged) -> None:
    raise AssertionError("made again")


def made(folder: Path, **inputs: Any) -> Artifact:
    artifact = plan(folder, "finetune", 1, "bolt", **inputs)
    assert publish(artifact, write_two, device="cpu")
    return artifact


def elsewhere(folder: Path) -> Remote:
    remote = remote_of(folder)
    assert remote is not None
    return remote


# Where a store lies.


def test_a_path_is_the_store_itself(tmp_path: Path) -> None:
    for where in (tmp_path / "x", str(tmp_path / "x"), "relative/x"):
        assert open_store(where) == Path(where)
        assert remote_of(Path(where)) is None
        assert place_of(Path(where)) == str(where)
    assert open_store(f"file://{tmp_path}/x") == tmp_path / "x"
    assert not (tmp_path / "x").exists()


def test_a_url_is_a_folder_of_copies_that_knows_it(url: str, machine: Machine, tmp_path: Path) -> None:
    here, there = machine("here"), machine("there")
    assert here.is_relative_to(tmp_path / "here")
    assert here != there
    assert here.name == there.name
    # The command line makes a Path of what is given as --store.
    assert open_store(Path(f"{url}/")) == there
    assert place_of(here) == place_of(there) == url
    assert elsewhere(here).name != elsewhere(there).name


def test_a_url_that_nothing_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"store nonsense://bucket: .*give a folder, or a URL such as s3://"
    ):
        open_store("nonsense://bucket")
    with pytest.raises(ConfigError, match=r"store: .*nonsense://bucket"):
        load_config("demo", data=tmp_path, store="nonsense://bucket")


def test_config_and_artifacts_sent_to_another_machine_find_its_copies(
    url: str, machine: Machine, tmp_path: Path
) -> None:
    here = machine("here")
    config = load_config("demo", data=tmp_path, store=url)
    assert config.store == here
    assert json.loads(config.model_dump_json())["store"] == url
    sent = pickle.dumps((config, plan(config.store, "prepare", 1, "bolt", label="x", seed=1)))
    there = machine("there")
    arrived, artifact = pickle.loads(sent)
    assert arrived.store == there
    assert arrived == config.model_copy(update={"store": there})
    assert (artifact.store, artifact.label, artifact.inputs) == (there, "x", {"version": 1, "seed": 1})
    assert RunConfig.model_validate(config.model_dump(mode="json")).store == there
    local = load_config("demo", data=tmp_path, store="relative")
    assert pickle.loads(pickle.dumps(local)) == local


def test_the_name_of_an_artifact_does_not_depend_on_the_place(machine: Machine, tmp_path: Path) -> None:
    assert (
        plan(machine("here"), "prepare", 1, "bolt", seed=1).ref
        == plan(tmp_path, "prepare", 1, "bolt", seed=1).ref
    )


# Hits.


def test_what_one_machine_made_is_a_hit_on_another(machine: Machine) -> None:
    first = made(machine("here"))
    second = plan(machine("there"), "finetune", 1, "bolt")
    assert not second.path.exists()
    assert verified(second)
    assert read_manifest(second) == read_manifest(first)
    assert (second.path / "sub" / "b [1] %.bin").read_bytes() == b"\0" * 1000
    assert not second.staging.exists()
    third = plan(machine("third"), "finetune", 1, "bolt")
    assert not publish(third, must_not, device="cpu")
    assert verified(third)
    assert not place.sizes(elsewhere(third.store), "locks")


def test_the_manifest_is_there_only_when_all_files_are(machine: Machine, tmp_path: Path) -> None:
    remote, folder = elsewhere(machine("here")), tmp_path / "folder"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    (folder / "large").write_bytes(b"\0" * 60_000_000)
    sending = threading.Thread(
        target=place.upload, args=(remote, folder, "x"), kwargs={"last": "manifest.json"}
    )
    sending.start()
    seen = []
    while sending.is_alive():
        seen.append(set(place.sizes(remote, "x")))
    sending.join()
    assert {"manifest.json"} not in seen
    assert set(place.sizes(remote, "x")) == {"manifest.json", "large"}


def test_files_without_a_manifest_are_no_artifact(machine: Machine) -> None:
    first = made(machine("here"))
    place.remove(elsewhere(first.store), f"artifacts/{first.ref}/manifest.json")
    second = plan(machine("there"), "finetune", 1, "bolt")
    assert not verified(second)
    assert publish(second, write_two, device="cpu")


@pytest.mark.parametrize("damage", ["byte", "file", "manifest", "outside"])
def test_damage_elsewhere_is_seen_and_mended(machine: Machine, damage: str, said: list[str]) -> None:
    first = made(machine("here"))
    remote, under = elsewhere(first.store), f"artifacts/{first.ref}"
    if damage == "byte":
        place.write(remote, f"{under}/a.txt", b"b")
    elif damage == "file":
        place.remove(remote, f"{under}/a.txt")
    elif damage == "manifest":
        place.write(remote, f"{under}/manifest.json", b"{")
    else:
        manifest = read_manifest(first)
        manifest["files"]["../../x"] = manifest["files"].pop("a.txt")
        place.write(remote, f"{under}/manifest.json", json.dumps(manifest).encode())
    second = plan(machine("there"), "finetune", 1, "bolt")
    assert not verified(second)
    assert f"{remote.url}/{under}" in said[-1]
    assert not second.path.exists()
    assert publish(second, write_two, device="cpu")
    assert verified(plan(machine("third"), "finetune", 1, "bolt"))


def test_a_damaged_copy_is_fetched_again(machine: Machine) -> None:
    artifact = made(machine("here"))
    (artifact.path / "a.txt").write_text("b")
    assert verified(artifact)
    assert (artifact.path / "a.txt").read_text() == "a"


def test_a_copy_here_asks_nobody_and_without_one_the_url_is_named(
    url: str, machine: Machine, server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = made(machine("here"))
    speak_to({**server, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, monkeypatch)
    assert verified(artifact)
    other = plan(artifact.store, "finetune", 1, "nut")
    with pytest.raises(StoreUnreachableError, match=f"store {url}: cannot be reached .*AWS_ENDPOINT_URL"):
        verified(other)


def test_what_could_not_be_sent_is_kept_and_only_sent(
    server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speak_to(server, monkeypatch)
    monkeypatch.setenv("ANODIFF_CACHE", str(tmp_path))
    # The lock is taken first, so that the bucket must be there; it goes while the stage works.
    make_bucket("short-lived")
    artifact = plan(open_store("s3://short-lived/x"), "finetune", 1, "bolt")

    def make(staged: Staged) -> None:
        write_two(staged)
        place.delete(elsewhere(artifact.store), "locks")
        fs, _ = place._file_system("s3://short-lived")
        fs.rmdir("short-lived")

    with pytest.raises(
        StoreUnreachableError, match=r"s3://short-lived/x: cannot be written to .*create the bucket"
    ):
        publish(artifact, make, device="cpu")
    assert not artifact.path.exists()
    with pytest.raises(StoreUnreachableError, match="create the bucket"):
        place.check_store(artifact.store)
    make_bucket("short-lived")
    place.check_store(artifact.store)
    assert not place.sizes(elsewhere(artifact.store), "locks")
    assert publish(artifact, must_not, device="cpu")
    assert verified(artifact)


# A store is moved.


def test_a_local_store_that_moved_or_was_copied_to_a_url_has_all_its_hits(
    url: str, machine: Machine, tmp_path: Path
) -> None:
    first = made(tmp_path / "local")
    made(tmp_path / "local", upstream=first)
    (tmp_path / "local").rename(tmp_path / "moved")
    fs, root = place._file_system(url)
    fs.put(f"{tmp_path}/moved/", f"{root}/", recursive=True)
    shutil.rmtree(tmp_path / "local", ignore_errors=True)
    for where in (tmp_path / "moved", machine("here")):
        upstream = plan(where, "finetune", 1, "bolt")
        assert verified(upstream)
        assert verified(plan(where, "finetune", 1, "bolt", upstream=upstream))
    for file in (tmp_path / "moved" / "artifacts").rglob("manifest.json"):
        assert str(tmp_path) not in file.read_text()


# Two machines at once: real processes, each with a folder of its own.

MAKER = """
import sys, time
from pathlib import Path
from typing import Any
from tasks.store import lock
from tasks.store.artifacts import plan, publish
from tasks.store.place import open_store

lock.BEAT_SECONDS, lock.STALE_SECONDS, lock.POLL_SECONDS = 0.2, 1.5, 0.1
url, log, name, seconds = sys.argv[1:]

def make(staged):
    with open(log, "a") as file:
        file.write(name + "\\n")
    time.sleep(float(seconds))
    (staged.out / "who").write_text(name)

print(publish(plan(open_store(url), "finetune", 1, "bolt"), make, device="cpu"))
"""


def start(url: str, tmp_path: Path, name: str, seconds: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", MAKER, url, str(tmp_path / "log"), name, str(seconds)],
        env={**os.environ, "ANODIFF_CACHE": str(tmp_path / name)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_of_two_machines_that_want_the_same_one_makes_it(url: str, machine: Machine, tmp_path: Path) -> None:
    processes = [start(url, tmp_path, name, 2.5) for name in ("one", "two")]
    answers = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    assert answers == ["False", "True"]
    (maker,) = (tmp_path / "log").read_text().split()
    for name in ("one", "two"):
        artifact = plan(machine(name), "finetune", 1, "bolt")
        assert artifacts.fault(artifact) is None
        assert (artifact.path / "who").read_text() == maker
    assert not place.sizes(elsewhere(machine("one")), "locks")


def test_what_a_killed_machine_was_making_another_takes_over(
    url: str, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = start(url, tmp_path, "dying", 600)
    while not (tmp_path / "log").exists():
        assert dying.poll() is None
        time.sleep(0.05)
    dying.send_signal(signal.SIGKILL)
    dying.communicate()
    monkeypatch.setattr(lock, "STALE_SECONDS", 1.5)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.1)
    other = plan(machine("other"), "finetune", 1, "bolt")
    assert lock.is_held(elsewhere(other.store), other.ref)
    started = time.monotonic()
    assert publish(other, write_two, device="cpu")
    assert time.monotonic() - started > 1.5
    assert not lock.is_held(elsewhere(other.store), other.ref)


def test_the_machine_itself_goes_on_at_once(machine: Machine) -> None:
    """Its file lock shows that nobody here is making it: a lock of its own name is a dead process's."""
    artifact = plan(machine("here"), "finetune", 1, "bolt")
    remote = elsewhere(artifact.store)
    assert place.create(remote, f"locks/{artifact.ref}/0", lock._token(remote))
    assert not place.create(remote, f"locks/{artifact.ref}/0", lock._token(remote))
    started = time.monotonic()
    assert publish(artifact, write_two, device="cpu")
    assert time.monotonic() - started < 5
    assert not place.sizes(remote, "locks")


# Runs.


def ended(config: RunConfig, day: int, *stages: StageOutcome) -> str:
    return write_run(config, stages, {}, started=datetime(2026, 1, day, tzinfo=UTC)).run


def test_a_run_is_found_from_another_machine_with_its_artifacts(
    url: str, machine: Machine, tmp_path: Path
) -> None:
    config = load_config("demo", data=tmp_path, store=machine("here") and url)
    artifact = made(config.store)
    name = ended(config, 1, StageOutcome("finetune", "bolt", artifact.ref, "ran"))
    there = machine("there")
    assert run_names(there) == [name]
    assert not (there / "runs").exists()
    for where, wanted in ((Path(url), "latest"), (there, name), (tmp_path, str(there / "runs" / name))):
        run = find_run(where, wanted)
        assert (run.name, run.config.store) == (name, there)
        assert (run.folder / "metrics.parquet").is_file()
    assert verified(artifacts_of(run, "finetune", "bolt")["bolt"])
    with pytest.raises(AnodiffError, match=f"runs there: {name}"):
        find_run(there, "20990101")


def test_a_run_that_ends_out_of_reach_is_sent_with_the_next(
    url: str,
    machine: Machine,
    server: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
) -> None:
    config = load_config("demo", data=tmp_path, store=machine("here") and url)
    speak_to({**server, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, monkeypatch)
    first = ended(config, 1)
    assert f"run {first} lies only on this machine" in said[-1]
    speak_to(server, monkeypatch)
    second = ended(config, 2)
    assert run_names(machine("there")) == [second, first]


# Room.


def test_a_store_over_its_budget_makes_no_more(tmp_path: Path) -> None:
    artifact = made(tmp_path)
    with pytest.raises(
        ArtifactError, match=r"holds 0\.0 GB, max_store_gb is 1e-06; see `anodiff artifacts gc"
    ):
        publish(plan(tmp_path, "finetune", 1, "nut"), must_not, device="cpu", max_store_gb=1e-6)
    assert not publish(artifact, must_not, device="cpu", max_store_gb=1e-6)  # what is there takes no room
    place.check_room(tmp_path, 1.0)


def test_a_full_disk_is_said_before_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "MIN_FREE_GB", 1e9)
    with pytest.raises(ArtifactError, match="GB left on its disk, 1000000000 GB is the least"):
        place.check_store(tmp_path / "not" / "there")


# Speed.


def test_files_are_hashed_once_a_process_and_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = made(tmp_path)
    monkeypatch.setattr(artifacts, "SETTLED_S", 0.05)
    time.sleep(0.1)
    artifacts._digest_as_of.cache_clear()
    assert verified(artifact)
    assert verified(artifact)
    assert artifacts._digest_as_of.cache_info()[:2] == (2, 2)  # hits, misses
    file = artifact.path / "a.txt"
    before = file.stat()
    file.write_text("b")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    time.sleep(0.1)
    assert not verified(artifact)
