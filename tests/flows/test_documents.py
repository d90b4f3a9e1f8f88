"""What a run and its store say to other programs: documents of one run, under the names that the docs promise."""

import json

from typer.testing import CliRunner

from flows.cli import app
from flows.documents import summary_document
from tasks.config import RunConfig
from tests.flows.running import run


def told_by(*words: str) -> dict[str, object]:
    """A command's document."""
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def test_a_run_is_told_alike_by_every_command(config: RunConfig) -> None:
    summary = run(config)
    told = json.loads(json.dumps(summary_document(summary), allow_nan=False))
    assert told["state"] == "completed"
    assert {each["status"] for each in told["stages"]} == {"ran"}
    figures = {(each["training_set"], each["metric"]): each for each in told["figures"]}
    assert 0 <= figures["real", "pixel_auroc"]["value"] <= 1
    assert figures["real", "pixel_auroc"]["n_seeds"] == 1
    assert {"training_set", "against", "difference", "low", "high", "verdict"} <= set(told["lift"][0])
    assert {each["defect_type"]: each["drawn"] for each in told["pairs"]} == {"dent": 3, "stain": 3}

    store = str(config.store)
    again = told_by("runs", summary.run, "--store", store)
    assert again["stages"] == told["stages"]
    listed = told_by("runs", "--store", store)["runs"]
    assert isinstance(listed, list)
    assert [(each["run"], each["state"]) for each in listed] == [(summary.run, "completed")]
    artifacts = told_by("artifacts", "ls", "--store", store)["artifacts"]
    assert isinstance(artifacts, list)
    assert {each["artifact"] for each in artifacts} == {each["artifact"] for each in told["stages"]}
    checked = told_by("artifacts", "verify", "--store", store)
    assert checked == {"checked": len(artifacts), "damaged": []}
    assert told_by("artifacts", "gc", "--store", store)["deleted_bytes"] is None
    assert told_by("rerun", "latest", "--failed", "--store", store)["run"] == summary.run
