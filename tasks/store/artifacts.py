"""Content-addressed folders: planned by a digest of all that made them, written once, verified at each use.

    STORE/artifacts/STAGE/CATEGORY/DIGEST/     files and manifest.json
    STORE/staging/STAGE/CATEGORY/DIGEST/       the same while it is being made, and what a killed stage resumes from

The manifest is written last and the folder renamed into place, so a folder with a manifest is a finished one. Nothing
inside is an absolute path: a store can be moved.

Where STORE holds copies of a store elsewhere (tasks.store.place), an artifact is fetched when it is first asked for, and
goes there before it counts as made.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from tasks.errors import ArtifactError, StoreUnreachableError
from tasks.store.layout import artifact_folder, staging_folder
from tasks.store.lock import locked
from tasks.store.machine import device_name, package_versions, peak_memory
from tasks.store.place import (
    Remote,
    check_room,
    download,
    open_store,
    place_of,
    read,
    remote_of,
    upload,
)

log = logging.getLogger("anodiff")

MANIFEST = "manifest.json"
# 80 bits: two of a million artifacts collide with a chance of 1e-12, and the path still fits a terminal's line.
DIGEST_LENGTH = 20
REF = re.compile(rf"[^/]+/[^/]+/[0-9a-f]{{{DIGEST_LENGTH}}}")
SETTLED_S = 2.0
# As fine as the time of an artifact's last use is kept, which `anodiff artifacts gc` goes by.
USED_EVERY_S = 3600


@dataclass(frozen=True)
class Artifact:
    """A planned artifact: what it will hold is settled, whether it is there is not."""

    store: Path
    stage: str
    category: str
    digest: str
    label: str  # for people: category/defect, never part of the key
    inputs: Mapping[str, Any] = field(
        compare=False, repr=False
    )  # what the digest was made of, for the manifest
    since: str = field(
        default="", compare=False
    )  # ISO, UTC: what was made before does not count; "": all does

    @property
    def ref(self) -> str:
        """Its name within any store."""
        return f"{self.stage}/{self.category}/{self.digest}"

    @property
    def path(self) -> Path:
        """Where it lies once it is published."""
        return artifact_folder(self.store, self.ref)

    @property
    def staging(self) -> Path:
        """Where it is being made; survives a kill, is removed on publishing."""
        return staging_folder(self.store) / self.ref

    def __reduce__(self) -> tuple[Any, ...]:
        # A stage that is sent to another machine finds that machine's copies of a store elsewhere.
        named = self.stage, self.category, self.digest, self.label, self.inputs, self.since
        return _sent, (place_of(self.store), *named)


def _sent(place: str, *rest: Any) -> Artifact:
    return Artifact(open_store(place), *rest)


@dataclass(frozen=True)
class Staged:
    """What a stage gets to write to."""

    out: Path  # empty folder, becomes the artifact
    checkpoint: (
        Path  # file that survives a kill, so that the same command resumes; never part of the artifact
    )


def plan(
    store: Path, stage: str, version: int, category: str, /, *, label: str = "", **inputs: object
) -> Artifact:
    """Name the artifact that `stage` makes of `inputs`: same inputs, same digest, on any machine.

    Inputs are config models, plain values, lists of those, or other artifacts (which count by their own digest).
    `version` is raised by hand in the commit that changes what the stage makes.
    """
    resolved = {name: plain(value) for name, value in sorted(inputs.items())}
    text = json.dumps(
        {"stage": stage, "version": version, "category": category, "inputs": resolved}, sort_keys=True
    )
    digest = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
    return Artifact(store, stage, category, digest, label or category, {"version": version, **resolved})


def plain(value: object) -> Any:
    """A value as JSON holds it. Raises: TypeError for what has no fixed text, above all paths."""
    match value:
        case Artifact():
            return value.ref
        case BaseModel():
            # Not model_dump(mode="json"): that would let a path slip through as text.
            return {name: plain(getattr(value, name)) for name in sorted(type(value).model_fields)}
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(key): plain(value[key]) for key in sorted(value, key=str)}
        case list() | tuple():
            return [plain(item) for item in value]
        case PurePath():
            raise TypeError(f"{value}: a path cannot be part of a key; use a digest of what lies there")
        case _:
            raise TypeError(f"{value!r}: a {type(value).__name__} cannot be part of a key")


def artifact_of(store: Path, ref: str, *, label: str = "") -> Artifact:
    """The artifact of this name; what it was made of stands in its manifest."""
    stage, category, digest = ref.split("/")
    return Artifact(store, stage, category, digest, label or category, inputs={})


def require(artifact: Artifact) -> None:
    """See that an artifact is on this machine and whole; fetch it, if it lies elsewhere.

    Raises: ArtifactError if it is gone or damaged, StoreUnreachableError if it may lie elsewhere and that does not answer.
    """
    if verified(artifact):
        return
    remote = remote_of(artifact.store)
    if remote is not None:
        # Another process may be fetching it at this moment.
        with FileLock(f"{artifact.staging}.lock"):
            if fault(artifact) is None or fetch(artifact, remote):
                return
    raise ArtifactError(
        f"{artifact.stage} {artifact.label}: {fault(artifact)}; the same `anodiff run` makes it again"
    )


def verified(artifact: Artifact) -> bool:
    """Whether the artifact is there, whole, and holds the bytes that its manifest says; fetched, if it lies elsewhere.

    Raises: StoreUnreachableError if it may lie elsewhere and that does not answer.
    """
    if fault(artifact) is None:
        manifest = artifact.path / MANIFEST
        with suppress(OSError):  # a store that may only be read
            if time.time() - manifest.stat().st_mtime > USED_EVERY_S:
                os.utime(manifest)
        return True
    remote = remote_of(artifact.store)
    if remote is None:
        return False
    artifact.staging.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{artifact.staging}.lock", timeout=0):
            return fetch(artifact, remote)
    except Timeout:
        return False  # it is being made or fetched at this moment; `publish` waits for that


def fault(artifact: Artifact) -> str | None:
    """What is wrong with a published artifact on this machine, None if nothing is."""
    return _fault(artifact, artifact.path)


def _fault(artifact: Artifact, folder: Path) -> str | None:
    """What is wrong with a folder that is to be the artifact's."""
    try:
        manifest = _read_manifest(artifact, folder)
        files: dict[str, dict[str, Any]] = manifest["files"]
        if (manifest["stage"], manifest["digest"]) != (artifact.stage, artifact.digest):
            return f"{folder}: holds {manifest['stage']} {manifest['digest']}"
        if manifest["created"] < artifact.since:
            return f"{folder}: is to be made again"
        found = {path.relative_to(folder).as_posix() for path in _files(folder)}
        if found != set(files):
            return f"{folder}: files differ from its manifest: {sorted(found ^ set(files))[:3]}"
        for name, entry in files.items():
            path = folder / name
            if path.stat().st_size != entry["bytes"] or file_digest(path) != entry["sha256"]:
                return f"{path}: changed since it was written"
    except ArtifactError as error:
        return str(error)
    except (AttributeError, KeyError, TypeError, OSError) as error:
        return f"{folder}: {type(error).__name__}: {error}"
    return None


