"""What a stage reads is on the machine that runs it, and whole, before it starts: whoever made it, wherever it lies."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from prefect import flow, task

from tasks.config import RunConfig, load_config
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.runner import stages_run_by
from tasks.runtime.stage import OPTIONS, StageOutcome, run, run_stage
from tasks.store import place
from tasks.store.artifacts import Artifact, Staged, verified
from tests.s3 import make_bucket, s3_server, speak_to

URL = "s3://inputs/night"
# Named as in a run: a curated table names files of what drew them.
DRAW, JUDGE, MEASURE = (Stage(name, version=1) for name in ("generate", "curate", "quality"))


@task(name="generate", **OPTIONS)
def draws(out: Artifact, config: RunConfig) -> StageResult:
    """A picture."""

    def make(staged: Staged, _: str) -> None:
        (staged.out / "0.png").write_text("drawn")

    return run_stage(DRAW, out, config, make)


@task(name="curate", **OPTIONS)
def judges(out: Artifact, config: RunConfig, drawn: Artifact) -> StageResult:
    """A table that names the picture where it lies."""

    def make(staged: Staged, _: str) -> None:
        image = os.path.relpath(drawn.path / "0.png", out.path)
        pd.DataFrame({"image_path": [image]}).to_parquet(staged.out / "pairs.parquet")

    return run_stage(JUDGE, out, config, make)


@task(name="quality", **OPTIONS)
def measures(out: Artifact, config: RunConfig, pairs: Artifact) -> StageResult:
    """What stands in the picture that the table names."""

    def make(staged: Staged, _: str) -> None:
        image = pd.read_parquet(pairs.path / "pairs.parquet")["image_path"][0]
        (staged.out / "found").write_text((pairs.path / image).read_text())

    return run_stage(MEASURE, out, config, make)


def calls(config: RunConfig, number: int) -> tuple[Call, Call, Call]:
    drawing = Call(DRAW, draws, config, DRAW.plan(config.store, "bolt", number=number), {})
    judged = JUDGE.plan(config.store, "bolt", pairs=[drawing.out])
    measured = MEASURE.plan(config.store, "bolt", pairs=judged)
    return (
        drawing,
        Call(JUDGE, judges, config, judged, {"drawn": drawing.out}),
        Call(MEASURE, measures, config, measured, {"pairs": judged}),
    )


@flow
def first_stages(config: RunConfig, count: int) -> None:
    for number in range(count):
        drawing, judging, _ = calls(config, number)
        assert {run(drawing).outcome.status, run(judging).outcome.status} == {"ran"}


@flow
def last_stages(config: RunConfig, count: int) -> list[StageOutcome]:
    with stages_run_by(config):
        started = [run(calls(config, number)[2]) for number in range(count)]
        return [each.outcome for each in started]


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture
def made(
    server: dict[str, str], yaml_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunConfig:
    """All but the last stages made by one machine; the configuration as the next one has it, with an empty folder."""
    speak_to(server, monkeypatch)
    place._file_system(URL)[0].invalidate_cache()
    if not place._file_system("s3://")[0].exists("inputs"):
        make_bucket("inputs")
    monkeypatch.setenv("ANODIFF_CACHE", str(tmp_path / "one"))
    first_stages(load_config(yaml_file, store=URL), 4)
    monkeypatch.setenv("ANODIFF_CACHE", str(tmp_path / "two"))
    return load_config(yaml_file, store=URL)


@pytest.fixture(autouse=True)
def _empty_bucket(server: dict[str, str]) -> Iterator[None]:
    yield
    fs, root = place._file_system(URL)
    if fs.exists(root):
        fs.rm(root, recursive=True)


def test_a_machine_that_runs_the_last_stages_alone_fetches_what_they_read(made: RunConfig) -> None:
    assert {each.status for each in last_stages(made, 1)} == {"ran"}
    drawing, judging, measuring = (each.out for each in calls(made, 0))
    assert (measuring.path / "found").read_text() == "drawn"
    assert drawing.path.is_dir(), "files that its input's table names are fetched, too"
    assert judging.path.is_relative_to(made.store)


def test_what_is_damaged_here_is_fetched_anew_and_what_is_nowhere_is_said_before_anything_is_made(
    made: RunConfig,
) -> None:
    assert last_stages(made, 1)[0].status == "ran"
    drawing, _, measuring = (each.out for each in calls(made, 0))
    (drawing.path / "0.png").write_text("DRAWN")
    shutil.rmtree(measuring.path)
    place.delete(place.remote_of(made.store), f"artifacts/{measuring.ref}")  # type: ignore[arg-type]
    assert last_stages(made, 1)[0].status == "ran"
    assert (measuring.path / "found").read_text() == "drawn"

    gone, _, lacking = (each.out for each in calls(made, 1))
    place.delete(place.remote_of(made.store), f"artifacts/{gone.ref}")  # type: ignore[arg-type]
    found = last_stages(made, 2)[1]
    assert found.status == "failed"
    assert "generate bolt" in str(found.error)
    assert "the same `anodiff run` makes it again" in str(found.error)
    assert not verified(lacking)


@pytest.mark.stack
def test_dask_workers_with_folders_of_their_own_fetch_what_their_stages_read(
    made: RunConfig, tmp_path: Path
) -> None:
    distributed = pytest.importorskip("distributed")
    workers = {
        name: {
            "cls": distributed.Nanny,
            "options": {"nthreads": 1, "env": {"ANODIFF_CACHE": str(tmp_path / name)}},
        }
        for name in ("three", "four")
    }
    scheduler = {"cls": distributed.Scheduler, "options": {"dashboard_address": None}}
    with distributed.SpecCluster(workers, scheduler) as cluster:
        config = made.model_copy(
            update={"runner": "dask", "workers": 2, "dask_scheduler": cluster.scheduler_address}
        )
        assert [each.status for each in last_stages(config, 4)] == ["ran"] * 4
    for name in ("three", "four"):
        drawn = list((tmp_path / name).glob("*/artifacts/generate/bolt/*/0.png"))
        assert drawn, f"worker {name} ran no stage, or fetched nothing"
    assert not list(made.store.glob("artifacts/generate/*/*/0.png")), "the run's own process reads none of it"


def test_a_stage_is_not_called_with_what_its_key_does_not_know(config: RunConfig) -> None:
    drawing, judging, _ = calls(config, 0)
    other = calls(config, 1)[0].out
    with pytest.raises(ValueError, match=f"stage curate: drawn is {other.ref}, which its key does not know"):
        Call(JUDGE, judges, config, judging.out, {"drawn": other})
    with pytest.raises(ValueError, match="stage generate: side is 7, which its key does not know"):
        Call(DRAW, draws, config, drawing.out, {"side": 7})
    Call(DRAW, draws, config, drawing.out, {"side": 7}, beside_key=("side",))
