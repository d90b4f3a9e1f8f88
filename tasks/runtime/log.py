"""Our own log lines on the terminal; Prefect's are sent to its server, where its UI shows them."""

import json
import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

from rich.console import Console

err = Console(stderr=True, markup=False)

# In the environment, so that a run's worker processes know it too.
QUIET = "ANODIFF_QUIET"
BOARD = "ANODIFF_BOARD"  # the socket of the process that draws on the terminal (tasks.runtime.board)
IN_WORKER = (
    "ANODIFF_WORKER"  # set by tasks.runtime.runner in processes that share a terminal with the run's own
)
MESSAGE_BYTES = 65_536
SEND_S = 1.0


class Lines(logging.Handler):
    """Log lines on stderr, whatever that is by now: a terminal, a file, a test's buffer."""

    def emit(self, record: logging.LogRecord) -> None:
        print_line(self.format(record), record.levelno)


class Sent(logging.Handler):
    """Log lines to the process that draws on the terminal; on stderr if that is gone."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if not send({"line": text[: MESSAGE_BYTES // 8], "level": record.levelno}):
            print_line(text, record.levelno)


def print_line(text: str, level: int) -> None:
    """One log line, above the bars where there are any."""
    style = "red" if level >= logging.ERROR else "yellow" if level >= logging.WARNING else ""
    err.print(text, style=style, highlight=False, soft_wrap=True)


def send(message: Mapping[str, object]) -> bool:
    """Tell the process that draws on the terminal; False if it has ended."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mouth:
        mouth.settimeout(SEND_S)
        mouth.sendto(json.dumps(message).encode(), os.environ[BOARD])
        return True
    return False


def set_up_logging(verbose: bool, quiet: bool | None = None) -> None:
    """Our own lines to the terminal; Prefect's only with -v. Before Prefect is imported: it reads this once.

    `quiet`: warnings and errors alone; None: as the process that started this one.
    """
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "INFO" if verbose else "CRITICAL"
    if quiet is not None:
        os.environ[QUIET] = "1" if quiet else ""
    logger = logging.getLogger("anodiff")
    logger.setLevel(logging.WARNING if os.environ.get(QUIET) else logging.INFO)
    logger.propagate = False  # Prefect's console handler sits on the root logger
    if not any(isinstance(handler, Lines | Sent) for handler in logger.handlers):
        handler = Sent() if {BOARD, IN_WORKER} <= os.environ.keys() else Lines()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
