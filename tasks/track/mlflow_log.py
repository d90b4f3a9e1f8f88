"""Records of finished runs put into MLflow, each once. The only file that imports it."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock

from tasks.errors import AnodiffError
from tasks.runs.ended import Run, find_run, run_names
from tasks.store.layout import staging_folder
from tasks.track.record import WHOLE, Record, records_of, times_ms
from tasks.track.tracking import (
    MLFLOW_ENV,
    Destination,
    destination,
    is_installed,
    mark_tracked,
    tracked_as,
    why_silent,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN, CATEGORY, PARENT = "anodiff.run", "anodiff.category", "mlflow.parentRunId"
PER_BATCH, PARAMS_PER_BATCH = 1000, 100  # what MLflow takes at once
PROXIED = "mlflow-artifacts:/"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # else its page opens as one of language models
T = TypeVar("T")


@dataclass(frozen=True)
class Synced:
    """What became of one run."""

    run: str
    to: Destination | None
    run_id: str | None = None
    new: bool = False  # else it was there already
    error: str = ""


def sync_runs(store: Path, names: Sequence[str], uri: str | None = None) -> Iterator[Synced]:
    """Log these runs, or all of a store whose configuration wants it; a fault of one leaves the others alone."""
    silent: dict[str, str | None] = {}
    for name in names or run_names(store):
        to = None
        try:
            run = find_run(store, name)
            if not names and not run.config.track.enabled:
                continue
            to = destination(run.config.store, run.config.track, uri)
            known = tracked_as(run.folder, to)
            if known is not None:
                yield Synced(run.name, to, known)
                continue
            if to.uri not in silent:
                silent[to.uri] = why_silent(to)
            if (why := silent[to.uri]) is not None:
                raise AnodiffError(f"{to.name}: {why}; start the server, or name another with --uri")
            run_id, new = sync_run(run, to)
            yield Synced(run.name, to, run_id, new)
        except AnodiffError as error:
            yield Synced(name, to, error=str(error))
        except (OSError, ValueError, KeyError) as error:  # a table of the run's that is damaged
            yield Synced(name, to, error=f"its folder cannot be read: {type(error).__name__}: {error}")


def sync_run(run: Run, to: Destination) -> tuple[str, bool]:
    """The id of a run in MLflow, and whether it was logged just now. Two processes that try at once log it once.

    Raises: AnodiffError if MLflow is not installed, or refuses.
    """
    lock = staging_folder(run.config.store) / "runs" / f"{run.name}.track.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        known = tracked_as(run.folder, to)
        if known is not None:
            return known, False
        run_id, new = log_run(run, to)
        mark_tracked(run.config.store, run.folder, to, run_id)
        return run_id, new


def log_run(run: Run, to: Destination) -> tuple[str, bool]:
    """Log a run and its categories, unless MLflow has them. What an earlier try had begun is completed."""
    if not is_installed():
        raise AnodiffError("mlflow is not installed: pip install 'dualanodiff[tracking]'")
    for name, value in MLFLOW_ENV.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client = MlflowClient(to.uri)
        experiment = _experiment(client, to)
        found = client.search_runs([experiment], f"tags.`{RUN}` = '{run.name}'", max_results=5000)
        there = {each.data.tags.get(CATEGORY, WHOLE): each for each in found}
        whole = there.get(WHOLE)
        if whole is not None and whole.info.status in ("FINISHED", "FAILED"):  # which is said last
            return str(whole.info.run_id), False
        ids = {category: str(each.info.run_id) for category, each in there.items()}
        records = records_of(run)
        times = times_ms(run)
        for record in records:
            if record.category not in ids:
                ids[record.category] = _create(client, experiment, run.name, record, ids, times[0])
        for record in reversed(records):  # the whole one last
            _fill(client, ids[record.category], record, to, times[1])
    except (MlflowException, SQLAlchemyError, OSError) as error:  # what requests raises is an OSError
        text = str(error).partition("\n")[0]
        raise AnodiffError(f"{to.name}: {type(error).__name__}: {text}") from error
    return ids[WHOLE], True


def _experiment(client: "MlflowClient", to: Destination) -> str:
    """The experiment's id; made if it is not there. Beside a database of ours, artifacts are found from its folder, so
    that both can be moved."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(to.experiment)
    if found is None:
        try:
            place = None if to.artifacts is None else PROXIED
            return str(client.create_experiment(to.experiment, place, KIND))
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(to.experiment)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise AnodiffError(
            f"{to.name}: the experiment {to.experiment!r} is deleted; restore it there, or set track.experiment"
        )
    return str(found.experiment_id)


def _create(
    client: "MlflowClient", experiment: str, run: str, record: Record, ids: Mapping[str, str], start: int
) -> str:
    tags = {RUN: run}
    if record.category != WHOLE:
        tags |= {CATEGORY: record.category, PARENT: ids[WHOLE]}
    made = client.create_run(experiment, start_time=start, tags=tags, run_name=record.name)
    return str(made.info.run_id)


def _fill(client: "MlflowClient", run_id: str, record: Record, to: Destination, end: int) -> None:
    """Log all that a record holds. Said twice, it is the same: time, step and value are the run's own."""
    from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

    points = [(name, value, 0) for name, value in record.metrics.items()]
    points += [(name, value, step) for name, curve in record.curves.items() for step, value in curve]
    finite = (Metric(name, value, end, step) for name, value, step in points if abs(value) < float("inf"))
    for metrics in _batches(finite, PER_BATCH):
        client.log_batch(run_id, metrics=metrics)
    for params in _batches((Param(*item) for item in record.params.items()), PARAMS_PER_BATCH):
        client.log_batch(run_id, params=params)
    client.log_batch(run_id, tags=[RunTag(*item) for item in record.tags.items() if item[1]])
    datasets = [
        DatasetInput(Dataset(category, digest[:36], "local", json.dumps({"path": record.params["data"]})), [])
        for category, digest in record.data.items()
    ]
    if datasets:
        client.log_inputs(run_id, datasets)
    _store_files(client, run_id, record.files, to)
    client.set_terminated(run_id, record.state, end)


def _store_files(
    client: "MlflowClient", run_id: str, files: Mapping[str, Path | bytes], to: Destination
) -> None:
    uri = str(client.get_run(run_id).info.artifact_uri)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for inside, content in files.items():
            path = folder / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                shutil.copyfile(content, path)
        if to.artifacts is not None and uri.startswith(PROXIED):
            shutil.copytree(folder, to.artifacts / uri.removeprefix(PROXIED), dirs_exist_ok=True)
        elif files:
            client.log_artifacts(run_id, str(folder))


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
