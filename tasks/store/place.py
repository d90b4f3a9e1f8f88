"""A store that lies elsewhere: its URL, the folder of this machine that holds copies of it, and what goes between.

    URL/artifacts/STAGE/CATEGORY/DIGEST/    laid out as in a local store; manifest.json comes last and goes first
    URL/runs/NAME/                          likewise run.json
    URL/reviews/CATEGORY/DIGEST/            what people decided about drawn pairs (tasks.review.decisions)
    URL/locks/STAGE/CATEGORY/DIGEST/N       who makes it now; the highest N counts

All work is done in the local folder: a stage sees plain files, and a hit that lies there needs no look across the
network. What is in the local folder and nowhere else: staging, and Prefect's records. Any place that fsspec knows
will do, if it can create a file only where there is none (S3: If-None-Match).
"""

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from tasks.errors import ArtifactError, StoreUnreachableError
from tasks.store.layout import run_folder, runs_folder, staging_folder

log = logging.getLogger("anodiff")

ORIGIN = "origin.json"  # in the local folder: which store it holds copies of
DESCRIPTION = "run.json"  # in a run's folder, written last
MIN_FREE_GB = 1.0
CONNECTIONS = 16
# botocore alone tries for minutes before it says that nobody answers.
OPTIONS: dict[str, dict[str, Any]] = {"s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60}}}


@dataclass(frozen=True)
class Remote:
    """A store that lies elsewhere, as one machine sees it."""

    url: str
    name: str  # of this machine's folder of copies, unlike any other


def open_store(place: str | Path) -> Path:
    """The local folder of a store: the path itself, or of a URL the folder of its copies, made if need be.

    Raises: ArtifactError for a URL that nothing here can read.
    """
    url = _url(place)
    if url is None:
        return Path(place).expanduser()
    scheme, _, rest = url.partition("://")
    if scheme in ("file", "local"):
        return Path(f"/{rest}")
    _file_system(url)
    home = Path(os.environ.get("ANODIFF_CACHE") or Path.home() / ".cache" / "anodiff")
    readable = re.sub(r"[^A-Za-z0-9]+", "-", rest).strip("-")[:40]
    folder = home.absolute() / f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:10]}"
    origin = folder / ORIGIN
    if not origin.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "origin.lock"):
            if not origin.exists():
                (folder / "origin.new").write_text(json.dumps({"url": url, "name": secrets.token_hex(8)}))
                (folder / "origin.new").rename(origin)
    return folder


def place_of(store: Path) -> str:
    """What `open_store` opens on any machine: a store's URL, or its path where it is local."""
    remote = remote_of(store)
    return str(store) if remote is None else remote.url


def remote_of(store: Path) -> Remote | None:
    """The store elsewhere that a local folder holds copies of; None: it is the store itself."""
    try:
        return Remote(**json.loads((store / ORIGIN).read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{store / ORIGIN}: cannot be read ({error}); remove it, a run with the store's URL writes it again"
        ) from error


def _url(place: str | Path) -> str | None:
    """The URL in what a user gave, None if that is a path. A Path made of a URL has lost a slash."""
    found = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(place))
    return None if found is None else f"{found[1].lower()}://{found[2].rstrip('/')}"


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the URL's path on it. Not kept: fsspec does so, and minds forks."""
    import fsspec  # type: ignore[import-untyped]

    scheme = url.partition("://")[0]
    try:
        fs, root = fsspec.core.url_to_fs(url, **OPTIONS.get(scheme, {}))
    except ImportError as error:
        hint = "pip install 'dualanodiff[s3]'" if scheme == "s3" else "install what it names"
        raise ArtifactError(f"store {url}: {error}; {hint}") from error
    except ValueError as error:
        raise ArtifactError(
            f"store {url}: {error}; give a folder, or a URL such as s3://bucket/folder"
        ) from error
    return fs, root.rstrip("/")


@contextmanager
def _reaching(remote: Remote) -> Iterator[tuple[Any, str]]:
    """The file system and root of a remote; whatever goes wrong there is said with its URL.

    FileNotFoundError and FileExistsError pass: they are answers.
    """
    try:
        yield _file_system(remote.url)
    except (FileNotFoundError, FileExistsError, ArtifactError):
        raise
    except Exception as error:  # each of fsspec's file systems has errors of its own
        raise StoreUnreachableError(
            f"store {remote.url}: cannot be reached ({type(error).__name__}: {error}); check the URL, the network and "
            "the credentials (for S3: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE)"
        ) from error


def read(remote: Remote, name: str) -> bytes | None:
    """A file's content, None if there is none."""
    with _reaching(remote) as (fs, root):
        try:
            return bytes(fs.cat_file(f"{root}/{name}"))
        except FileNotFoundError:
            return None


def write(remote: Remote, name: str, content: bytes) -> None:
    """Put a file there, whole or not at all."""
    with _saying_what_is_missing(remote), _reaching(remote) as (fs, root):
        fs.pipe_file(f"{root}/{name}", content)


def create(remote: Remote, name: str, content: bytes) -> bool:
    """Put a file there unless there is one; of two that try at once one does. `content` is unlike any other's."""
    with _saying_what_is_missing(remote), _reaching(remote) as (fs, root):
        try:
            fs.pipe_file(f"{root}/{name}", content, mode="create")
        except FileExistsError:
            return False
        except OSError:
            if read(remote, name) is None:  # else a server which refuses in words that s3fs does not know
                raise
    return (
        read(remote, name) == content
    )  # a server that knows no If-None-Match lets both write: the last has it


