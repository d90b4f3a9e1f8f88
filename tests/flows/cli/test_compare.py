"""`anodiff compare` and its deployment's flow: tables, files and JSON of the same figures, refusals with their reason."""

import json
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from typer.testing import CliRunner

from flows.cli import app
from flows.comparison import compare
from tasks.report.run_folder import RunSummary
from tests.tasks.finished_runs import config_of, finished_run, pictures_to_test


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def runs(store: Path) -> list[RunSummary]:
    """Two to compare, and one that was tested on other pictures of one category."""
    config = config_of(store)
    first = finished_run(config, categories=("bolt", "nut"))
    second = finished_run(config, day=2, contrast=0.5, categories=("bolt", "nut"))
    fewer = pictures_to_test().but(1)
    return [first, second, finished_run(config_of(store, "split.shots=3"), fewer, day=3)]


def invoke(*arguments: object, expected: int = 0) -> str:
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)], env={"COLUMNS": "220"})
    assert result.exit_code == expected, result.output
    return result.stdout if expected == 0 else " ".join(result.output.split())


def test_runs_are_told_side_by_side_and_what_is_not_compared_with_its_reason(
    runs: list[RunSummary], store: Path, tmp_path: Path
) -> None:
    names = [each.run for each in runs]
    files = {ending: tmp_path / f"a.{ending}" for ending in ("csv", "parquet", "html")}
    options = [f"--{ending}={path}" for ending, path in files.items()]
    said = invoke(*names, "--store", store, "--resamples", 100, *options)
    for text in (
        *names,
        "helps",
        "Not compared",
        "Best and worst categories",
        "split.shots",
        "Each interval is of one",
    ):
        assert text in said, text
    assert "AUPRO" in said
    assert "escapes" not in said
    assert "escapes" in invoke(*names[:2], "--store", store, "--resamples", 100, "--metrics", "escape_rate")
    for path in files.values():
        assert path.stat().st_size > 1000


def test_json_alone_is_on_stdout(runs: list[RunSummary], store: Path) -> None:
    document = json.loads(invoke(runs[0].run, runs[1].run, "--store", store, "--resamples", 100, "--json"))
    assert document["runs"] == [runs[0].run, runs[1].run]
    helped = [each for each in document["figures"] if each["verdict"] == "helps"]
    assert {each["category"] for each in helped} == {"bolt", "nut"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["2020", "latest"], "no run '2020'"),
        (["latest"], "name another one"),
        (["--csv", "a.txt"], "name it a.csv"),
    ],
)
@pytest.mark.usefixtures("runs")
def test_what_cannot_be_compared_is_refused_in_one_message(
    arguments: list[str], message: str, store: Path
) -> None:
    assert message in invoke(*arguments, "--store", store, expected=2)


@pytest.mark.usefixtures("users_server")
def test_the_flow_compares_the_last_two_and_shows_them_in_prefects_ui(
    runs: list[RunSummary], store: Path
) -> None:
    compare(store=str(store), runs=[runs[0].run, runs[1].run])
    with get_client(sync_client=True) as client:
        found = {}
        for key in ("comparison-figures", "comparison-summary"):
            wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
            found[key] = client.read_artifacts(
                artifact_filter=wanted, limit=1, sort=ArtifactSort.CREATED_DESC
            )[0]
    rows = json.loads(str(found["comparison-figures"].data))
    assert {row["run"] for row in rows} == {runs[0].run, runs[1].run}
    assert any(row["verdict"] == "helps" for row in rows)
    assert f"against {runs[0].run}" in str(found["comparison-summary"].data)
    form = (
        compare.parameters.model_dump()
        if hasattr(compare.parameters, "model_dump")
        else dict(compare.parameters)
    )
    assert form["required"] == ["store"]
    assert form["properties"]["runs"]["items"] == {"type": "string"}