def fetch(artifact: Artifact, remote: Remote) -> bool:
    """Copy the artifact from a store elsewhere to this machine; False if it is not there, or damaged there.

    Only for who holds the artifact's file lock.
    """
    check_room(artifact.store)
    copy = artifact.staging / "fetched"
    wrong = fault_elsewhere(artifact, remote, copy)
    if wrong is None:
        _rename_into_place(artifact, copy)
        shutil.rmtree(artifact.staging, ignore_errors=True)
    elif wrong:
        log.warning("%-9s %s: %s; it is made again", artifact.stage, artifact.label, wrong)
    return wrong is None


def fault_elsewhere(artifact: Artifact, remote: Remote, copy: Path) -> str | None:
    """What is wrong with an artifact in a store elsewhere: None if nothing is, "" if it is not there.

    If nothing is, `copy` then holds it; else nothing.
    """
    shutil.rmtree(copy, ignore_errors=True)
    under = f"artifacts/{artifact.ref}"
    text = read(remote, f"{under}/{MANIFEST}")
    if text is None:
        return ""
    copy.mkdir(parents=True)
    (copy / MANIFEST).write_bytes(text)
    try:
        names = [str(name) for name in _read_manifest(artifact, copy)["files"]]
        outside = [name for name in names if ".." in (parts := PurePosixPath(name).parts) or parts[0] == "/"]
        if outside:
            raise ArtifactError(f"{outside[0]}: is not a file of the artifact")
        download(remote, under, names, copy)
        wrong = _fault(artifact, copy)
    except (ArtifactError, KeyError, TypeError, FileNotFoundError) as error:
        if isinstance(error, StoreUnreachableError):
            raise
        wrong = f"{type(error).__name__}: {error}"
    if wrong is None:
        return None
    shutil.rmtree(copy, ignore_errors=True)
    return f"{remote.url}/{under}: " + wrong.removeprefix(f"{copy}/").removeprefix(f"{copy}: ")


def read_manifest(artifact: Artifact) -> dict[str, Any]:
    """The manifest of a published artifact. Raises: ArtifactError if there is none or it is broken."""
    return _read_manifest(artifact, artifact.path)


