"""The Prefect glue, once: a stage's key, its cached result, the device slot, and what became of it."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from filelock import FileLock, Timeout
from prefect import State, Task
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.context import TaskRunContext
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from downstream.errors import DownstreamError
from dual_anodiff.errors import DualAnoDiffError
from tasks.artifacts import Artifact, Staged, publish, read_manifest, verified
from tasks.errors import AnodiffError
from tasks.server import is_own_server

log = logging.getLogger("anodiff")

DEVICE_SLOTS = (
    "gpu"  # Prefect's global concurrency limit: heavy stages at a time, on all machines of one server
)
OUR_ERRORS = (AnodiffError, DualAnoDiffError, DownstreamError)


class StageResult(TypedDict):
    """The small reference that Prefect keeps as a stage's result; the artifact itself lies in the store."""

    artifact: str
    made: bool  # False: it was there already, made by another run


class TaskOptions(TypedDict):
    """What every stage's task is declared with."""

    cache_key_fn: Callable[[TaskRunContext, dict[str, Any]], str | None]
    persist_result: bool
    result_serializer: str
    retries: NotRequired[int]


@dataclass(frozen=True)
class StageOutcome:
    """What became of one stage of a run."""

    stage: str
    label: str
    artifact: str | None  # its name in the store; None where there is nothing
    status: Literal["ran", "cached", "failed", "skipped", "left out"]  # left out: there is nothing to do
    seconds: float = 0.0
    error: str | None = None
    bad_input: bool = False  # the error is in what the user gave, not in the running of it


def content_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    """Prefect's cache key of a stage: the name of the artifact that it makes, never its position in the run."""
    return parameters["out"].ref.replace("/", "-")


# Prefect alone would call a stage cached after its artifact was deleted or damaged; `submit` refreshes those.
STAGE = TaskOptions(cache_key_fn=content_key, persist_result=True, result_serializer="json")


def run(
    stage: Task[Any, StageResult], out: Artifact, /, *, wait_for: Sequence[State[Any]] = (), **inputs: object
) -> State[StageResult]:
    """Run a stage's task: a hit counts only if the artifact is there and its files are what its manifest says.

    Called, not submitted to a thread: Ctrl-C and SIGTERM reach the stage at once, and no two stages of one process
    wait for the same device (Prefect lets up to 30 s pass between two that do).
    """
    task = stage.with_options(
        refresh_cache=not verified(out),
        result_storage=(out.store / "results").resolve(),
        task_run_name=f"{out.stage} {out.label}",
    )
    return task(out=out, wait_for=list(wait_for), return_state=True, **inputs)


def run_stage(
    out: Artifact, device: str, make: Callable[[Staged, str], None], *, heavy: bool, resumable: bool = False
) -> StageResult:
    """The body of a stage's task: take the device slot if it is `heavy`, make the artifact, publish it."""
    log.info("%-9s %s: starts", out.stage, out.label)
    started = time.monotonic()
    with device_slot() if heavy else nullcontext():
        resolved = resolve_device(device) if heavy else "cpu"
        made = publish(out, lambda staged: make(staged, resolved), device=resolved, resumable=resumable)
    log.info(
        "%-9s %s: %s",
        out.stage,
        out.label,
        f"{time.monotonic() - started:.0f} s" if made else "is there already",
    )
    return StageResult(artifact=out.ref, made=made)


def resolve_device(device: str) -> str:
    """`auto` becomes cuda where there is one. Raises: AnodiffError if cuda is asked for and absent."""
    import torch  # seconds; only stages that compute come here

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise AnodiffError("device: cuda was asked for, but torch sees none; use --device auto or cpu")
    return device


@contextmanager
def device_slot() -> Iterator[None]:
    """Hold the device: heavy stages of all runs go one at a time, or as many as the limit `gpu` has slots.

    A server that lives only for the run forgets its leases when it ends, and does not take back expired ones: a killed
    run would keep Prefect's slot for ever (measured on prefect 3.8.8). There a file lock does it, which ends with its
    process.
    """
    if is_own_server(get_current_settings().api.url):
        lock = FileLock(Path(tempfile.gettempdir()) / f"anodiff-{DEVICE_SLOTS}.lock", mode=0o666)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            log.info("          waits for the device, another run has it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
        return
    create_device_limit()
    # A lease of one minute: that long is the slot of a killed run lost. Losing sight of the server for a moment must
    # not end a training of hours.
    with concurrency(DEVICE_SLOTS, lease_duration=60, strict=True, raise_on_lease_renewal_failure=False):
        yield


def create_device_limit() -> None:
    """Create the concurrency limit with one slot if the server has none; one that is there stays as it was set."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(DEVICE_SLOTS)
        except ObjectNotFound:
            client.upsert_global_concurrency_limit_by_name(DEVICE_SLOTS, 1)


def outcome(out: Artifact, state: State[StageResult]) -> StageOutcome:
    """Say what became of a stage; never raises for one that failed."""
    if state.is_completed():
        result: StageResult = state.result()
        if state.name == "Cached" or not result["made"]:
            log.info("%-9s %s: cached", out.stage, out.label)
            return StageOutcome(out.stage, out.label, out.ref, "cached")
        return StageOutcome(out.stage, out.label, out.ref, "ran", seconds=read_manifest(out)["seconds"])
    if state.name == "NotReady":
        return StageOutcome(out.stage, out.label, None, "skipped", error="a stage before it failed")
    found: object = state.result(raise_on_failure=False)
    error = (
        found
        if isinstance(found, BaseException)
        else RuntimeError(state.message or state.name or "no reason given")
    )
    log.error("%-9s %s: %s", out.stage, out.label, error_text(error))
    return StageOutcome(
        out.stage, out.label, None, "failed", error=error_text(error), bad_input=isinstance(error, OUR_ERRORS)
    )


def error_text(error: BaseException) -> str:
    """An error as a table shows it: ours by its message, others with their type before it."""
    text = str(error).strip() or type(error).__name__
    return text if isinstance(error, OUR_ERRORS) else f"{type(error).__name__}: {text}"
