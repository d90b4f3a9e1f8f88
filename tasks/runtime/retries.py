"""Which failed stages are worth another try: a network that was gone, a device whose memory was full. Never bad input."""

import gc
import logging
import sys
from typing import Any
from uuid import UUID

import httpx
from prefect import State, Task
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext

from tasks.errors import StoreUnreachableError

log = logging.getLogger("anodiff")

RETRIES, DELAYS_S = 3, [2.0, 10.0, 60.0]
MAY_PASS = (ConnectionError, httpx.TransportError, StoreUnreachableError)

# How often the memory was too small, by task run; a retry is in the process that failed.
_halvings: dict[UUID, int] = {}


def can_pass(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn`: asked after a stage failed."""
    error = state.result(raise_on_failure=False)
    if out_of_memory(error):
        _halvings[task_run.id] = _halvings.get(task_run.id, 0) + 1
        log.warning("%s: the device's memory is full; tried again with half the batch", task_run.name)
        free_memory()
        return True
    return isinstance(error, MAY_PASS)


def out_of_memory(error: object) -> bool:
    """Whether an error is torch's that a device's memory is full; torch need not be imported for it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def halvings() -> int:
    """How often this stage's batch is to be halved: as often as it ran out of memory."""
    context = TaskRunContext.get()
    return 0 if context is None else _halvings.get(context.task_run.id, 0)


def halved(batch_size: int) -> tuple[int, int]:
    """The batch that this try may have, and how many of these make the whole one."""
    parts = min(2 ** halvings(), batch_size)
    return -(-batch_size // parts), parts


def free_memory() -> None:
    """Give back what the failed try held."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
