"""`anodiff track`: a run's own process logs it, a real server takes it, and what is there is not logged again."""

import json
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from flows.augmentation import COMMAND_LINE
from flows.cli import app
from tasks.config import RunConfig, TrackConfig
from tasks.report.run_folder import RunSummary
from tasks.track.tracking import TRACK_LOG, TRACKED, track_run
from tests.services import answer_of, clean_env, free_port, service
from tests.tasks.finished_runs import config_of, finished_run


@pytest.fixture(scope="session", autouse=True)
def _prefect_server() -> None:
    """None: nothing here asks Prefect."""


@pytest.fixture(autouse=True)
def _no_server_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return config_of(tmp_path / "store")


def track(config: RunConfig, *arguments: str, expected: int = 0) -> str:
    """The command's output, in one line."""
    result = CliRunner().invoke(app, ["track", *arguments, "--store", str(config.store)])
    assert result.exit_code == expected, result.output
    return " ".join(result.output.split())


def tracked(summary: RunSummary) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((summary.folder / TRACKED).read_text())
    return found


def test_a_run_is_logged_by_a_process_of_its_own_and_then_known(config: RunConfig) -> None:
    summary = finished_run(config)
    waiting = config.model_copy(update={"track": TrackConfig(wait_s=280)})
    track_run(waiting, summary.folder, COMMAND_LINE)
    said = (summary.folder / TRACK_LOG).read_text()
    assert f"{summary.run}: logged: {config.store / 'mlflow.db'}" in said.replace("\n", "")
    assert "Traceback" not in said
    run_id = tracked(summary)["mlflow.db"]["run_id"]
    assert "1 runs were there already" in track(config, "sync")
    assert f"is there already: {config.store / 'mlflow.db'}, run {run_id}" in track(config, "sync", "latest")


def test_a_run_that_cannot_be_synced_is_named_and_the_command_fails(config: RunConfig) -> None:
    summary = finished_run(config)
    output = track(config, "sync", "--uri", "http://127.0.0.1:9", expected=1)
    assert summary.run in output
    assert "start the server, or name another with --uri" in output
    assert "no run '2020'" in track(config, "sync", "2020", expected=1)
    assert "no run is tracked there yet" in track(config, "ui", expected=1)
    assert "the server's own page: http://127.0.0.1:9" in track(config, "ui", "--uri", "http://127.0.0.1:9")


@pytest.mark.stack
def test_a_real_server_takes_runs_and_their_files(config: RunConfig, tmp_path: Path) -> None:
    first = finished_run(config, categories=("bolt", "nut"))
    port, log = free_port(), tmp_path / "mlflow.log"
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with service(command, clean_env(MLFLOW_DISABLE_TELEMETRY="true"), log, tmp_path) as process:
        answer_of(f"{url}/health", process, log)
        assert "logged" in track(config, "sync", "--uri", url)
        waiting = config.model_copy(update={"track": TrackConfig(uri=url, wait_s=280)})
        second = finished_run(waiting, day=2, contrast=0.5)
        track_run(waiting, second.folder, COMMAND_LINE)
        assert set(tracked(first)) == set(tracked(second)) == {url}
        assert not (config.store / "mlflow.db").exists()

        api = f"{url}/api/2.0/mlflow"
        found = httpx.get(f"{api}/experiments/get-by-name", params={"experiment_name": "anodiff"}).json()
        body = {"experiment_ids": [found["experiment"]["experiment_id"]], "max_results": 100}
        runs = httpx.post(f"{api}/runs/search", json=body).json()["runs"]
        wanted = {first.run, f"bolt {first.run}", f"nut {first.run}", second.run, f"bolt {second.run}"}
        assert sorted(each["info"]["run_name"] for each in runs) == sorted(wanted)
        for summary in (first, second):
            run_id = tracked(summary)[url]["run_id"]
            of_run = httpx.get(f"{api}/runs/get", params={"run_id": run_id}).json()["run"]
            assert of_run["info"]["status"] == "FINISHED"
            assert {"localize/generated/pixel_ap", "lift/localize/generated/over_real/pixel_ap"} <= {
                each["key"] for each in of_run["data"]["metrics"]
            }
            file = httpx.get(f"{url}/get-artifact", params={"run_uuid": run_id, "path": "run.json"})
            assert file.json()["run"] == summary.run
        assert "2 runs were there already" in track(config, "sync", "--uri", url)
