"""Where stages run: here, one after the other, or several at a time by one of Prefect's task runners."""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from tasks.config import RunConfig
from tasks.device import cores
from tasks.errors import AnodiffError

IN_WORKER = "ANODIFF_WORKER"  # set in the environment of processes that share a terminal with others

current: ContextVar[TaskRunner[Any] | None] = ContextVar("current", default=None)


@contextmanager
def stages_run_by(config: RunConfig) -> Iterator[None]:
    """Start what the stages within are submitted to; nothing for `serial`. What still runs when it is left is ended.

    Raises: AnodiffError if what `runner` needs is not installed.
    """
    if config.runner == "serial":
        yield
        return
    with task_runner(config) as runner:
        token = current.set(runner)
        try:
            yield
        except BaseException:
            # A signal reaches this process alone; the pool would wait for the trainings in the others.
            for child in multiprocessing.active_children():
                child.terminate()
            raise
        finally:
            current.reset(token)


def task_runner(config: RunConfig) -> TaskRunner[Any]:
    """Prefect's task runner for a configuration."""
    match config.runner:
        case "threads":
            return ThreadPoolTaskRunner(max_workers=config.workers)
        case "processes":
            return ProcessPoolTaskRunner(
                max_workers=config.workers,
                initializer=start_worker,
                initargs=(os.getpid(), _environment(config)),
            )
        case "dask":
            try:
                from prefect_dask.task_runners import DaskTaskRunner
            except ImportError as error:
                raise AnodiffError(
                    "runner: dask needs prefect-dask; pip install 'dualanodiff[dask]'"
                ) from error
            if config.dask_scheduler is not None:
                return DaskTaskRunner(address=config.dask_scheduler)
            return DaskTaskRunner(
                cluster_kwargs={
                    "n_workers": config.workers,
                    "threads_per_worker": 1,
                    "env": _environment(config),
                    "dashboard_address": None,
                }
            )
    raise AssertionError(config.runner)


def _environment(config: RunConfig) -> dict[str, str]:
    """Environment of a worker process: its share of the cores."""
    share = str(max(1, cores() // config.workers))
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", share), IN_WORKER: "1"}


def start_worker(parent: int, environment: dict[str, str]) -> None:
    """Prepare a worker process, before it imports torch: environment, log, and an end with its parent's."""
    os.environ.update(environment)
    from tasks.log import set_up_logging

    set_up_logging(verbose=os.environ.get("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL") == "INFO")
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A parent that was killed tells nobody."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
