"""The device: which one a heavy stage computes on, and its turn there."""

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from tasks.errors import AnodiffError
from tasks.runtime.server import is_own_server

log = logging.getLogger("anodiff")

DEVICE_SLOTS = (
    "gpu"  # Prefect's global concurrency limit: heavy stages at a time, on all machines of one server
)
ASK_EVERY_S = 0.2

_leases: list[AbstractContextManager[None]] = []  # what this process holds of the server's limit


def resolve_device(device: str) -> str:
    """`auto` becomes cuda where there is one. Raises: AnodiffError if cuda is asked for and absent."""
    import torch  # seconds; only stages that compute come here

    if device == "cpu" or not torch.cuda.is_available():
        if device == "cuda":
            raise AnodiffError("device: cuda was asked for, but torch sees none; use --device auto or cpu")
        return "cpu"
    return "cuda"


@contextmanager
def device_slot(workers: int = 1) -> Iterator[int]:
    """Hold one of the machine's `workers` slots, waiting for it; gives its number.

    A lock file a slot, which ends with its process. With a server that the user runs, its limit `gpu` holds besides, for
    all its machines together. Not with a server that lives only for the run: that one forgets its leases when it ends,
    and does not take back expired ones, so a killed run would keep the slot for ever (measured on prefect 3.8.8).
    """
    if is_own_server(get_current_settings().api.url):
        with _machine_slot(workers) as slot:
            yield slot
        return
    create_device_limit(workers)
    # A lease of one minute: that long is the slot of a killed run lost. Losing sight of the server for a moment must
    # not end a training of hours.
    lease = concurrency(DEVICE_SLOTS, lease_duration=60, strict=True, raise_on_lease_renewal_failure=False)
    with lease, _machine_slot(workers) as slot:
        _leases.append(lease)
        try:
            yield slot
        finally:
            _leases.remove(lease)


def give_back() -> None:
    """Give the server's slot back, in a process that is about to end without leaving its stage."""
    for lease in _leases:
        with suppress(Exception):  # it ends all the same, and the lease with it, only later
            lease.__exit__(None, None, None)


@contextmanager
def _machine_slot(workers: int) -> Iterator[int]:
    """Hold one of this machine's lock files."""
    folder = Path(tempfile.gettempdir())
    locks = [FileLock(folder / f"anodiff-{DEVICE_SLOTS}-{slot}.lock", mode=0o666) for slot in range(workers)]
    said = False
    while True:
        for slot, lock in enumerate(locks):
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            try:
                use_gpu(slot)
                yield slot
            finally:
                lock.release()
            return
        if not said:
            log.info("          waits for the device, another run has it")
            said = True
        time.sleep(ASK_EVERY_S)


def use_gpu(slot: int) -> None:
    """Make the slot's GPU the one that "cuda" means, where there are several."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())


def create_device_limit(slots: int = 1) -> None:
    """Create the concurrency limit if the server has none; one that is there stays as it was set."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(DEVICE_SLOTS)
        except ObjectNotFound:
            client.upsert_global_concurrency_limit_by_name(DEVICE_SLOTS, slots)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