def sizes(remote: Remote, under: str) -> dict[str, int]:
    """Files below a folder by their names from there, with their bytes; empty if there is no such folder."""
    with _reaching(remote) as (fs, root):
        fs.invalidate_cache()
        try:
            found = fs.find(f"{root}/{under}", detail=True)
        except FileNotFoundError:
            return {}
        return {path.removeprefix(f"{root}/{under}/"): int(each["size"]) for path, each in found.items()}


def download(remote: Remote, under: str, names: Iterable[str], into: Path) -> None:
    """Copy files of a folder there to one here. Raises: FileNotFoundError if one is not there."""
    here = {name: into / name for name in names}
    for path in {path.parent for path in here.values()}:
        path.mkdir(parents=True, exist_ok=True)
    with _reaching(remote) as (fs, root):
        fs.get([f"{root}/{under}/{name}" for name in here], [str(path) for path in here.values()])


def upload(remote: Remote, folder: Path, under: str, *, last: str) -> None:
    """Put a folder there in place of what is there; it counts as there once the file `last` is."""
    delete(remote, under, first=last)
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    names.remove(last)
    with _saying_what_is_missing(remote), _reaching(remote) as (fs, root):
        fs.put([str(folder / name) for name in names], [f"{root}/{under}/{name}" for name in names])
        fs.put_file(str(folder / last), f"{root}/{under}/{last}")


def delete(remote: Remote, under: str, *, first: str | None = None) -> None:
    """Remove a folder there: the file `first` before the others, so that no half of it counts."""
    names = sizes(remote, under)
    if first is not None and names.pop(first, None) is not None:
        remove(remote, f"{under}/{first}")
    at_once(lambda name: remove(remote, f"{under}/{name}"), names)


def remove(remote: Remote, name: str) -> None:
    """Remove a file there, if there is one."""
    with suppress(FileNotFoundError), _reaching(remote) as (fs, root):
        fs.rm_file(f"{root}/{name}")


def at_once(work: Callable[[str], Any], items: Iterable[str]) -> list[Any]:
    """Apply `work` to each item, several at a time: what is asked of a store elsewhere is mostly waiting."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(work, items))


@contextmanager
def _saying_what_is_missing(remote: Remote) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StoreUnreachableError(
            f"store {remote.url}: cannot be written to ({error}); create the bucket or the folder first"
        ) from error


def check_store(store: Path, max_gb: float | None = None) -> None:
    """Before hours are spent: is there room, and can a store elsewhere be written to. Raises: ArtifactError."""
    check_room(store, max_gb)
    remote = remote_of(store)
    if remote is not None:
        write(remote, f"locks/{remote.name}", b"")
        remove(remote, f"locks/{remote.name}")


def check_room(store: Path, max_gb: float | None = None) -> None:
    """Raises: ArtifactError if the disk is as good as full, or the store larger than `max_gb` on this machine."""
    there = next(path for path in (store, *store.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free / 1e9
    if free < MIN_FREE_GB:
        raise ArtifactError(
            f"{store}: {free:.1f} GB left on its disk, {MIN_FREE_GB:.0f} GB is the least to begin with; see "
            f"`anodiff artifacts gc --store {place_of(store)}`, or give another disk's folder as --store"
        )
    if max_gb is not None and (used := _bytes_below(store, int(time.monotonic() / 60)) / 1e9) > max_gb:
        raise ArtifactError(
            f"{store}: holds {used:.1f} GB, max_store_gb is {max_gb:g}; see `anodiff artifacts gc --store "
            f"{place_of(store)}`, or raise max_store_gb"
        )


@lru_cache(maxsize=8)
def _bytes_below(folder: Path, minute: int) -> int:
    """Bytes of all files below a folder, counted at most once a minute."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # gone since it was listed
                total += os.stat(os.path.join(root, name)).st_size  # noqa: PTH116, PTH118  (a Path for each: 3 × slower)
    return total


def run_names_elsewhere(store: Path) -> set[str]:
    """Names of the runs that ended in a store elsewhere; none for a local one."""
    remote = remote_of(store)
    if remote is None:
        return set()
    files = (name.split("/") for name in sizes(remote, "runs"))
    return {parts[0] for parts in files if parts[1:] == [DESCRIPTION]}


def push_runs(store: Path) -> None:
    """Put the folders of runs that lie only on this machine where the others find them."""
    remote = remote_of(store)
    here = {path.parent.name for path in runs_folder(store).glob(f"*/{DESCRIPTION}")}
    if remote is not None:
        for name in sorted(here - run_names_elsewhere(store)):
            upload(remote, run_folder(store, name), f"runs/{name}", last=DESCRIPTION)


def pull_run(store: Path, name: str) -> None:
    """Fetch a run's folder from a store elsewhere, unless it is here or there is none of this name."""
    remote, folder = remote_of(store), run_folder(store, name)
    if remote is None or folder.exists() or not (files := sizes(remote, f"runs/{name}")):
        return
    into = staging_folder(store) / "runs" / secrets.token_hex(4) / name
    download(remote, f"runs/{name}", files, into)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # another process was faster
        into.rename(folder)
    shutil.rmtree(into.parent, ignore_errors=True)


def run_files(store: Path) -> dict[str, bytes]:
    """The run.json of every run that ended, by the run's name, from here and from a store elsewhere."""
    found = {path.parent.name: path.read_bytes() for path in runs_folder(store).glob(f"*/{DESCRIPTION}")}
    remote = remote_of(store)
    if remote is not None:
        missing = sorted(run_names_elsewhere(store) - set(found))
        texts = at_once(lambda name: read(remote, f"runs/{name}/{DESCRIPTION}"), missing)
        found |= {name: text for name, text in zip(missing, texts, strict=True) if text is not None}
    return found
