"""A run that has not ended is listed as running or stopped, and goes on under its name when it is started again."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.config import RunConfig, load_config
from tasks.errors import AnodiffError
from tasks.report.run_folder import write_run
from tasks.runs.ended import find_run, list_runs, run_names
from tasks.runs.under_way import begin_run, find_stopped, runs_under_way

ROOT = Path(__file__).parents[3]
NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return load_config("demo", data=tmp_path / "data", store=tmp_path / "store")


def begun_and_killed(config: RunConfig) -> str:
    code = f"""
from datetime import UTC, datetime
from tasks.config import load_config
from tasks.runs.under_way import begin_run
config = load_config("demo", data={str(config.data)!r}, store={str(config.store)!r})
print(begin_run(config, datetime(2026, 1, 1, tzinfo=UTC)))
"""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_stopped_run_goes_on_under_its_name_and_a_running_one_is_left_alone(config: RunConfig) -> None:
    stopped = begun_and_killed(config)
    assert [(each.name, each.state) for each in list_runs(config.store)] == [(stopped, "stopped")]
    assert run_names(config.store) == []  # it has left nothing that others could read
    with pytest.raises(AnodiffError, match="no run ended there"):
        find_run(config.store, "latest")
    found = find_stopped(config.store, "latest")
    assert RunConfig.model_validate({**found.config, "store": config.store}) == config

    other = begin_run(config.model_copy(update={"seed": 1}), NOW)
    assert other != stopped
    assert begin_run(config, NOW, {"run": "x", "categories": ["bolt"]}) not in (stopped, other)
    assert begin_run(config, NOW) == stopped
    assert begin_run(config, NOW) != stopped  # at once: that one is running
    assert {each.state for each in runs_under_way(config.store)} == {"running"}
    with pytest.raises(AnodiffError, match=f"run {stopped}: still runs, as process"):
        find_stopped(config.store, stopped)
    with pytest.raises(AnodiffError, match="no run 'latest' that was stopped; stopped ones: none"):
        find_stopped(config.store, "latest")

    ended = write_run(config, [], {}, started=NOW, run=stopped)
    assert ended.run == stopped
    assert {each.name: each.state for each in list_runs(config.store)}[stopped] == "completed"
    assert not (ended.folder / "started.json").exists()
