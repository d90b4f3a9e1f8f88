"""How far a stage is, where no terminal shows it: a line a minute, with what is left."""

from pathlib import Path

import pytest

from tasks.runtime.progress import StageProgress, speed
from tasks.store.artifacts import Artifact


def test_a_line_says_how_far_how_fast_and_how_long(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    out = Artifact(Path("store"), "finetune", "tile", "0" * 20, "tile/hole", inputs={})
    report = StageProgress(out, on_board=False, in_ui=False, began=now, last_line=now)
    report(300, 500, "step", 0.5)  # resumed: these were not done now
    now = 1030.0
    report(330, 500, "step", 0.4)
    assert not said
    now = 1060.0
    report(360, 500, "step", 0.25)
    assert said == ["finetune  tile/hole: 360 of 500 steps, 1.0 step/s, loss 0.250, 2 min left"]


def test_what_is_slow_is_told_by_the_step() -> None:
    assert [speed(each, "pair") for each in (0.0, 0.25, 3.21)] == ["0.0 pair/s", "4.0 s/pair", "3.2 pair/s"]
