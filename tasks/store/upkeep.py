"""Upkeep of a store: what is in it, whether that is whole, and what no run needs any more.

A store elsewhere (tasks.store.place) is judged by what lies there; this machine's copies of it can go whenever they are not
in use. run.json files are read as plain JSON: one of an older version, too, keeps what it refers to. STORE/reviews is
no garbage, whatever becomes of the pairs: nothing here looks there.
"""

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.errors import AnodiffError, ArtifactError
from tasks.store.artifacts import MANIFEST, Artifact, artifact_of, fault, fault_elsewhere, refs_in
from tasks.store.layout import artifacts_folder, staging_folder
from tasks.store.lock import is_held
from tasks.store.place import at_once, delete, read, remote_of, run_files, sizes

LATEST = "latest"
DAY_S = 86_400.0


@dataclass(frozen=True)
class Entry:
    """An artifact that lies in a store, finished or not."""

    artifact: Artifact
    bytes: int
    used: float  # seconds since the epoch: when it was made, or on this machine last asked for
    created: str  # "" where its manifest cannot be read
    seconds: float
    needs: frozenset[str]  # artifacts that its manifest names as inputs
    runs: tuple[str, ...] = ()  # that refer to it


@dataclass(frozen=True)
class Garbage:
    """What can go: in the order that it is shown in, with bytes."""

    artifacts: dict[str, int] = field(default_factory=dict)  # that no run needs
    leftovers: dict[str, int] = field(default_factory=dict)  # folders of stages that were stopped
    copies: dict[str, int] = field(default_factory=dict)  # on this machine, of what lies elsewhere

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(sum(each.values()) for each in (self.artifacts, self.leftovers, self.copies))


def list_artifacts(
    store: Path, *, stage: str | None = None, category: str | None = None, run: str | None = None
) -> list[Entry]:
    """The artifacts of a store, or those of a stage, a category, a run. Raises: AnodiffError for an unknown run."""
    wanted = None if run is None else _refs_of(store, run)[1]
    found = _entries(store)
    return [
        entry
        for ref, entry in sorted(found.items())
        if stage in (None, entry.artifact.stage)
        and category in (None, entry.artifact.category)
        and (wanted is None or ref in wanted)
    ]


def damage(store: Path, run: str | None = None) -> tuple[int, list[str]]:
    """Hash every file again, of all artifacts or of a run's: how many artifacts, and a line for each that is not whole.

    Of a store elsewhere the files there are read; copies on this machine are verified whenever they are used.
    """
    refs = refs_of_runs(store)
    entries = _entries(store)
    name, wanted = (None, set(entries)) if run is None else _refs_of(store, run)
    remote, lines = remote_of(store), []
    for ref in sorted(wanted):
        artifact = entries[ref].artifact if ref in entries else artifact_of(store, ref)
        if remote is None:
            wrong = fault(artifact)
        else:
            copy = artifact.staging / "verified"
            wrong = fault_elsewhere(artifact, remote, copy)
            shutil.rmtree(copy, ignore_errors=True)
        if wrong is not None:
            users = [name] if name else [each for each in sorted(refs, reverse=True) if ref in refs[each]]
            mend = (
                f"anodiff rerun {users[0]} --category {artifact.category}"
                if users
                else "no run refers to it, so the next that needs it makes it again"
            )
            what = wrong or f"{ref}: not there"
            lines.append(f"{artifact.stage} {artifact.label}: {what.partition('; run the stage')[0]}; {mend}")
    return len(wanted), lines


def find_garbage(store: Path, *, older_than_days: float, keep_runs: int | None = None) -> Garbage:
    """What no run needs and nobody asked for within so many days. `keep_runs`: only the newest so many runs count.

    Kept is what these runs refer to, and what that was made from: tables of curated pairs point to pictures in the
    artifacts that drew them. What a run under way makes is in no run.json yet; it is kept for being young.
    Raises: ArtifactError if a run.json cannot be read, for then nobody knows what it keeps.
    """
    before = time.time() - older_than_days * DAY_S
    refs = refs_of_runs(store)
    newest = sorted(refs, reverse=True)[:keep_runs]
    entries = _entries(store)
    kept = _with_inputs(frozenset[str]().union(*(refs[name] for name in newest)), entries)
    artifacts = {
        ref: entry.bytes for ref, entry in sorted(entries.items()) if ref not in kept and entry.used <= before
    }
    leftovers = {
        path.relative_to(store).as_posix(): size
        for path in sorted(staging_folder(store).glob("*/*/*"))
        if path.is_dir() and (size := _unused(path, before)) is not None
    }
    copies = {}
    if remote_of(store) is not None:
        for ref, entry in sorted(_local_entries(store).items()):
            whole = ref in entries and entries[ref].created
            if whole and ref not in artifacts and entry.used <= before:
                copies[ref] = entry.bytes
    return Garbage(artifacts, leftovers, copies)


