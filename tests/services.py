"""Real servers and workers for tests: processes of their own on free ports of this machine, gone with the test."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]

STARTUP_TIMEOUT_S = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_env(**extra: str) -> dict[str, str]:
    """This environment without what a user, or another test, has set for Prefect, MLflow or S3; nothing is sent out."""
    theirs = ("PREFECT_", "MLFLOW_", "AWS_", "FSSPEC_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(theirs)}
    return kept | {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"} | extra


@contextmanager
def service(
    command: Sequence[str], env: Mapping[str, str], log: Path, cwd: Path, user: str | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that runs as long as the block; its children end with it."""
    with log.open("wb") as lines:
        process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdout=lines,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
        )
    try:
        yield process
    finally:
        _end(process)


def answer_of(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until an address answers with 200."""

    def answers() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"ended with exit code {process.returncode}:\n{tail(log)}")
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(answers, STARTUP_TIMEOUT_S, lambda: f"{url} does not answer:\n{tail(log)}")


def wait_until(true: Callable[[], bool], timeout_s: float, complaint: Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"after {timeout_s:.0f} s: {complaint()}"
        time.sleep(0.3)


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def _end(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to the process, as an engine of containers does; what is left after 20 s, children included, is killed."""
    if process.poll() is None:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=20)
        for each in left:
            each.kill()
    process.wait()
