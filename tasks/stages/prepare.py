"""Stage prepare: one category's pictures checked, and shared out once between training, validation and test."""

import logging
from pathlib import Path

from prefect import task

from tasks.config import RunConfig
from tasks.data.faults import faults_text, has_errors
from tasks.data.samples import find_categories, read_dataset
from tasks.data.shots import read_names
from tasks.data.split import check_and_split, write_split
from tasks.errors import DataError
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.stage import OPTIONS, run_stage
from tasks.store.artifacts import Artifact, Staged
from tasks.tables.prepared import SPLIT, data_digest

PREPARE = Stage("prepare", version=2)

log = logging.getLogger("anodiff")


def plan_prepare(config: RunConfig, category: str) -> Call:
    """Name the split of one category, by the content of its pictures and masks."""
    folder = find_categories(config.data)[category]
    split = config.split.model_dump(exclude=None if config.split.naive else {"naive"})
    if isinstance(config.split.shots, Path):  # what it says counts, not where it lies
        split["shots"] = read_names(config.split.shots)
    out = PREPARE.plan(config.store, category, data=data_digest(folder), split=split)
    return Call(PREPARE, prepare, config, out, {})


@task(name="prepare", **OPTIONS)
def prepare(out: Artifact, config: RunConfig) -> StageResult:
    """Check and split one category; bad data is refused here, before anything is trained."""
    return run_stage(PREPARE, out, config, lambda staged, _: build_prepare(config, out.category, staged))


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