def sweep(store: Path, garbage: Garbage) -> int:
    """Delete it, the manifest first, so that no half of an artifact counts as one; the bytes that went.

    What is being made or fetched at this moment stays.
    """
    remote, gone = remote_of(store), 0
    for ref, size in (garbage.artifacts | garbage.copies).items():
        artifact = artifact_of(store, ref)
        with _locked(artifact.staging) as free:
            if free:
                if remote is not None and ref in garbage.artifacts:
                    delete(remote, f"artifacts/{ref}", first=MANIFEST)
                (artifact.path / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(artifact.path, ignore_errors=True)
                gone += size
    for name, size in garbage.leftovers.items():
        with _locked(store / name) as free:
            if free:
                shutil.rmtree(store / name, ignore_errors=True)
                gone += size
    return gone


def refs_of_runs(store: Path) -> dict[str, frozenset[str]]:
    """The artifacts that each run of a store refers to. Raises: ArtifactError if a run.json cannot be read."""
    found = {}
    for name, text in run_files(store).items():
        try:
            stages = json.loads(text)["stages"]
            found[name] = frozenset(
                str(stage["artifact"]) for stage in stages if stage["artifact"] is not None
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{store / 'runs' / name}: run.json cannot be read ({type(error).__name__}: {error}), so nobody knows "
                "what it needs; remove that folder if the run is not wanted"
            ) from error
    return found


def _refs_of(store: Path, run: str) -> tuple[str, set[str]]:
    """A run's name, and what it refers to. Raises: AnodiffError if there is no such run."""
    refs = refs_of_runs(store)
    name = max(refs, default="") if run == LATEST else Path(run).name
    if name not in refs:
        raise AnodiffError(f"{store}: no run {run!r}; see `anodiff runs`")
    return name, set(refs[name])


def _entries(store: Path) -> dict[str, Entry]:
    """Every artifact of a store by its ref, elsewhere if that is where the store is."""
    remote, found = remote_of(store), _local_entries(store)
    if remote is not None:
        here, found, bytes_of = found, {}, dict[str, int]()
        for name, size in sizes(remote, "artifacts").items():
            ref = "/".join(name.split("/")[:3])
            bytes_of[ref] = bytes_of.get(ref, 0) + size
        texts = at_once(lambda ref: read(remote, f"artifacts/{ref}/{MANIFEST}"), bytes_of)
        for (ref, size), text in zip(bytes_of.items(), texts, strict=True):
            entry = _entry(store, ref, text, size)
            made = datetime.fromisoformat(entry.created).timestamp() if entry.created else 0.0
            under_way = time.time() if text is None and is_held(remote, ref) else 0.0
            used = max(made, under_way, here[ref].used if ref in here else 0.0)
            found[ref] = replace(entry, used=used)
    runs: dict[str, list[str]] = {}
    for name, refs in sorted(refs_of_runs(store).items()):
        for ref in refs:
            runs.setdefault(ref, []).append(name)
    return {ref: replace(entry, runs=tuple(runs.get(ref, ()))) for ref, entry in found.items()}


def _local_entries(store: Path) -> dict[str, Entry]:
    """Every artifact that lies on this machine, by its ref."""
    found = {}
    for folder in artifacts_folder(store).glob("*/*/*"):
        manifest = folder / MANIFEST
        text = manifest.read_bytes() if manifest.is_file() else None
        ref = folder.relative_to(artifacts_folder(store)).as_posix()
        used = (folder if text is None else manifest).stat().st_mtime
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        found[ref] = replace(_entry(store, ref, text, size), used=used)
    return found


def _entry(store: Path, ref: str, text: bytes | None, size: int) -> Entry:
    """An artifact as its manifest tells; of one that is broken, what its place tells."""
    artifact = artifact_of(store, ref)
    try:
        manifest = json.loads(text or b"")
        created = datetime.fromisoformat(manifest["created"]).isoformat()
        artifact = replace(artifact, label=str(manifest["label"]), inputs=manifest["inputs"])
        needs = frozenset(refs_in(manifest["inputs"]))
        return Entry(artifact, size, 0.0, created, float(manifest["seconds"]), needs)
    except (ValueError, KeyError, TypeError):
        return Entry(artifact, size, 0.0, "", 0.0, frozenset())


def _with_inputs(refs: Iterable[str], entries: Mapping[str, Entry]) -> set[str]:
    """These artifacts, what they were made from, what that was made from, and so on."""
    kept: set[str] = set()
    waiting = list(refs)
    while waiting:
        ref = waiting.pop()
        if ref not in kept:
            kept.add(ref)
            waiting += entries[ref].needs if ref in entries else ()
    return kept


def _unused(folder: Path, before: float) -> int | None:
    """Bytes of a folder of staging; None if something there is younger, or a process holds it."""
    total = 0
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            stat = path.stat()
            if stat.st_mtime > before:
                return None
            total += stat.st_size if path.is_file() else 0
    with _locked(folder) as free:
        return total if free else None


@contextmanager
def _locked(staging: Path) -> Iterator[bool]:
    """Hold the file lock of an artifact's staging folder; False if another process does."""
    staging.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{staging}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
