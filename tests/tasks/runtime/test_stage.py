"""What a stage's end is told as."""

from pathlib import Path

import pytest
from prefect import State
from prefect.states import Completed

from tasks.config import load_config
from tasks.runtime.call import Call, StageResult
from tasks.runtime.stage import Started
from tasks.stages.prepare import PREPARE, prepare


@pytest.mark.parametrize(("logged_before", "lines"), [(False, ["prepare   bolt: cached"]), (True, [])])
def test_a_hit_that_the_run_has_logged_is_not_logged_again(
    logged_before: bool, lines: list[str], said: list[str], tmp_path: Path
) -> None:
    out = PREPARE.plan(tmp_path, "bolt")
    call = Call(PREPARE, prepare, load_config("demo", data=tmp_path, store=tmp_path), out, {})
    state: State[StageResult] = Completed(name="Cached", data=StageResult(artifact=out.ref, made=False))
    assert Started(call, state, logged_before).outcome.status == "cached"
    assert said == lines
