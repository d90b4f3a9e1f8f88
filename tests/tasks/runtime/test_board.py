"""Bars and log lines of a run's processes on one terminal, and none where there is no terminal."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.runtime.board import Row, board_shown, clock, is_shown
from tasks.runtime.log import set_up_logging

ROOT = Path(__file__).parents[3]

# Two worker processes: one says a line and how far it is, the other dies without a word.
RUN = """
import os, subprocess, sys, time
from tasks.runtime.board import board_shown
from tasks.runtime.log import IN_WORKER, set_up_logging
set_up_logging(False, {quiet})
with board_shown():
    os.environ[IN_WORKER] = "1"  # of the workers alone: this process is set up
    workers = [subprocess.Popen([sys.executable, "-c", {worker!r}, name]) for name in ("ends", "dies")]
    for worker in workers:
        worker.wait()
    time.sleep(2.5)
print("tables")
"""
WORKER = """
import logging, os, sys, time
from tasks.runtime.board import Row, is_shown, show
from tasks.runtime.log import set_up_logging
set_up_logging(False)
name = sys.argv[1]
logging.getLogger("anodiff").info("finetune tile/%s: starts", name)
logging.getLogger("anodiff").warning("careful with %s", name)
show(Row(name, f"finetune tile/{name}", 120, 500, "3.2 step/s, loss 0.123", 119.0))
time.sleep(1)
if name == "dies":
    os._exit(1)
show(Row(name, "", over=True))
"""


def on_terminal(code: str, folder: Path) -> str:
    """What a process writes to a terminal of 100 columns, without colours."""
    main, child = pty.openpty()
    env = {**os.environ, "COLUMNS": "100", "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=child, stderr=child, env=env)
    os.close(child)
    said = b""
    while True:
        try:
            part = os.read(main, 65_536)
        except OSError:  # Linux: the other side is closed
            break
        if not part:
            break
        said += part
    os.close(main)
    assert process.wait() == 0, said.decode()
    return re.sub(r"\x1b\[[0-9;]*m", "", said.decode())


def test_processes_share_one_picture_and_a_killed_one_leaves_it(tmp_path: Path) -> None:
    said = on_terminal(RUN.format(quiet=False, worker=WORKER), tmp_path)
    for name in ("ends", "dies"):
        assert f"finetune tile/{name}: starts" in said
        assert re.search(rf"finetune tile/{name} +\S+ +120/500 3\.2 step/s, loss 0\.123 1:59 left", said)
    # After the last picture that had a bar come some without any, and the tables.
    *_, last_bar = re.finditer(r"120/500", said)
    assert "tables" in said[last_bar.end() :]
    assert said.rstrip().endswith("tables")


def test_quiet_shows_warnings_alone(tmp_path: Path) -> None:
    said = on_terminal(RUN.format(quiet=True, worker=WORKER), tmp_path)
    assert "careful with ends" in said
    assert "starts" not in said
    assert "120/500" not in said


def test_without_a_terminal_there_is_no_board(capfd: pytest.CaptureFixture[str]) -> None:
    set_up_logging(False, False)
    with board_shown():
        assert not is_shown()
    assert capfd.readouterr() == ("", "")


def test_times_are_read_at_a_glance() -> None:
    assert [clock(each) for each in (7, 760, 10_931)] == ["0:07", "12:40", "3:02:11"]
    assert Row("a", "b").pid == os.getpid()
