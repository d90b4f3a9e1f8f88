"""A category as the stage prepare left it: its samples on their sides of the split, its defect types."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd

from tasks.config import RunConfig
from tasks.data.samples import defect_types, find_categories, list_category
from tasks.data.split import read_split
from tasks.errors import DataError
from tasks.store.artifacts import Artifact, file_digest

SPLIT = "split.csv"


def categories_of(config: RunConfig) -> list[str]:
    """The categories that the run is for. Raises: DataError if there are none, or one asked for is missing."""
    found = find_categories(config.data)
    missing = sorted(set(config.categories or ()) - set(found))
    if missing:
        raise DataError(f"{config.data}: no category {', '.join(missing)}; found: {', '.join(found)}")
    return list(config.categories or found)


def data_digest(folder: Path) -> str:
    """Digest of the names and contents of the files that are read of a category, wherever it and they lie."""
    listed = list_category(folder)
    files = {each.image for each in listed} | {each.mask for each in listed if each.mask is not None}
    digest = hashlib.sha256()
    for path in sorted(files):
        line = f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def read_samples(prepared: Artifact, data: Path) -> pd.DataFrame:
    """The samples table of a prepared category, or of crops of it: paths absolute, under `data` or in the artifact."""
    folder = prepared.path if prepared.stage == "crop" else find_categories(data)[prepared.category]
    split = prepared.path / SPLIT
    return _split_as_of(split, folder, split.stat().st_mtime_ns).copy()


@lru_cache(maxsize=64)
def _split_as_of(split: Path, folder: Path, mtime_ns: int) -> pd.DataFrame:
    return read_split(split, folder)


def defects_of(prepared: Artifact, config: RunConfig) -> list[str]:
    """The defect types to run. Raises: DataError if one asked for is not in this category or none is."""
    found = defect_types(read_samples(prepared, config.data))
    wanted = [defect for defect in config.defects or found if defect in found]
    if not wanted:
        raise DataError(
            f"{prepared.category}: no defect type {', '.join(config.defects or ())}; found: {', '.join(found)}"
        )
    return wanted


def check_defects(categories: Sequence[Artifact], config: RunConfig) -> None:
    """Raises: DataError if a defect type asked for is in none of the categories."""
    found = {d for prepared in categories for d in defect_types(read_samples(prepared, config.data))}
    missing = sorted(set(config.defects or ()) - found)
    if missing:
        raise DataError(
            f"{config.data}: no defect type {', '.join(missing)}; found: {', '.join(sorted(found))}"
        )
