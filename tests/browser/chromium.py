"""Debian's Chromium under Playwright, without a window."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser for the tests within, or a skip that says what is absent."""
    if not CHROMIUM.is_file():
        pytest.skip(f"no browser: {CHROMIUM} (apt-get install chromium)")
    with sync_playwright() as playwright:
        # The sandbox needs rights that a container does not give.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
