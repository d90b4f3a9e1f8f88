"""What the tests of stages share."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Every line that anodiff's logger says, once.

    Not caplog: whether that sees a line twice, or at all, hangs on who has set up logging in this process before.
    """
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("anodiff"), Lines()
    logger.disabled = False  # import-linter's command, called by another test, disables all loggers
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
