"""A part of a run again: what failed, one category, a stage that is finished; the rest untouched, the table whole."""

import json
from dataclasses import replace
from pathlib import Path
from pickle import dumps, loads

import pandas as pd
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.rerun import what_failed
from tasks.config import RunConfig, load_config
from tasks.runs.ended import Run, find_run
from tasks.stages.finetune import plan_finetune
from tasks.stages.prepare import plan_prepare
from tasks.store.artifacts import MANIFEST, Artifact, fault
from tests.flows.running import STAGES, block, only, run


@pytest.fixture(scope="module")
def config(yaml_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    store = tmp_path_factory.mktemp("rerun") / "store"
    return load_config(yaml_file, ["categories=[bolt, nut]"], store=store)


@pytest.fixture(scope="module")
def failed(config: RunConfig) -> Run:
    """One defect type of the second category failed."""
    in_the_way = block(plan_finetune(config, plan_prepare(config, "nut").out, "dent", None).out)
    summary = run(config)
    in_the_way.unlink()
    assert only(summary, "failed") == {"finetune nut/dent"}
    return find_run(config.store, summary.run)


def anodiff(config: RunConfig, *words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*words, "--store", str(config.store)])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def made_at(config: RunConfig, category: str) -> dict[str, int]:
    """When each file of a category's artifacts was written; a manifest is touched when it is used."""
    files = (config.store / "artifacts").glob(f"*/{category}/*/**/*")
    return {str(path): path.stat().st_ctime_ns for path in files if path.is_file() and path.name != MANIFEST}


def whole(found: Run) -> None:
    """Every stage of both categories is there, and the run's own tables have both."""
    expected = {name.replace("bolt", category) for name in STAGES for category in ("bolt", "nut")}
    assert {f"{each.stage} {each.label}" for each in found.stages} == expected
    assert found.state == "completed"
    for name in ("metrics", "pairs", "quality"):
        assert set(pd.read_parquet(found.folder / f"{name}.parquet")["category"]) == {"bolt", "nut"}
    assert {path.name for path in (found.folder / "sheets").glob("bolt*")}


def ran(found: Run) -> set[str]:
    return {f"{each.stage} {each.label}" for each in found.stages if each.status == "ran"}


@pytest.fixture(scope="module")
def mended(config: RunConfig, failed: Run) -> Run:
    """What had failed is done; nothing else was touched."""
    before = made_at(config, "bolt")
    anodiff(config, "rerun", "latest", "--failed")
    assert made_at(config, "bolt") == before
    return find_run(config.store, "latest")


def test_what_failed_is_made_up_for_and_the_table_is_whole(
    config: RunConfig, failed: Run, mended: Run
) -> None:
    assert what_failed(failed) == ["nut"]
    assert mended.name != failed.name
    whole(mended)
    assert ran(mended) == {
        *(f"{stage} nut/dent" for stage in ("finetune", "generate", "curate", "quality")),
        # With both defect types they learn from other pairs.
        *(f"localize nut/{name}/seed 0" for name in ("real", "generated+real")),
        "report nut",
        "page nut",
    }
    assert "nothing failed" in anodiff(config, "rerun", mended.name, "--failed")
    told = anodiff(config, "runs")
    assert told.index(mended.name) < told.index(failed.name)
    assert "finetune nut/dent" in told
    assert "skipped" in anodiff(config, "runs", failed.name)


def test_a_finished_stage_is_made_again_with_all_that_is_made_from_it(config: RunConfig, mended: Run) -> None:
    nut, bolt = made_at(config, "nut"), made_at(config, "bolt")
    pictures = {path: path.read_bytes() for path in (config.store / "artifacts/generate").rglob("*.png")}

    anodiff(config, "rerun", mended.name, "--category", "bolt", "--from", "generate")
    found = find_run(config.store, "latest")
    whole(found)
    assert ran(found) == {
        name
        for name in STAGES
        if name.split()[0] in ("generate", "curate", "quality", "localize", "report", "page")
    }
    assert {each.artifact for each in found.stages} == {each.artifact for each in mended.stages}
    assert made_at(config, "nut") == nut
    assert made_at(config, "bolt").keys() == bolt.keys()
    again = {path for path, time in made_at(config, "bolt").items() if time != bolt[path]}
    assert {Path(path).relative_to(config.store).parts[1] for path in again} == {
        "generate", "curate", "quality", "localize", "report", "page",
    }  # fmt: skip
    assert {path: path.read_bytes() for path in pictures} == pictures
    for each in found.stages:
        category, digest = str(each.artifact).split("/")[1:]
        assert fault(Artifact(config.store, each.stage, category, digest, each.label, {})) is None

    anodiff(config, "rerun", mended.name, "--category", "nut", "--from", "quality")
    assert ran(find_run(config.store, "latest")) == {
        "quality nut/dent",
        "quality nut/stain",
        "report nut",
        "page nut",
    }


def test_a_plan_after_a_run_says_what_is_cached_and_what_a_change_costs(
    config: RunConfig, mended: Run, yaml_file: Path
) -> None:
    words = ["plan", "--config", str(yaml_file), "--set", "categories=[bolt, nut]"]
    assert "all 28 stages are cached" in anodiff(config, *words)
    told = json.loads(anodiff(config, *words, "--set", "finetune.train_steps=4", "--json"))
    to_do = {
        f"{each['stage']} {each['label']}": each for each in told["stages"] if each["status"] == "planned"
    }
    assert {name.split()[0] for name in to_do} == {
        "finetune",
        "generate",
        "curate",
        "quality",
        "localize",
        "report",
        "page",
    }
    assert to_do["finetune bolt/dent"]["why"] == "finetune.train_steps 2 → 4"
    assert to_do["finetune bolt/dent"]["seconds"] > 0
    assert to_do["generate nut/stain"]["why"] == "because finetune runs again"
    assert told["unknown"] == []
    assert told["bytes"] > 10_000
    assert told["fits"]
    table = anodiff(config, *words, "--set", "generate.num_pairs=4")
    assert "generate.num_pairs 3 → 4" in table
    assert "8 of 28 stages are cached" in table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["latest"], "give --failed, or --category"),
        (["latest", "--failed", "--category", "bolt"], "give --failed, or --category"),
        (["latest", "--failed", "--from", "generate"], "give --failed, or --category"),
        (["latest", "--category", "nail"], "no category nail; it has bolt, nut"),
        (["latest", "--category", "bolt", "--from", "drill"], "no stage 'drill'; it has prepare, objects"),
        (["nothing", "--failed"], "no run 'nothing'"),
    ],
)
def test_what_cannot_be_run_again_is_refused(
    words: list[str], message: str, config: RunConfig, failed: Run
) -> None:
    assert message in anodiff(config, "rerun", *words, code=2)


def test_a_stage_in_another_process_knows_that_it_is_to_be_made_again(config: RunConfig) -> None:
    out = replace(plan_prepare(config, "bolt").out, since="2026-01-01T00:00:00+00:00")
    assert loads(dumps(out)).since == out.since
