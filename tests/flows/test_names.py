"""Any name that a file system can hold goes through a run, on a server of the user's too; showing fails nothing."""

import shutil
import unicodedata
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from tasks.config import RunConfig
from tasks.store.artifacts import Artifact
from tests.flows.running import block, run, statuses
from tests.tasks.data_folders import healthy_category

NAME, DEFECT = "Öse {0} {x.y} [b]", "bent wire [red] 100%"


@pytest.fixture
def named(config: RunConfig, tmp_path: Path) -> RunConfig:
    """A category and a defect type whose names templates, markup and keys trip over; the folder's as macOS stores it."""
    folder = healthy_category(
        tmp_path / "data" / unicodedata.normalize("NFD", NAME), normals=6, tests=2, defects=3
    )
    for kind in ("test", "ground_truth"):
        (folder / kind / "dent").rename(folder / kind / DEFECT)
        for path in (folder / kind / "stain").iterdir():
            path.unlink()
        (folder / kind / "stain").rmdir()
    return config.model_copy(update={"data": tmp_path / "data", "categories": (NAME,)})


@pytest.mark.usefixtures("users_server")
def test_a_run_with_odd_names_on_the_users_server_and_a_page_that_cannot_be_drawn(named: RunConfig) -> None:
    summary = run(named)
    assert summary.state == "completed", [each.error for each in summary.stages]
    assert f"finetune {NAME}/{DEFECT}" in statuses(summary)
    assert NAME in (summary.folder / "report.html").read_text()
    with get_client(sync_client=True) as client:
        keys = {each.key for each in client.read_artifacts(limit=200)}
        names = {each.name for each in client.read_task_runs(limit=200)}
    assert {key for key in keys if key and key.startswith("ose-0-x-y-b-bent-wire-red-100")}
    assert f"finetune {NAME}/{DEFECT}" in names

    # A page that cannot be drawn fails nothing, and the same command draws it once it can.
    (drawn,) = [each for each in summary.stages if each.stage == "page"]
    assert drawn.artifact is not None
    shutil.rmtree(named.store / "artifacts" / drawn.artifact)
    stage, category, digest = drawn.artifact.split("/")
    in_the_way = block(Artifact(named.store, stage, category, digest, category, inputs={}))
    second = run(named)
    assert second.state == "completed"
    (page,) = [each for each in second.stages if each.stage == "page"]
    assert page.status == "left out"
    assert "the same command tries again" in str(page.error)
    assert {each.status for each in second.stages if each.stage != "page"} == {"cached"}
    in_the_way.unlink()
    (page,) = [each for each in run(named).stages if each.stage == "page"]
    assert page.status == "ran"
