"""What a stage's end is told as."""

from pathlib import Path

import pytest
from prefect import State
from prefect.states import Completed

from tasks.runtime.stage import StageResult, Started
from tasks.store.artifacts import plan


@pytest.mark.parametrize(("told", "lines"), [(False, ["prepare   bolt: cached"]), (True, [])])
def test_a_hit_that_the_run_has_told_is_not_told_again(
    told: bool, lines: list[str], said: list[str], tmp_path: Path
) -> None:
    out = plan(tmp_path, "prepare", 1, "bolt")
    state: State[StageResult] = Completed(name="Cached", data=StageResult(artifact=out.ref, made=False))
    assert Started(out, state, told).outcome.status == "cached"
    assert said == lines
