"""`anodiff deploy`: a schedule of a real server starts a run, a real worker does it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from flows.cli import app
from flows.deployments import with_absolute_paths
from tasks.config import RunConfig, load_config
from tasks.runs.ended import find_run
from tests.services import answer_of, clean_env, free_port, service, tail, wait_until

PREFECT = [sys.executable, "-m", "prefect"]
RUN_TIMEOUT_S = 150


@pytest.fixture(scope="session", autouse=True)
def _prefect_server() -> None:
    """None in this process: the servers here are processes of their own."""


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a shell has exported that is to talk to a server just started."""
    home = tmp_path_factory.mktemp("prefect")
    (home / "tmp").mkdir()  # the device's lock files lie there: not those of real runs on this machine
    port, log = free_port(), home / "server.log"
    url = f"http://127.0.0.1:{port}/api"
    env = clean_env(
        PREFECT_HOME=str(home),
        PREFECT_API_URL=url,
        PREFECT_WORKER_QUERY_SECONDS="2",
        TMPDIR=str(home / "tmp"),
        OMP_NUM_THREADS="1",
    )
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with service(command, env, log, home) as process:
        answer_of(f"{url}/health", process, log)
        yield env


def deploy(env: dict[str, str], cwd: Path, *options: str) -> str:
    command = [sys.executable, "-m", "flows.cli", "deploy", *options]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def post(env: dict[str, str], path: str, **body: Any) -> Any:
    answer = httpx.post(f"{env['PREFECT_API_URL']}/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def deployments(env: dict[str, str]) -> dict[str, Any]:
    return {each["name"]: each for each in post(env, "deployments/filter")}


@pytest.mark.stack
@pytest.mark.timeout(600)
def test_the_schedule_starts_a_run_on_a_worker_elsewhere(
    env: dict[str, str], yaml_file: Path, tmp_path: Path
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    started = time.monotonic()
    said = deploy(
        env, here, "--config", str(yaml_file), "--data", "/no/such/folder", "--work-pool", "night",
        "--cron", "0 2 * * 6", "--timezone", "Europe/Berlin",
    )  # fmt: skip
    took_s = time.monotonic() - started
    assert "/no/such/folder: not on this machine" in said
    assert "augmentation/full  at 0 2 * * 6 (Europe/Berlin)" in said
    assert "prefect worker start --pool night --type process" in said
    the_form_is_the_config(env)
    runs = deployments(env)["runs"]
    assert runs["entrypoint"] == "flows.comparison.compare"
    assert runs["parameters"] == {"store": str(here / ".anodiff" / "store"), "runs": []}
    assert runs["parameter_openapi_schema"]["properties"]["runs"]["items"] == {"type": "string"}

    changes = ["objects.kind=texture", "compare.training_sets=[real]"]
    small = ["--config", str(yaml_file), "--store", "store", "--defects", "dent"]
    small += [f"--set={change}" for change in changes]
    soon = datetime.now(UTC) + timedelta(seconds=2 * took_s + 10)  # after the next deployment, once
    cron = f"{soon.minute} {soon.hour} * * * {soon.second}"
    deploy(env, here, *small, "--cron", cron)
    full, one = (deployments(env)[name] for name in ("full", "one"))
    assert (full["entrypoint"], full["work_pool_name"]) == ("flows.augmentation.augment", "anodiff")
    assert full["tags"] == ["anodiff", "tiny", "bolt"]
    assert [each["schedule"]["cron"] for each in full["schedules"]] == [cron]
    assert not one["schedules"]
    config = load_config(yaml_file, changes, store=here / "store", defects=("dent",))
    assert full["parameters"] == one["parameters"] == {"config": config.model_dump(mode="json")}
    limit = httpx.get(f"{env['PREFECT_API_URL']}/v2/concurrency_limits/gpu").json()
    assert limit["limit"] == 1

    def ended() -> list[dict[str, Any]]:
        runs = post(env, "flow_runs/filter", deployments={"id": {"any_": [full["id"]]}})
        return [run for run in runs if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]

    log = tmp_path / "worker.log"
    command = [*PREFECT, "worker", "start", "--pool", "anodiff", "--type", "process", "--limit", "1"]
    with service(command, env, log, elsewhere):
        wait_until(lambda: bool(ended()), RUN_TIMEOUT_S, lambda: f"no run has ended:\n{tail(log)}")
        (run,) = ended()
        assert run["state_type"] == "COMPLETED", f"{run['state']['message']}\n{tail(log)}"
        assert run["auto_scheduled"]
        assert run["created_by"]["type"] == "SCHEDULE"
        assert not list(elsewhere.iterdir())
        made = find_run(here / "store", "latest")
        assert made.state == "completed"
        assert {stage.stage for stage in made.stages} >= {"prepare", "finetune", "generate", "localize"}
        assert (made.folder / "metrics.parquet").is_file()

        command = [*PREFECT, "deployment", "run", "comparison/runs", "--watch"]
        alone = subprocess.run(
            command, env=env, cwd=elsewhere, capture_output=True, text=True, timeout=RUN_TIMEOUT_S
        )
        assert alone.returncode != 0, "one run ended, two are compared"

        command = [*PREFECT, "deployment", "run", "category/one", "--param", "category=bolt", "--watch"]
        with subprocess.Popen(command, env=env, cwd=elsewhere) as watching:
            deploy(env, here, *small)
            assert not deployments(env)["full"]["schedules"], "no --cron, so no schedule from now on"
            assert watching.wait(RUN_TIMEOUT_S) == 0, tail(log)


def the_form_is_the_config(env: dict[str, str]) -> None:
    """The UI draws it from a JSON schema, and the server checks what it sends before a worker sees it."""
    one = deployments(env)["one"]
    assert one["work_pool_name"] == "night"
    assert httpx.get(f"{env['PREFECT_API_URL']}/work_pools/night").json()["type"] == "process"
    config, form = one["parameters"]["config"], one["parameter_openapi_schema"]
    assert config["data"] == "/no/such/folder"
    assert form["required"] == ["config", "category"]
    assert form["properties"]["category"]["position"] < form["properties"]["config"]["position"]
    steps = form["definitions"]["FinetuneConfig"]["properties"]["train_steps"]
    assert steps["type"] == "integer"
    assert steps["description"]
    wrong = {**config, "finetune": {**config["finetune"], "train_steps": "many"}}
    for sent, status in ((config, 201), (wrong, 409)):
        answer = httpx.post(
            f"{env['PREFECT_API_URL']}/deployments/{one['id']}/create_flow_run",
            json={"parameters": {"config": sent, "category": "bolt"}, "state": {"type": "SCHEDULED"}},
        )
        assert answer.status_code == status, answer.text
    assert "many" in answer.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cron", "at night"], "--cron 'at night': cannot be read"),
        (["--cron", "0 2 * * 6", "--timezone", "Berlin"], "--timezone 'Berlin': cannot be read"),
        (["--categories", "bolts"], "no category bolts; found: bolt, nut"),
        (["--set", "finetune.steps=1"], "finetune.steps: unknown key"),
    ],
)
def test_what_cannot_be_deployed_is_refused_in_one_message(
    options: list[str], message: str, yaml_file: Path
) -> None:
    result = CliRunner().invoke(app, ["deploy", "--config", str(yaml_file), *options])
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("url", "message"),
    # Port 9, at which nobody listens: a free one would differ between the suite's processes.
    [(None, "which Prefect server?"), ("http://127.0.0.1:9/api", "does not answer")],
)
def test_without_a_server_it_says_how_to_have_one(url: str | None, message: str, yaml_file: Path) -> None:
    with temporary_settings({PREFECT_API_URL: url}):
        result = CliRunner().invoke(app, ["deploy", "--config", str(yaml_file)])
    assert result.exit_code == 2
    assert message in result.output
    assert "prefect server start" in result.output


def test_folders_become_absolute_and_names_stay(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANODIFF_CACHE", str(tmp_path / "cache"))
    for folder in ("mini", "base", "imagenet"):
        (tmp_path / folder).mkdir()
    found = with_absolute_paths(
        RunConfig.model_validate(
            {
                "data": "data",
                "store": "store",
                "finetune": {"base": "base"},
                "localize": {"encoder": "imagenet"},
                "classify": {"encoder": "resnet34"},
                "objects": {"masks": "masks"},
            }
        )
    )
    assert (found.data, found.store) == (tmp_path / "data", tmp_path / "store")
    assert found.finetune.base == str(tmp_path / "base")
    assert found.objects.masks == tmp_path / "masks"
    assert (found.localize.encoder, found.classify.encoder) == ("imagenet", "resnet34")
    assert with_absolute_paths(config).finetune == config.finetune
    assert with_absolute_paths(RunConfig.model_validate({"data": "data"})).finetune.base == "mini"
    elsewhere = RunConfig.model_validate({"data": "data", "store": "s3://bucket/store"})
    assert with_absolute_paths(elsewhere).model_dump(mode="json")["store"] == "s3://bucket/store"