def _read_manifest(artifact: Artifact, folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: not there; run the stage {artifact.stage} again") from error
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: cannot be read ({error}); run the stage {artifact.stage} again"
        ) from error
    if not isinstance(manifest, dict):
        raise ArtifactError(f"{path}: is not a manifest; run the stage {artifact.stage} again")
    return manifest


def publish(
    artifact: Artifact,
    make: Callable[[Staged], None],
    *,
    device: str,
    resumable: bool = False,
    max_store_gb: float | None = None,
    turn: AbstractContextManager[object] | None = None,
) -> bool:
    """Have `make` fill a staging folder, then publish that as the artifact. False if another process just did.

    `turn` is waited for and held while `make` works, and only then: who waits for another to make the same needs none.
    If `make` raises, nothing is published; its checkpoint stays. `resumable`: what it had written stays too.
    Raises: ArtifactError if there is no room, StoreUnreachableError if a store elsewhere does not take what was made;
    then that is kept, and the next call only sends it.
    """
    artifact.staging.parent.mkdir(parents=True, exist_ok=True)
    remote = remote_of(artifact.store)
    # Two runs that want the same artifact: one makes it, the other waits here. The lock dies with its process.
    with (
        FileLock(f"{artifact.staging}.lock"),
        nullcontext() if remote is None else locked(remote, artifact.ref),
    ):
        if fault(artifact) is None or (remote is not None and fetch(artifact, remote)):
            return False
        staged = Staged(artifact.staging / "out", artifact.staging / "checkpoint")
        if _fault(artifact, staged.out) is not None:
            check_room(artifact.store, max_store_gb)
            if not resumable:
                shutil.rmtree(staged.out, ignore_errors=True)
            (staged.out / MANIFEST).unlink(missing_ok=True)
            staged.out.mkdir(parents=True, exist_ok=True)
            with turn or nullcontext():
                started = time.monotonic()
                with peak_memory() as peak:
                    make(staged)
                seconds = time.monotonic() - started
            _write_manifest(artifact, staged.out, device=device, seconds=seconds, peak=peak)
        if remote is not None:
            upload(remote, staged.out, f"artifacts/{artifact.ref}", last=MANIFEST)
        _rename_into_place(artifact, staged.out)
        shutil.rmtree(artifact.staging, ignore_errors=True)
    return True


def _write_manifest(
    artifact: Artifact, out: Path, *, device: str, seconds: float, peak: dict[str, int]
) -> None:
    files = {
        path.relative_to(out).as_posix(): {"sha256": file_digest(path), "bytes": path.stat().st_size}
        for path in _files(out)
    }
    if not files:
        raise ArtifactError(f"{artifact.ref}: the stage wrote no file")
    manifest = {
        "stage": artifact.stage,
        "category": artifact.category,
        "label": artifact.label,
        "digest": artifact.digest,
        "inputs": artifact.inputs,
        "versions": package_versions(),
        "device": device_name(device),
        "seconds": round(seconds, 3),
        "peak_memory_bytes": peak,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": files,
    }
    with (out / MANIFEST).open("w") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _rename_into_place(artifact: Artifact, out: Path) -> None:
    """Move a finished folder to the artifact's place; a broken one that lies there goes first."""
    artifact.path.parent.mkdir(parents=True, exist_ok=True)
    if artifact.path.exists():
        broken = artifact.staging / "replaced"
        shutil.rmtree(broken, ignore_errors=True)
        artifact.path.rename(broken)
    out.rename(artifact.path)


def _files(folder: Path) -> list[Path]:
    """Every file below `folder` but its manifest, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; this process reads it once while it is as it was.

    A file changed within a tick of its clock looks unchanged, so a young one is always read.
    """
    stat = path.stat()
    if time.time() - stat.st_ctime < SETTLED_S:
        return _read_digest(path)
    return _digest_as_of(path, (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))


@lru_cache(maxsize=200_000)
def _digest_as_of(path: Path, state: tuple[int, ...]) -> str:
    return _read_digest(path)


def _read_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """Digest of a folder's file names and contents, wherever the folder lies. Raises: ArtifactError if it is empty."""
    names = [path.relative_to(folder).as_posix() for path in _files(folder)]
    if not names:
        raise ArtifactError(f"{folder}: no files there")
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{file_digest(folder / name)}\n".encode())
    return digest.hexdigest()[:DIGEST_LENGTH]


def refs_in(inputs: Any) -> Iterator[str]:
    """Every artifact's name within a manifest's inputs."""
    match inputs:
        case str():
            if REF.fullmatch(inputs):
                yield inputs
        case Mapping():
            for each in inputs.values():
                yield from refs_in(each)
        case list():
            for each in inputs:
                yield from refs_in(each)
