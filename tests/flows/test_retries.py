"""What is tried again, and what is not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import State, flow, task
from prefect.states import Completed

from flows import augmentation
from flows.category import CategoryOutcome
from tasks.config import RunConfig
from tasks.errors import DataError
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.retries import halved, out_of_memory
from tasks.runtime.stage import OPTIONS, StageOutcome, run, run_stage
from tasks.store.artifacts import Artifact, verified

TRIAL = Stage("trial", version=1, heavy=True)
FULL = 2**20  # a batch that no machine holds, of GiB


@task(name="trial", **(OPTIONS | {"retry_delay_seconds": [0.0]}))
def trial(out: Artifact, config: RunConfig, way: str, notes: str) -> StageResult:
    """A stage of the tests' own; `notes` is a file that counts its tries."""

    def make(staged: object, _: str) -> None:
        import torch

        tried = Path(notes)
        tried.write_text(f"{tried.read_text() if tried.exists() else ''}{halved(FULL)[0]} ")
        if way == "memory" and halved(FULL)[0] > FULL // 4:
            torch.empty(halved(FULL)[0] * 2**30, dtype=torch.uint8)
        if way == "network" and len(tried.read_text().split()) < 3:
            raise ConnectionResetError("gone for a moment")
        if way == "bad input":
            raise DataError("bolt: no picture")
        (staged.out / "there").write_text("yes")  # type: ignore[attr-defined]

    return run_stage(TRIAL, out, config, make)


@flow
def trying(out: Artifact, config: RunConfig, way: str, notes: str) -> StageOutcome:
    return run(Call(TRIAL, trial, config, out, {"way": way, "notes": notes}, beside_key=("notes",))).outcome


@pytest.mark.parametrize(
    ("way", "tries", "status"),
    [
        ("memory", [FULL, FULL // 2, FULL // 4], "ran"),
        ("network", [FULL, FULL, FULL], "ran"),
        ("bad input", [FULL], "failed"),
    ],
)
def test_a_full_memory_halves_the_batch_a_network_is_tried_again_bad_input_is_not(
    way: str, tries: list[int], status: str, config: RunConfig, tmp_path: Path
) -> None:
    out = TRIAL.plan(config.store, "bolt", way=way)
    found = trying(out, config, way, str(tmp_path / "notes"))
    assert found.status == status
    assert [int(each) for each in (tmp_path / "notes").read_text().split()] == tries
    assert verified(out) == (status == "ran")


def test_torch_says_when_the_memory_is_full() -> None:
    import torch

    with pytest.raises(RuntimeError) as error:
        torch.empty(FULL * 2**30, dtype=torch.uint8)
    assert out_of_memory(error.value)
    assert not out_of_memory(RuntimeError("shapes do not match"))


def test_a_stage_that_takes_too_long_fails_and_is_not_tried_again(config: RunConfig, tmp_path: Path) -> None:
    slow = config.model_copy(update={"stage_timeout_s": 0.5})
    out = TRIAL.plan(config.store, "bolt", way="slow")
    found = waiting(out, slow, str(tmp_path / "notes"))
    assert found.status == "failed"
    assert "timed out" in str(found.error).lower()
    assert (tmp_path / "notes").read_text() == "x"


@task(name="trial", **OPTIONS)
def waits(out: Artifact, config: RunConfig, notes: str) -> StageResult:
    """Longer than allowed."""
    import time

    with Path(notes).open("a") as file:
        file.write("x")
    for _ in range(100):
        time.sleep(0.05)
    raise AssertionError("was let run to its end")


@flow
def waiting(out: Artifact, config: RunConfig, notes: str) -> StageOutcome:
    return run(Call(TRIAL, waits, config, out, {"notes": notes}, beside_key=("notes",))).outcome


def test_a_category_whose_outcome_the_server_lost_is_asked_once_more_and_then_fails(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = CategoryOutcome("bolt", (StageOutcome("prepare", "bolt", None, "cached"),))
    answers: Iterator[State[Any]] = iter([Completed(), Completed(data=made), Completed(), Completed()])
    monkeypatch.setattr(augmentation, "run_category", lambda *_, **__: next(answers))
    assert augmentation.outcome_of(config, "bolt") == made

    outcome = augmentation.outcome_of(config, "bolt")
    (stage,) = outcome.stages
    assert (stage.status, outcome.report) == ("failed", None)
    assert stage.error is not None
    assert "the same command finds its stages done" in stage.error
