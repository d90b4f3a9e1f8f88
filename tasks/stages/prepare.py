"""Stage prepare: one category's pictures checked, and shared out once between training, validation and test."""

import hashlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd
from prefect import task

from tasks.config import RunConfig
from tasks.data.faults import faults_text, has_errors
from tasks.data.samples import defect_types, find_categories, list_category, read_dataset
from tasks.data.shots import read_names
from tasks.data.split import check_and_split, read_split, write_split
from tasks.errors import DataError
from tasks.runtime.stage import STAGE, StageResult, run_stage
from tasks.store.artifacts import Artifact, Staged, file_digest, plan

VERSION = 2
SPLIT = "split.csv"

log = logging.getLogger("anodiff")


def categories_of(config: RunConfig) -> list[str]:
    """The categories that the run is for. Raises: DataError if there are none, or one asked for is missing."""
    found = find_categories(config.data)
    missing = sorted(set(config.categories or ()) - set(found))
    if missing:
        raise DataError(f"{config.data}: no category {', '.join(missing)}; found: {', '.join(found)}")
    return list(config.categories or found)


def plan_prepare(config: RunConfig, category: str) -> Artifact:
    """Name the split of one category, by the content of its pictures and masks."""
    folder = find_categories(config.data)[category]
    split = config.split.model_dump(exclude=None if config.split.naive else {"naive"})
    if isinstance(config.split.shots, Path):  # what it says counts, not where it lies
        split["shots"] = read_names(config.split.shots)
    return plan(config.store, "prepare", VERSION, category, data=data_digest(folder), split=split)


def data_digest(folder: Path) -> str:
    """Digest of the names and contents of the files that are read of a category, wherever it and they lie."""
    listed = list_category(folder)
    files = {each.image for each in listed} | {each.mask for each in listed if each.mask is not None}
    digest = hashlib.sha256()
    for path in sorted(files):
        line = f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


@task(name="prepare", **STAGE)
def prepare(out: Artifact, config: RunConfig) -> StageResult:
    """Check and split one category; bad data is refused here, before anything is trained."""
    return run_stage(out, config, lambda staged, _: build_prepare(config, out.category, staged), heavy=False)


def build_prepare(config: RunConfig, category: str, staged: Staged) -> None:
    """Write split.csv, its paths relative to the category's folder, and warnings.txt.

    Raises: DataError that lists every fault of the category.
    """
    folder = find_categories(config.data)[category]
    split, faults = check_and_split(read_dataset(config.data, [category]), {category: folder}, config.split)
    if has_errors(faults):
        errors = [fault for fault in faults if fault.severity == "error"]
        raise DataError(f"{folder}: {len(errors)} fault(s) in the data\n{faults_text(errors, folder)}")
    if faults:
        log.warning("%s: %d warning(s); to read them: anodiff data check %s", category, len(faults), folder)
    (staged.out / "warnings.txt").write_text(faults_text(faults, folder) + "\n")
    write_split(split, folder, staged.out / SPLIT)


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


def draw_demo_data(root: Path, categories: Sequence[str] | None, seed: int) -> None:
    """Draw the procedural data set in MVTec AD layout."""
    from dual_anodiff.demo_data import write_demo_data

    write_demo_data(root, categories=categories, seed=seed)
