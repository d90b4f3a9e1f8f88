"""Where stages run: here, one after the other, or several at a time by one of Prefect's task runners."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

from prefect import State
from prefect.context import TaskRunContext
from prefect.events.worker import EventsWorker
from prefect.states import Crashed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.engine import emit_task_run_state_change_event

from tasks.config import RunConfig
from tasks.errors import AnodiffError
from tasks.runtime.device import cores, give_back
from tasks.runtime.log import IN_WORKER

END_S = 10.0  # for a stage to be left and its end to be reported

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
            end_workers()
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


def end_workers() -> None:
    """Tell worker processes to leave their stages; those that do not are killed."""

    def kill() -> None:
        for child in children:
            child.kill()

    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    last = threading.Timer(END_S, kill)
    last.daemon = True
    last.start()


def start_worker(parent: int, environment: dict[str, str]) -> None:
    """Prepare a worker process, before it imports torch: environment, log, and an end with its parent's."""
    os.environ.update(environment)
    from tasks.runtime.log import set_up_logging

    set_up_logging(verbose=os.environ.get("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL") == "INFO")
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal; the run ends its workers
    signal.signal(signal.SIGTERM, _leave_stage)


def _leave_stage(number: int, frame: FrameType | None) -> None:
    """End this process, once Prefect's server knows that its stage ends: what is simply gone stays Running there.

    Not by an exception out of the stage: one that is not an Exception breaks the pool's thread in the run's process.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    give_back()
    context = TaskRunContext.get()
    if context is not None:
        ended: State[Any] = Crashed(message="Execution was aborted by a termination signal.")
        emit_task_run_state_change_event(context.task_run, context.task_run.state, ended)
        EventsWorker.instance().wait_until_empty()
        time.sleep(0.5)  # the pool's queue to the run's process has a thread of its own
    os._exit(128 + number)


def _end_with(parent: int) -> None:
    """A parent that was killed tells nobody."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
