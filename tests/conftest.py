"""The order of the suite."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
WHOLE_RUNS = ("docs", "flows")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with whole runs first, then other slow ones: no process of the suite is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(
        key=lambda item: (item.path.relative_to(TESTS).parts[0] not in WHOLE_RUNS, item.path not in slow)
    )
