"""Two workers that share a Prefect server and an S3 store, and nothing else: no stage runs twice."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tasks.runs.ended import find_run, run_names
from tasks.store.place import open_store
from tests.flows.cli.test_deploy import (
    PREFECT,
    RUN_TIMEOUT_S,
    _prefect_server,
    deploy,
    deployments,
    env,
    post,
)
from tests.s3 import make_bucket, s3_server, speak_to
from tests.services import service, tail, wait_until

__all__ = ["_prefect_server", "env"]  # fixtures: a server of its own, none in this process


@pytest.mark.stack
@pytest.mark.timeout(900)
def test_two_workers_share_the_stages_of_two_equal_runs(
    env: dict[str, str], yaml_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        s3 = stack.enter_context(s3_server())
        speak_to(s3, monkeypatch)
        make_bucket("two-workers")
        store = "s3://two-workers/store"
        shared = env | s3
        changes = ["objects.kind=texture", "compare.training_sets=[real]"]
        options = ["--config", str(yaml_file), "--store", store, "--defects", "dent"]
        deploy(
            shared | {"ANODIFF_CACHE": str(tmp_path / "deploy")},
            tmp_path,
            *options,
            *(f"--set={change}" for change in changes),
        )
        logs = []
        for name in ("east", "west"):
            own = tmp_path / name
            for folder in ("work", "cache", "tmp", "prefect"):
                (own / folder).mkdir(parents=True)
            alone = {
                "ANODIFF_CACHE": str(own / "cache"),
                "TMPDIR": str(own / "tmp"),  # no lock file of the other is seen
                "PREFECT_HOME": str(own / "prefect"),
            }
            command = [*PREFECT, "worker", "start", "--pool", "anodiff", "--type", "process", "--limit", "1"]
            logs.append(own / "worker.log")
            stack.enter_context(service([*command, "--name", name], shared | alone, logs[-1], own / "work"))
        full = deployments(env)["full"]["id"]
        for _ in range(2):
            post_run(env, full)

        def ended() -> list[dict[str, object]]:
            runs = post(env, "flow_runs/filter", deployments={"id": {"any_": [full]}})
            return [run for run in runs if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]

        wait_until(lambda: len(ended()) == 2, 3 * RUN_TIMEOUT_S, lambda: "\n".join(map(tail, logs)))
        assert [run["state_type"] for run in ended()] == ["COMPLETED"] * 2, "\n".join(map(tail, logs))
        for log in logs:
            assert "submitting flow run" in log.read_text(), "one worker did all"

        monkeypatch.setenv("ANODIFF_CACHE", str(tmp_path / "looking"))
        here = open_store(store)
        first, second = (find_run(here, name) for name in run_names(here))
        by_label = [{f"{s.stage} {s.label}": s for s in run.stages} for run in (first, second)]
        assert by_label[0].keys() == by_label[1].keys()
        for label, stage in by_label[0].items():
            other = by_label[1][label]
            assert stage.artifact == other.artifact
            assert sorted([stage.status, other.status]) == ["cached", "ran"], label
        assert {"finetune bolt/dent", "generate bolt/dent", "localize bolt/real/seed 0"} <= by_label[0].keys()


def post_run(env: dict[str, str], deployment: str) -> None:
    answer = httpx.post(f"{env['PREFECT_API_URL']}/deployments/{deployment}/create_flow_run", json={})
    assert answer.status_code == 201, answer.text


@pytest.mark.stack
def test_two_runs_at_once_on_one_machine_share_their_stages(yaml_file: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-m", "flows.cli", "run", "--config", str(yaml_file), "--store", str(store)]
    # The second has a defect type more: what both need is made once, the rest by who needs it.
    wanted = ["--set=compare.training_sets=[real]"]
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    # The device's lock file is theirs alone: not that of real runs on this machine.
    own = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with logs[0].open("w") as one, logs[1].open("w") as two:
        both = [
            subprocess.Popen([*command, *wanted, "--defects", "dent"], env=own, stdout=one, stderr=one),
            subprocess.Popen([*command, *wanted], env=own, stdout=two, stderr=two),
        ]
        assert [each.wait() for each in both] == [0, 0], "\n".join(map(tail, logs))
    runs = [find_run(store, name) for name in run_names(store)]
    made: dict[str, list[str]] = {}
    for run in runs:
        for stage in run.stages:
            assert stage.artifact is not None
            made.setdefault(stage.artifact, []).append(stage.status)
    shared = [sorted(statuses) for statuses in made.values() if len(statuses) == 2]
    assert len(shared) >= 6
    assert all(statuses == ["cached", "ran"] for statuses in shared), made
    assert all(statuses.count("ran") == 1 for statuses in made.values()), made
