"""The server that lives for one run: it answers, and it is gone with the run, however that ended."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.runtime.server import is_own_server, start_server

ROOT = Path(__file__).parent.parent.parent
RUN = """
import os, time
from tasks.runtime.server import is_own_server, start_server
start_server()()
assert is_own_server(os.environ["PREFECT_API_URL"])
print(os.environ["PREFECT_API_URL"], flush=True)
time.sleep(100)
"""


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_it_answers_and_does_not_outlive_a_killed_run(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_API")}
    run = subprocess.Popen(
        [sys.executable, "-c", RUN],
        cwd=ROOT,
        env=env | {"PREFECT_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    port = int(run.stdout.readline().rpartition(":")[2].partition("/")[0])
    assert answers(port)
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    deadline = time.monotonic() + 30
    while answers(port):
        assert time.monotonic() < deadline, "the server is still there 30 s after its run was killed"
        time.sleep(0.1)


def test_a_configured_server_is_used_and_not_ours() -> None:
    with temporary_settings({PREFECT_API_URL: "http://example.invalid/api"}):
        start_server()()
        assert not is_own_server("http://example.invalid/api")
