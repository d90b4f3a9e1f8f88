"""The Prefect glue, once: a stage's key, its cached result, its inputs fetched, the device slot, what became of it."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypedDict

from prefect import State, Task
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.futures import PrefectFuture
from prefect.settings import get_current_settings
from prefect.states import Crashed

from downstream.errors import DownstreamError
from dual_anodiff.errors import DualAnoDiffError
from tasks.config import RunConfig
from tasks.errors import AnodiffError, ArtifactError
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.device import device_slot, resolve_device
from tasks.runtime.progress import progress_shown
from tasks.runtime.retries import DELAYS_S, RETRIES, can_pass
from tasks.runtime.runner import current
from tasks.runtime.server import is_own_server
from tasks.store.artifacts import Artifact, Staged, publish, read_manifest, refs_in, require, verified
from tasks.store.layout import results_folder
from tasks.store.place import remote_of
from tasks.tables.fetch import fetch_all

log = logging.getLogger("anodiff")

OUR_ERRORS = (AnodiffError, DualAnoDiffError, DownstreamError)


class TaskOptions(TypedDict):
    """What every stage's task is declared with."""

    cache_key_fn: Callable[[TaskRunContext, dict[str, Any]], str | None]
    persist_result: bool
    result_serializer: str
    retries: int
    retry_delay_seconds: list[float]
    retry_condition_fn: Callable[[Task[..., Any], TaskRun, State[Any]], bool]


@dataclass(frozen=True)
class StageOutcome:
    """What became of one stage of a run."""

    stage: str
    label: str
    artifact: str | None  # its name in the store; None where there is nothing
    # left out: there is nothing to do; planned: a run would make it
    status: Literal["ran", "cached", "failed", "skipped", "left out", "planned"]
    seconds: float = 0.0
    error: str | None = None
    bad_input: bool = False  # the error is in what the user gave, not in the running of it


def content_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    """Prefect's cache key of a stage: the name of the artifact that it makes, never its position in the run."""
    return parameters["out"].ref.replace("/", "-")


# Prefect alone would call a stage cached after its artifact was deleted or damaged; `submit` refreshes those.
OPTIONS = TaskOptions(
    cache_key_fn=content_key,
    persist_result=True,
    result_serializer="json",
    retries=RETRIES,
    retry_delay_seconds=DELAYS_S,
    retry_condition_fn=can_pass,
)


@dataclass(frozen=True)
class Started:
    """A stage that was called, or submitted to a runner."""

    call: Call
    running: State[StageResult] | PrefectFuture[StageResult] | None  # None: it is only planned
    logged_before: bool = False  # that it is a hit

    @property
    def out(self) -> Artifact:
        """The artifact that it makes."""
        return self.call.out

    @cached_property
    def state(self) -> State[StageResult]:
        """Its state once it has ended."""
        if self.running is None:
            raise RuntimeError(f"{self.out.stage} {self.out.label} is only planned")
        if isinstance(self.running, State):
            return self.running
        try:
            self.running.wait()
            return self.running.state
        except BrokenExecutor as error:  # a worker process was killed, for instance for want of memory
            return Crashed(message=f"its process ended: {error}", data=error)

    @cached_property
    def outcome(self) -> StageOutcome:
        """What became of it, once it has ended; logged."""
        if self.running is None:
            hit = verified(self.out)
            return StageOutcome(
                self.out.stage,
                self.out.label,
                self.out.ref if hit else None,
                "cached" if hit else "planned",
            )
        return outcome(self.out, self.state, logged_before=self.logged_before)

    @property
    def made(self) -> bool:
        """Whether its artifact is there once it has ended, or would be after what is planned."""
        return self.running is None or self.outcome.artifact is not None

    @property
    def readable(self) -> bool:
        """Whether its artifact is there: of what is planned only what an earlier run made."""
        return self.outcome.artifact is not None


@dataclass(frozen=True)
class Again:
    """Stages of one kind, and all that is made from theirs, are made again unless they were since then."""

    stage: str
    since: str  # ISO, UTC
    refs: set[str] = field(default_factory=set)  # what was found to be so

    def forced(self, out: Artifact) -> Artifact:
        """The artifact, older ones of it out of the count if it is to be made again."""
        if out.stage != self.stage and self.refs.isdisjoint(refs_in(out.inputs)):
            return out
        self.refs.add(out.ref)
        return replace(out, since=self.since)


again: ContextVar[Again | None] = ContextVar("again", default=None)
# Where this is set, stages are noted here instead of run.
planned: ContextVar[list[Started] | None] = ContextVar("planned", default=None)


