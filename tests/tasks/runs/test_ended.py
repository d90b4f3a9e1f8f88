"""A run is found again by its name, its folder or as the latest, or it is said which runs there are."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.config import RunConfig, load_config
from tasks.errors import AnodiffError, ArtifactError, DataError
from tasks.report.run_folder import RunSummary, write_run
from tasks.runs.ended import artifacts_of, categories_run, find_run, pictures_of, prepared_of, trained_models
from tasks.runtime.stage import StageOutcome
from tasks.stages.prepare import build_prepare, plan_prepare
from tasks.store.artifacts import Artifact, plan, publish
from tasks.tables.training_rows import Pictures
from tests.tasks.data_folders import healthy_category


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    healthy_category(tmp_path / "data" / "bolt")
    return load_config("demo", data=tmp_path / "data", store=tmp_path / "store")


def written(config: RunConfig, *stages: StageOutcome, day: int = 1) -> RunSummary:
    return write_run(config, stages, {}, started=datetime(2026, 1, day, tzinfo=UTC))


def published(artifact: Artifact) -> StageOutcome:
    """The outcome of a stage that wrote one small file."""
    publish(artifact, lambda staged: write_x(staged.out / "file"), device="cpu")
    return StageOutcome(artifact.stage, artifact.label, artifact.ref, "ran")


def write_x(path: Path) -> None:
    path.write_text("x")


def prepared(config: RunConfig) -> Artifact:
    artifact = plan_prepare(config, "bolt").out
    publish(artifact, lambda staged: build_prepare(config, "bolt", staged), device="cpu")
    return artifact


def outcome(artifact: Artifact) -> StageOutcome:
    return StageOutcome(artifact.stage, artifact.label, artifact.ref, "cached")


def test_a_run_reads_back_as_it_was_written(config: RunConfig) -> None:
    failed = StageOutcome("finetune", "bolt/dent", None, "failed", 1.5, "no memory")
    summary = written(config, failed)
    run = find_run(config.store, summary.run)
    assert (run.name, run.state, run.folder) == (summary.run, "failed", summary.folder)
    assert run.config == config
    assert run.stages == (failed,)


def test_latest_is_the_newest_and_a_folder_brings_its_store(config: RunConfig, tmp_path: Path) -> None:
    newest = written(config, day=3).run
    oldest = written(config, day=1)
    assert find_run(config.store, "latest").name == newest
    config.store.rename(tmp_path / "moved")
    found = find_run(tmp_path / "elsewhere", str(tmp_path / "moved" / "runs" / oldest.run))
    assert found.name == oldest.run
    assert found.config.store == tmp_path / "moved"
    assert find_run(tmp_path / "moved", newest, data=tmp_path / "new").config.data == tmp_path / "new"


def test_an_unknown_run_is_answered_with_those_there_are(config: RunConfig) -> None:
    with pytest.raises(AnodiffError, match="no run ended there; give --store, or start one"):
        find_run(config.store, "latest")
    names = [written(config, day=day).run for day in range(1, 13)]
    with pytest.raises(AnodiffError, match=f"runs there: {names[-1]}, .*, and 2 older ones, or latest"):
        find_run(config.store, "2026")
    # A run that was killed while it wrote its folder is none.
    (config.store / "runs" / "20270101-half").mkdir()
    assert find_run(config.store, "latest").name == names[-1]


def test_a_run_of_another_version_is_named_with_the_field(config: RunConfig) -> None:
    folder = written(config).folder
    described = json.loads((folder / "run.json").read_text())
    described["config"]["finetune"]["steps"] = 3
    (folder / "run.json").write_text(json.dumps(described))
    with pytest.raises(AnodiffError, match=r"run\.json: cannot be read by this version \(finetune\.steps"):
        find_run(config.store, "latest")
    (folder / "run.json").write_text("{")
    with pytest.raises(AnodiffError, match=r"run\.json: cannot be read by this version"):
        find_run(config.store, "latest")


def test_models_and_pairs_are_told_apart_from_those_of_a_dose(config: RunConfig) -> None:
    split = prepared(config)

    def pairs(label: str, **inputs: object) -> Artifact:
        return plan(
            config.store, "curate", 1, "bolt", label=label, pairs=[f"generate/bolt/{label}"], **inputs
        )

    def model(label: str, name: str) -> Artifact:
        return plan(config.store, "localize", 1, "bolt", label=label, training_set=name)

    stages = [outcome(split)]
    stages += [published(pairs("bolt/dent", round=1))]  # before more was drawn
    stages += [published(pairs(label)) for label in ("bolt/dent", "bolt/dent, 2 shots", "bolt/stain")]
    labels = ["bolt/real/seed 0", "bolt/generated+real, 3 pairs/seed 0", "bolt/generated+real/seed 0"]
    stages += [published(model(label, label.split("/")[1])) for label in labels]
    run = find_run(config.store, written(config, *stages).run)
    assert categories_run(run) == ["bolt"]
    assert pictures_of(run, "bolt") == Pictures(
        split, {"dent": pairs("bolt/dent"), "stain": pairs("bolt/stain")}, {}
    )
    found = trained_models(run, "bolt", ["localize"], [0])
    assert {(one.training_set, one.seed) for one in found} == {("real", 0), ("generated+real", 0)}
    assert trained_models(run, "bolt", ["localize"], [1]) == []


def test_what_is_gone_or_changed_since_is_refused(config: RunConfig, tmp_path: Path) -> None:
    split = prepared(config)
    run = find_run(config.store, written(config, outcome(split)).run)
    assert prepared_of(run, "bolt") == split
    gone = replace(run, config=config.model_copy(update={"data": tmp_path / "gone"}))
    with pytest.raises(DataError, match=f"gone: the run's pictures are not there; .*{run.name}.*--data"):
        prepared_of(gone, "bolt")
    with pytest.raises(AnodiffError, match="no category nut; it has bolt"):
        categories_run(run, "nut")
    (tmp_path / "data/bolt/ground_truth/dent/000_mask.png").write_bytes(b"redrawn")
    with pytest.raises(DataError, match=r"bolt: pictures or masks changed since .*--data"):
        prepared_of(run, "bolt")
    (split.path / "split.csv").unlink()
    with pytest.raises(ArtifactError, match=f"run {run.name}: .*files differ.*`anodiff run` makes it again"):
        artifacts_of(run, "prepare", "bolt")
