"""Our own log lines on the terminal; Prefect's are sent to its server, where its UI shows them."""

import logging
import os

from rich.console import Console

err = Console(stderr=True)


class Lines(logging.Handler):
    """Log lines on stderr, whatever that is by now: a terminal, a file, a test's buffer."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "red" if record.levelno >= logging.ERROR else ""
        err.print(self.format(record), style=style, highlight=False, markup=False, soft_wrap=True)


def set_up_logging(verbose: bool) -> None:
    """Our own lines to the terminal; Prefect's only with -v. Before Prefect is imported: it reads this once."""
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "INFO" if verbose else "CRITICAL"
    logger = logging.getLogger("anodiff")
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Prefect's console handler sits on the root logger
    if not any(isinstance(handler, Lines) for handler in logger.handlers):
        handler = Lines()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
