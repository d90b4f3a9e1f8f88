"""What people decided about drawn pairs: accepted, rejected, with another mask. Kept beside the artifacts.

    STORE/reviews/CATEGORY/DIGEST/decisions.json    DIGEST: of the generate artifact that drew the pairs
    STORE/reviews/CATEGORY/DIGEST/mask/NAME.png     named by pair and content, so never written twice

A decision is about a picture, whichever run shows it and however it was curated there. Of a store elsewhere each
machine has its own copy; where two differ about a pair, what was decided last counts.
"""

import hashlib
import os
import secrets
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.config_faults import explain
from tasks.errors import ArtifactError
from tasks.store.artifacts import Artifact, read_manifest
from tasks.store.layout import reviews_folder
from tasks.store.place import read, remote_of, sizes, write

DECISIONS, MASKS = "decisions.json", "mask"

Verdict = Literal["accepted", "rejected"]


class Decision(BaseModel):
    """What somebody said of one pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict | None = Field(description="None: taken back.")
    mask: str | None = Field(
        None, pattern=r"^\d{6,}-[0-9a-f]{16}\.png$", description="Painted, of an accepted pair."
    )
    picture: str = Field(description="SHA-256 of the image that was looked at.")
    at: str = Field(description="ISO, UTC.")


class Decisions(BaseModel):
    """decisions.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: dict[int, Decision] = {}  # by their index in the artifact


def folder_of(store: Path, category: str, drawn: str) -> Path:
    """Where the decisions on the pairs of one generate artifact lie."""
    return reviews_folder(store, category, drawn)


def read_decisions(store: Path, category: str, drawn: str) -> dict[int, Decision]:
    """The decisions on the pairs that an artifact drew, by their index there; those taken back left out.

    Raises: ArtifactError if they cannot be read; StoreUnreachableError.
    """
    folder = folder_of(store, category, drawn)
    found = _merged(_read_here(folder), _read_elsewhere(store, category, drawn))
    return {index: each for index, each in found.items() if each.verdict is not None}


def decide(store: Path, category: str, drawn: str, index: int, decision: Decision) -> None:
    """Write a decision down on this machine; `send_decisions` takes it to a store elsewhere."""
    folder = folder_of(store, category, drawn)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{DECISIONS}.lock"):
        _write(folder, _read_here(folder) | {index: decision})


def save_mask(store: Path, category: str, drawn: str, index: int, mask: NDArray[np.bool_]) -> str:
    """Keep a painted mask beside the decisions; its name. Shape: mask (h, w)."""
    png = BytesIO()
    Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).save(png, "PNG")
    name = f"{index:06}-{hashlib.sha256(png.getvalue()).hexdigest()[:16]}.png"
    _write_whole(folder_of(store, category, drawn) / MASKS / name, png.getvalue())
    return name


def mask_path(store: Path, category: str, drawn: str, name: str) -> Path:
    """A painted mask's file, fetched if it lies elsewhere. Raises: ArtifactError if it is gone."""
    path = folder_of(store, category, drawn) / MASKS / name
    remote = remote_of(store)
    if not path.is_file() and remote is not None:
        content = read(remote, f"reviews/{category}/{drawn}/{MASKS}/{name}")
        if content is not None:
            _write_whole(path, content)
    if not path.is_file():
        raise ArtifactError(f"{path}: a mask painted in review is gone; paint it again, or reject the pair")
    return path


def send_decisions(store: Path, category: str, drawn: str) -> None:
    """Put this machine's decisions where the others find them, and take theirs over; nothing to do for a local store.

    Raises: StoreUnreachableError.
    """
    remote = remote_of(store)
    folder, under = folder_of(store, category, drawn), f"reviews/{category}/{drawn}"
    if remote is None or not folder.is_dir():
        return
    with FileLock(folder / f"{DECISIONS}.lock"):
        here = _read_here(folder)
        both = _merged(here, _read_elsewhere(store, category, drawn))
        there = sizes(remote, f"{under}/{MASKS}")
        for name in {each.mask for each in here.values() if each.mask is not None} - set(there):
            write(remote, f"{under}/{MASKS}/{name}", (folder / MASKS / name).read_bytes())
        write(remote, f"{under}/{DECISIONS}", _text(both))  # last: the masks that it names are there
        _write(folder, both)


def picture_hashes(drawn: Artifact) -> dict[int, str]:
    """SHA-256 of each image that a generate artifact drew, by index; none where it is not there."""
    try:
        files = read_manifest(drawn)["files"]
    except ArtifactError:
        return {}
    return {
        int(Path(name).stem): str(entry["sha256"])
        for name, entry in files.items()
        if name.startswith("image/")
    }


def drawn_by(image: str) -> tuple[str, int]:
    """The digest of the artifact that drew a pair, and its index there, from its image's path in a table."""
    path = Path(image)
    return path.parts[-3], int(path.stem)


def _merged(one: Mapping[int, Decision], other: Mapping[int, Decision]) -> dict[int, Decision]:
    found = dict(one)
    for index, each in other.items():
        if index not in found or found[index].at < each.at:
            found[index] = each
    return found


def _read_here(folder: Path) -> dict[int, Decision]:
    try:
        content = (folder / DECISIONS).read_bytes()
    except FileNotFoundError:
        return {}
    return _parsed(content, str(folder / DECISIONS))


def _read_elsewhere(store: Path, category: str, drawn: str) -> dict[int, Decision]:
    remote, name = remote_of(store), f"reviews/{category}/{drawn}/{DECISIONS}"
    content = None if remote is None else read(remote, name)
    return {} if remote is None or content is None else _parsed(content, f"{remote.url}/{name}")


def _parsed(content: bytes, where: str) -> dict[int, Decision]:
    try:
        return dict(Decisions.model_validate_json(content).pairs)
    except ValidationError as error:
        raise ArtifactError(
            f"{where}: cannot be read ({'; '.join(explain(error, Decisions))}); mend it, or remove it and review anew"
        ) from error


def _text(pairs: Mapping[int, Decision]) -> bytes:
    return (Decisions(pairs=dict(sorted(pairs.items()))).model_dump_json(indent=1) + "\n").encode()


def _write(folder: Path, pairs: Mapping[int, Decision]) -> None:
    _write_whole(folder / DECISIONS, _text(pairs))


def _write_whole(path: Path, content: bytes) -> None:
    """Write beside, then rename: who reads sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
