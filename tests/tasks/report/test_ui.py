"""Keys of Prefect's artifacts, whatever the names."""

import re

import pytest

from tasks.report.ui import artifact_key


@pytest.mark.parametrize("name", ["bent wire", "Öse", "{x}", "部品", "a.b", "-", "Bolt_2", "ö" * 200])
def test_keys_are_what_prefect_takes_and_tell_names_apart(name: str) -> None:
    key = artifact_key("bolt", name)
    assert re.fullmatch(r"[a-z0-9-]+", key)
    assert key != artifact_key("bolt", name + "!")


def test_plain_names_stay_as_they_are() -> None:
    assert artifact_key("Bolt", "dent_refused") == "bolt-dent-refused"
