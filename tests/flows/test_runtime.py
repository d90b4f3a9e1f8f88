"""The device slot: created once, never taken twice, under a server and without one."""

import tempfile
import threading
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.errors import AnodiffError
from tasks.runtime.device import DEVICE_SLOTS, create_device_limit, device_slot, resolve_device

pytestmark = pytest.mark.usefixtures("users_server")


def test_the_limit_is_created_once_and_then_left_as_it_was_set() -> None:
    create_device_limit()
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name(DEVICE_SLOTS).limit == 1
        client.upsert_global_concurrency_limit_by_name(DEVICE_SLOTS, 4)
        create_device_limit()
        assert client.read_global_concurrency_limit_by_name(DEVICE_SLOTS).limit == 4
        client.upsert_global_concurrency_limit_by_name(DEVICE_SLOTS, 1)


@pytest.mark.parametrize("server", [True, False])
def test_one_holds_the_device_at_a_time(
    server: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # not the lock of real runs on this machine
    inside: list[int] = []
    most: list[int] = []

    def hold() -> None:
        with temporary_settings({} if server else {PREFECT_API_URL: None}), device_slot():
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1]


def test_the_slot_is_given_back_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="boom"), device_slot():
        raise RuntimeError("boom")
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name(DEVICE_SLOTS).active_slots == 0


def test_cuda_is_not_replaced_silently() -> None:
    import torch

    if torch.cuda.is_available():
        assert resolve_device("auto") == "cuda"
    else:
        assert resolve_device("auto") == "cpu"
        with pytest.raises(AnodiffError, match="--device"):
            resolve_device("cuda")
