"""One picture of all stages under way on a run's terminal: a bar each, and the log lines above them.

Two processes that draw on one terminal destroy each other's picture. So worker processes send their lines, and how far
they are, to a socket of the run's own process, whose address is in the environment.
"""

import json
import logging
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from tasks.runtime.log import BOARD, MESSAGE_BYTES, err, print_line, send

LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Row:
    """How far one stage is."""

    name: str  # unlike any other stage's
    label: str
    done: int = 0
    total: int | None = None  # None: it has not said
    text: str = ""
    left_s: float | None = None
    over: bool = False
    pid: int = field(default_factory=os.getpid)


class Count(ProgressColumn):
    """120/500; nothing of a stage that counts nothing."""

    def render(self, task: Task) -> Text:
        known = f"{task.completed:.0f}/{task.total:.0f}" if task.total else ""
        return Text(known, style="progress.download")


class Left(ProgressColumn):
    """The time left, or since the start where nobody knows."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if task.fields["left_s"] is not None:
            return Text(f"{clock(task.fields['left_s'])} left", style="progress.remaining")
        return Text(clock(task.elapsed or 0), style="progress.elapsed")


def clock(seconds: float) -> str:
    """0:07, 12:40, 3:02:11."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Board:
    """The bars of all stages under way, of this process and of others."""

    def __init__(self) -> None:
        label = Column(no_wrap=True, overflow="ellipsis")
        self.bars = Progress(
            TextColumn("{task.description}", table_column=label, markup=False),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
            Count(Column(no_wrap=True)),
            TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True), markup=False),
            Left(Column(no_wrap=True, justify="right")),
            console=err,
            transient=True,
            expand=True,
        )
        self._shown: dict[str, tuple[TaskID, int]] = {}
        self._lock = threading.Lock()

    def put(self, row: Row) -> None:
        """Show a stage as far as it is now."""
        with self._lock:
            if row.over:
                self._drop(row.name)
                return
            if row.name not in self._shown:
                new = self.bars.add_task(row.label, total=None, text="", left_s=None)
                self._shown[row.name] = new, row.pid
            self.bars.update(
                self._shown[row.name][0],
                completed=row.done,
                total=row.total,
                text=row.text,
                left_s=row.left_s,
            )

    def drop_dead(self) -> None:
        """Take the stages of processes off that were killed: they reported no end."""
        with self._lock:
            for name in [name for name, (_, pid) in self._shown.items() if not psutil.pid_exists(pid)]:
                self._drop(name)

    def _drop(self, name: str) -> None:
        shown = self._shown.pop(name, None)
        if shown is not None:
            self.bars.remove_task(shown[0])


_board: Board | None = None


@contextmanager
def board_shown() -> Iterator[None]:
    """Within, the stages of a run have their bars on stderr, if that is a terminal and is not to be quiet."""
    global _board
    quiet = not logging.getLogger("anodiff").isEnabledFor(logging.INFO)
    if quiet or not sys.stderr.isatty() or err.is_dumb_terminal or not hasattr(socket, "AF_UNIX"):
        yield
        return
    board, done = Board(), threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="anodiff-") as folder,  # that no other user can enter
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear,
    ):
        address = str(Path(folder) / "board")
        ear.bind(address)
        ear.settimeout(LOOK_EVERY_S)
        listener = threading.Thread(target=_listen, args=(ear, board, done), daemon=True)
        os.environ[BOARD], _board = address, board
        try:
            with board.bars:
                listener.start()
                try:
                    yield
                finally:
                    done.set()
                    listener.join()
        finally:
            _board = None
            del os.environ[BOARD]


def _listen(ear: socket.socket, board: Board, done: threading.Event) -> None:
    """Put what comes on the board, until there is nothing more and the run is `done`."""
    looked = time.monotonic()
    while True:
        try:
            ear.settimeout(0.0 if done.is_set() else LOOK_EVERY_S)
            message = json.loads(ear.recv(MESSAGE_BYTES))
        except (TimeoutError, BlockingIOError):
            if done.is_set():
                return
            message = None
        if message is not None and "line" in message:
            print_line(message["line"], message["level"])
        elif message is not None:
            board.put(Row(**message))
        if time.monotonic() - looked > LOOK_EVERY_S:
            looked = time.monotonic()
            board.drop_dead()


def is_shown() -> bool:
    """Whether there are bars, drawn here or by the run's process."""
    return _board is not None or BOARD in os.environ


def show(row: Row) -> None:
    """Put a stage on the board, wherever that is."""
    if _board is not None:
        _board.put(row)
    elif BOARD in os.environ:
        send(asdict(row))
