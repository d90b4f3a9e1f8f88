"""A run in a store with a URL: another machine finds it, and does none of its stages again."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.config import RunConfig, load_config
from tasks.runs.ended import find_run, pictures_of, trained_models
from tests.flows.running import run
from tests.s3 import make_bucket, s3_server, speak_to


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


def test_a_run_on_one_machine_is_cached_and_found_on_another(
    server: dict[str, str], yaml_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speak_to(server, monkeypatch)
    make_bucket("plant")

    def on(machine: str) -> RunConfig:
        monkeypatch.setenv("ANODIFF_CACHE", str(tmp_path / machine))
        return load_config(str(yaml_file), store="s3://plant/night")

    first = run(on("one"))
    assert {stage.status for stage in first.stages} == {"ran"}
    shutil.rmtree(tmp_path / "one")

    config = on("two")
    found = find_run(config.store, "latest", data=config.data)
    assert found.name == first.run
    drawn = pictures_of(found, "bolt")
    assert all(each.path.is_relative_to(config.store) for each in drawn.generated.values())
    assert len(trained_models(found, "bolt", ["localize"], [0])) == 2

    again = run(on("three"))
    assert {stage.status for stage in again.stages} == {"cached"}
    for file in (tmp_path / "three").rglob("*.json"):
        assert str(tmp_path) not in file.read_text()
    assert not Path("s3:").exists()
