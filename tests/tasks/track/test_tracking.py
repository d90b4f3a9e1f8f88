"""Finished runs in MLflow: each once, whatever was interrupted, and a server that is down costs a run nothing."""

import shutil
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.augmentation import COMMAND_LINE
from tasks.config import RunConfig, TrackConfig, load_config
from tasks.errors import AnodiffError, ConfigError
from tasks.report.run_folder import RunSummary
from tasks.runs.ended import find_run
from tasks.track.mlflow_log import log_run, sync_run, sync_runs
from tasks.track.record import CURVE_POINTS, records_of
from tasks.track.tracking import DATABASE, PROBE_S, TRACKED, destination, track_run, tracked_as, why_silent
from tests.tasks.finished_runs import config_of, finished_run


@pytest.fixture(autouse=True)
def _no_server_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database as it is at first use, which takes seconds to make."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / DATABASE
    MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture
def with_database(config: RunConfig, empty_database: Path) -> None:
    config.store.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(empty_database, config.store / DATABASE)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return config_of(tmp_path / "store", "compare.models=[localize, classify]", "compare.seeds=[0, 1]")


@pytest.fixture
def summary(config: RunConfig) -> RunSummary:
    return finished_run(config, categories=("bolt", "nut"), failed=True)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def asked(database: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(database) as connection:
        return connection.execute(query).fetchall()


def test_figures_have_names_that_are_the_same_for_every_run(summary: RunSummary) -> None:
    whole, bolt, nut = records_of(find_run(summary.folder.parents[1], summary.run))
    metrics = summary.metrics
    shown = metrics[
        (metrics["metric"] == "pixel_ap")
        & (metrics["defect_type"] == "all")
        & (metrics["size"] == "all")
        & (metrics["training_set"] == "generated")
    ]
    of_bolt = shown.loc[shown["category"] == "bolt", "value"]
    assert len(of_bolt) == 2, "two seeds"
    assert bolt.metrics["localize/generated/pixel_ap"] == pytest.approx(of_bolt.mean())
    assert whole.metrics["localize/generated/pixel_ap"] == pytest.approx(shown["value"].mean())
    lift = summary.lift[(summary.lift["category"] == "nut") & (summary.lift["metric"] == "pixel_ap")]
    (row,) = lift[lift["training_set"] == "generated"].to_dict("records")
    assert nut.metrics["lift/localize/generated/over_real/pixel_ap"] == row["difference"]
    assert nut.metrics["lift/localize/generated/over_real/pixel_ap_low"] == row["low"]
    assert bolt.metrics["pairs/crack/pass_rate"] == 0.75
    assert bolt.metrics["quality/crack/coverage"] == 0.5
    assert {
        "classify/real/accuracy",
        "classify/real/crack/recall",
        "seconds/localize",
        "memory_gb/localize",
    } <= set(bolt.metrics)
    assert (whole.state, bolt.state, nut.state) == ("FAILED", "FAILED", "FINISHED")
    assert "finetune bolt/stain: no memory" in whole.tags["mlflow.note.content"]
    assert whole.params["finetune.train_steps"] == str(
        find_run(summary.folder.parents[1], summary.run).config.finetune.train_steps
    )
    loss = bolt.curves["training/finetune/crack/loss"]
    assert len(loss) <= CURVE_POINTS
    assert loss[-1] == (300, 0.0)
    assert {
        "confusion/real.png",
        "confusion/real.csv",
        "curves/localize.png",
        "sheets/bolt-crack.png",
    } <= set(bolt.files)
    assert whole.data == {"bolt": "d" * 64, "nut": "d" * 64}


def test_a_run_is_logged_once_nested_by_category_and_its_store_can_be_moved(
    summary: RunSummary, tmp_path: Path
) -> None:
    store = summary.folder.parents[1]
    run = find_run(store, summary.run)
    to = destination(store, TrackConfig())
    run_id, new = sync_run(run, to)
    assert new
    assert sync_run(run, to) == (run_id, False)
    (run.folder / TRACKED).unlink()  # as on another machine: MLflow itself knows
    assert sync_run(run, to) == (run_id, False)
    assert tracked_as(run.folder, to) == run_id
    assert str(tmp_path) not in (run.folder / TRACKED).read_text()

    runs = set(asked(store / DATABASE, "select name, status from runs"))
    names = [summary.run, f"bolt {summary.run}", f"nut {summary.run}"]
    assert runs == set(zip(names, ("FAILED", "FAILED", "FINISHED"), strict=True))
    parents = asked(store / DATABASE, "select value from tags where key = 'mlflow.parentRunId'")
    assert parents == [(run_id,), (run_id,)]
    assert asked(store / DATABASE, "select count(*) from datasets") == [(2,)]
    everything = asked(store / DATABASE, "select artifact_uri from runs")
    assert all(str(uri).startswith("mlflow-artifacts:/") for (uri,) in everything)

    moved = store.rename(tmp_path / "moved")
    again = finished_run(config_of(moved), day=2)
    sync_run(find_run(moved, again.run), destination(moved, TrackConfig()))
    assert not store.exists()
    sheets = list((moved / "mlflow-artifacts").glob("*/artifacts/sheets/*.png"))
    assert len(sheets) == 3


@pytest.mark.usefixtures("with_database")
def test_what_was_interrupted_is_completed_in_the_same_mlflow_run(summary: RunSummary) -> None:
    from mlflow import MlflowClient

    store = summary.folder.parents[1]
    to = destination(store, TrackConfig())
    client = MlflowClient(to.uri)
    experiment = client.create_experiment("anodiff", "mlflow-artifacts:/")
    begun = client.create_run(experiment, tags={"anodiff.run": summary.run}, run_name=summary.run)
    client.log_metric(begun.info.run_id, "seconds/run", 1.0)
    run = find_run(store, summary.run)
    assert log_run(run, to) == (begun.info.run_id, True)
    assert log_run(run, to) == (begun.info.run_id, False)
    assert asked(store / DATABASE, "select count(*) from runs") == [(3,)]
    assert client.get_run(begun.info.run_id).info.status == "FAILED"


@pytest.mark.usefixtures("with_database")
def test_all_runs_of_a_store_are_synced_but_those_that_want_no_tracking(config: RunConfig) -> None:
    logged = [finished_run(config, day=day).run for day in (1, 2)]
    unwanted = finished_run(
        config.model_copy(update={"track": TrackConfig(enabled=False)}), day=3, contrast=0.4
    ).run
    broken = finished_run(config, day=4)
    (broken.folder / "metrics.parquet").write_bytes(b"no table")
    done = {each.run: each for each in sync_runs(config.store, ())}
    assert {name for name, each in done.items() if each.new} == set(logged)
    assert unwanted not in done
    assert done[broken.run].error
    again = {each.run: (each.new, each.error == "") for each in sync_runs(config.store, (unwanted, *logged))}
    assert again == {unwanted: (True, True), logged[0]: (False, True), logged[1]: (False, True)}


def test_a_server_that_is_down_or_hangs_costs_a_run_seconds_and_a_warning(
    config: RunConfig, said: list[str], silent_server: str
) -> None:
    # Port 9, at which nobody listens.
    for uri in (silent_server, "http://127.0.0.1:9"):
        summary = finished_run(config, day=2)
        began = time.monotonic()
        track_run(config.model_copy(update={"track": TrackConfig(uri=uri)}), summary.folder, COMMAND_LINE)
        assert time.monotonic() - began < PROBE_S + 1
        assert said[-1].startswith(f"run {summary.run}: not tracked, {uri}: ")
        assert said[-1].endswith(f"later: anodiff track sync {summary.run} --store {config.store}")
        assert not (summary.folder / TRACKED).exists()
        (found,) = sync_runs(config.store, (summary.run,), uri)
        assert "start the server, or name another with --uri" in found.error


def test_without_mlflow_one_line_says_so_and_sync_how_to_get_it(
    config: RunConfig, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as where it is not installed
    summary = finished_run(config)
    said.clear()
    track_run(config, summary.folder, COMMAND_LINE)
    assert said == ["not tracked: mlflow is not installed (pip install 'dualanodiff[tracking]')"]
    with pytest.raises(AnodiffError, match="mlflow is not installed: pip install"):
        log_run(find_run(config.store, summary.run), destination(config.store, TrackConfig()))
    said.clear()
    track_run(config.model_copy(update={"track": TrackConfig(enabled=False)}), summary.folder, COMMAND_LINE)
    assert said == []


def test_where_runs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = destination(tmp_path, TrackConfig())
    assert (own.name, own.artifacts) == (DATABASE, tmp_path / "mlflow-artifacts")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow:5000/")
    theirs = destination(tmp_path, TrackConfig())
    assert (theirs.uri, theirs.name) == ("http://me:secret@mlflow:5000", "http://mlflow:5000")
    assert theirs.artifacts is None
    assert destination(tmp_path, TrackConfig(uri="http://a:1")).name == "http://a:1"
    named = destination(tmp_path, TrackConfig(uri="http://a:1"), f"sqlite:///{tmp_path}/other.db")
    assert named.artifacts == tmp_path / "mlflow-artifacts"
    assert why_silent(named) is None
    with pytest.raises(ConfigError, match=r"track\.uri: .*MLFLOW_TRACKING_PASSWORD"):
        load_config("demo", ["track.uri=http://me:secret@mlflow:5000"], data=tmp_path)


@pytest.mark.usefixtures("with_database")
def test_a_category_may_be_called_anything(config: RunConfig) -> None:
    name = "Blech 3+4: 'grün'"
    summary = finished_run(config, categories=(name,))
    run = find_run(config.store, summary.run)
    run_id, _ = sync_run(run, destination(config.store, TrackConfig()))
    assert run_id
    found = asked(config.store / DATABASE, "select value from tags where key = 'anodiff.category'")
    assert found == [(name,)]