def run(call: Call, *, wait_for: Sequence[Started] = (), logged_before: bool = False) -> Started:
    """Run a stage: a hit counts only if the artifact is there and its files are what its manifest says.

    `logged_before`: the run said before that it is a hit, and does not say it again.

    Called here, unless `runner` asks for more and there is something to do: Ctrl-C and SIGTERM reach the stage at once,
    and no two stages of one process wait for the same device (Prefect lets up to 30 s pass between two that do).
    """
    noted = planned.get()
    if noted is not None:
        noted.append(Started(call, None))
        return noted[-1]
    forced = again.get()
    if forced is not None:
        call = replace(call, out=forced.forced(call.out))
    out, config = call.out, call.config
    there = verified(out)
    task = call.task.with_options(
        refresh_cache=not there,
        result_storage=results_folder(out.store).resolve(),
        # Prefect fills in what stands in braces.
        task_run_name=f"{out.stage} {out.label}".replace("{", "{{").replace("}", "}}"),
        tags=tags_of(out),
        timeout_seconds=config.stage_timeout_s,
    )
    runner = current.get()
    ended: list[Any] = [each.running for each in wait_for if isinstance(each.running, State)]
    pending: list[Any] = [each.running for each in wait_for if not isinstance(each.running, State)]
    nothing_to_do = (there and not pending) or not all(state.is_completed() for state in ended)
    if runner is None or nothing_to_do:
        state: State[StageResult] = task(
            out=out, config=config, wait_for=ended, return_state=True, **call.inputs
        )
        started = Started(call, state, logged_before)
        _ = started.outcome  # an error is logged when it comes
        return started
    return Started(call, runner.submit(task, {"out": out, "config": config, **call.inputs}, wait_for=pending))


def tags_of(out: Artifact) -> list[str]:
    """Stage, category, defect type or training set; none where nobody looks: Prefect asks for each tag's limit."""
    if is_own_server(get_current_settings().api.url):
        return []
    return [out.stage, *out.label.split("/")[:2]]


def run_stage(
    stage: Stage, out: Artifact, config: RunConfig, make: Callable[[Staged, str], None]
) -> StageResult:
    """The body of a stage's task: see that its inputs are here, take the device slot if it is heavy, make, publish.

    Raises: ArtifactError, before anything is made, for an input that is gone or damaged.
    """
    if verified(out):  # another run made it, or another machine
        return StageResult(artifact=out.ref, made=False)
    fetch_all(inputs_of_task())
    log.info("%-9s %s: starts", out.stage, out.label)
    started = time.monotonic()
    resolved = resolve_device(config.device) if stage.heavy else "cpu"
    # The random numbers of torch are one stream a process, so threads take turns.
    slots = 1 if config.runner == "threads" else config.workers
    with progress_shown(out):
        made = publish(
            out,
            lambda staged: make(staged, resolved),
            device=resolved,
            resumable=stage.resumable,
            max_store_gb=config.max_store_gb,
            turn=device_slot(slots) if stage.heavy else None,
        )
    log.info(
        "%-9s %s: %s",
        out.stage,
        out.label,
        f"{time.monotonic() - started:.0f} s" if made else "is there already",
    )
    return StageResult(artifact=out.ref, made=made)


def inputs_of_task() -> dict[str, Any]:
    """What the task that runs here was called with, besides what it makes; nothing outside of a task."""
    context = TaskRunContext.get()
    if context is None:
        return {}
    return {name: value for name, value in context.parameters.items() if name not in ("out", "config")}


def outcome(out: Artifact, state: State[StageResult], *, logged_before: bool = False) -> StageOutcome:
    """Say what became of a stage; never raises for one that failed.

    What another machine made is fetched: the flow reads of it what comes next.
    """
    lost = why_lost(out) if state.is_completed() else None
    if state.is_completed() and lost is None:
        result: StageResult = state.result()
        if state.name == "Cached" or not result["made"]:
            if not logged_before:
                log.info("%-9s %s: cached", out.stage, out.label)
            return StageOutcome(out.stage, out.label, out.ref, "cached")
        return StageOutcome(out.stage, out.label, out.ref, "ran", seconds=read_manifest(out)["seconds"])
    if state.name == "NotReady":
        return StageOutcome(out.stage, out.label, None, "skipped", error="a stage before it failed")
    found: object = lost or state.result(raise_on_failure=False)
    error = (
        found
        if isinstance(found, BaseException)
        else RuntimeError(state.message or state.name or "no reason given")
    )
    log.error("%-9s %s: %s", out.stage, out.label, error_text(error))
    return StageOutcome(
        out.stage, out.label, None, "failed", error=error_text(error), bad_input=isinstance(error, OUR_ERRORS)
    )


def why_lost(out: Artifact) -> ArtifactError | None:
    """Fetch what a stage made, if that may have been on another machine; why that can't be, if it can't."""
    try:
        if remote_of(out.store) is not None:
            require(out)
    except ArtifactError as error:
        return error
    return None


def error_text(error: BaseException) -> str:
    """An error as a table shows it: ours by its message, others with their type before it."""
    text = str(error).strip() or type(error).__name__
    return text if isinstance(error, OUR_ERRORS) else f"{type(error).__name__}: {text}"
