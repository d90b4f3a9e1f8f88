"""What the tests in a browser share."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.chromium import chromium


# Not for the session: while Playwright runs, its event loop makes Prefect's calls in other tests coroutines.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; a page of it per test: `browser.new_page()`."""
    with chromium() as started:
        yield started
