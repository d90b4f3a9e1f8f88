"""Content-addressed folders: planned by a digest of all that made them, written once, verified at each use.

    STORE/artifacts/STAGE/CATEGORY/DIGEST/     files and manifest.json
    STORE/staging/STAGE/CATEGORY/DIGEST/       the same while it is being made, and what a killed stage resumes from

The manifest is written last and the folder renamed into place, so a folder with a manifest is a finished one. Nothing
inside is an absolute path: a store can be moved. This file alone knows where things lie in a store.
"""

import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import psutil  # type: ignore[import-untyped]
from filelock import FileLock
from pydantic import BaseModel

from tasks.errors import ArtifactError

MANIFEST = "manifest.json"
# 80 bits: two of a million artifacts collide with a chance of 1e-12, and the path still fits a terminal's line.
DIGEST_LENGTH = 20
PACKAGES = ("dualanodiff", "torch", "diffusers", "numpy")


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

    @property
    def ref(self) -> str:
        """Its name within any store."""
        return f"{self.stage}/{self.category}/{self.digest}"

    @property
    def path(self) -> Path:
        """Where it lies once it is published."""
        return self.store / "artifacts" / self.ref

    @property
    def staging(self) -> Path:
        """Where it is being made; survives a kill, is removed on publishing."""
        return self.store / "staging" / self.ref


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


def verified(artifact: Artifact) -> bool:
    """Whether the artifact is there, whole, and holds the bytes that its manifest says."""
    return fault(artifact) is None


def fault(artifact: Artifact) -> str | None:
    """What is wrong with a published artifact, None if nothing is."""
    try:
        manifest = read_manifest(artifact)
        files: dict[str, dict[str, Any]] = manifest["files"]
        if (manifest["stage"], manifest["digest"]) != (artifact.stage, artifact.digest):
            return f"{artifact.path}: holds {manifest['stage']} {manifest['digest']}"
        found = {path.relative_to(artifact.path).as_posix() for path in _files(artifact.path)}
        if found != set(files):
            return f"{artifact.path}: files differ from its manifest: {sorted(found ^ set(files))[:3]}"
        for name, entry in files.items():
            path = artifact.path / name
            if path.stat().st_size != entry["bytes"] or file_digest(path) != entry["sha256"]:
                return f"{path}: changed since it was written"
    except ArtifactError as error:
        return str(error)
    except (KeyError, TypeError, OSError) as error:
        return f"{artifact.path}: {type(error).__name__}: {error}"
    return None


def read_manifest(artifact: Artifact) -> dict[str, Any]:
    """The manifest of a published artifact. Raises: ArtifactError if there is none or it is broken."""
    path = artifact.path / MANIFEST
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
    artifact: Artifact, make: Callable[[Staged], None], *, device: str, resumable: bool = False
) -> bool:
    """Have `make` fill a staging folder, then publish that as the artifact. False if another process just did.

    If `make` raises, nothing is published; its checkpoint stays. `resumable`: what it had written stays too.
    """
    artifact.staging.parent.mkdir(parents=True, exist_ok=True)
    # Two runs that want the same artifact: one makes it, the other waits here. The lock dies with its process.
    with FileLock(f"{artifact.staging}.lock"):
        if verified(artifact):
            return False
        staged = Staged(artifact.staging / "out", artifact.staging / "checkpoint")
        if not resumable:
            shutil.rmtree(staged.out, ignore_errors=True)
        staged.out.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with peak_memory() as peak:
            make(staged)
        _write_manifest(artifact, staged.out, device=device, seconds=time.monotonic() - started, peak=peak)
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
    """SHA-256 of a file, in hexadecimal."""
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


@lru_cache(maxsize=1)
def package_versions() -> dict[str, str]:
    """Versions of what shapes an artifact's content."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def device_name(device: str) -> str:
    """The device as people know it."""
    if device.startswith("cuda"):
        import torch

        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({os.cpu_count()} cores)"


@contextmanager
def peak_memory(every_seconds: float = 0.2) -> Iterator[dict[str, int]]:
    """Highest memory in use while the block runs, in bytes: of this process, and of CUDA if torch uses it.

    Sampled: the kernel's own high-water mark is the whole process's, not the stage's.
    """
    peak = {"process": 0}
    process = psutil.Process()
    done = threading.Event()

    def watch() -> None:
        while True:
            peak["process"] = max(peak["process"], process.memory_info().rss)
            if done.wait(every_seconds):
                return

    cuda = _cuda()
    if cuda is not None:
        cuda.reset_peak_memory_stats()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        cuda = _cuda()
        if cuda is not None:
            peak["cuda"] = cuda.max_memory_allocated()


def _cuda() -> Any:
    """torch.cuda if this process has already started it; never starts it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
