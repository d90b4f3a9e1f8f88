"""What the normals bear reaches the models, and their keys, where an option asks for it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.config import RunConfig
from tasks.errors import ArtifactError
from tasks.report.run_page import symmetries_found
from tasks.runs.ended import Run
from tasks.runtime.stage import StageOutcome
from tasks.stages.train import plan_model
from tasks.store.artifacts import Artifact, Staged, publish
from tasks.tables.symmetries import SYMMETRIES, read_symmetries, symmetries_text, with_symmetries
from tasks.tables.training_rows import Pictures

FOUND = {"horizontal_flip": True, "vertical_flip": False, "rotate90": False, "rotation": 15.0, "ratios": {}}
NO_AUTO = {"horizontal_flip": False, "vertical_flip": True, "rotate90": True, "rotation": 3.0}


def config_of(store: Path, augment: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate({"data": store, "store": store, "localize": {"augment": augment}})


def objects_of(store: Path, digest: str, found: dict[str, Any] | None = None) -> Artifact:
    objects = Artifact(store, "objects", "bolt", digest * 20, "bolt", inputs={})
    if found is not None:
        objects.path.mkdir(parents=True)
        (objects.path / SYMMETRIES).write_text(json.dumps(found))
    return objects


def test_auto_becomes_what_was_found_and_what_the_user_set_stays(tmp_path: Path) -> None:
    objects = objects_of(tmp_path, "1", FOUND)
    config = config_of(tmp_path, {"vertical_flip": True, "blur": 0.0})
    settled = with_symmetries(config, objects)
    got = settled.localize.augment
    assert (got.horizontal_flip, got.vertical_flip, got.rotate90, got.rotation) == (True, True, False, 15.0)
    assert got.blur == 0
    assert settled.classify.augment.vertical_flip is False
    by_hand = RunConfig.model_validate(
        config.model_dump() | {model: {"augment": NO_AUTO} for model in ("localize", "classify")}
    )
    assert with_symmetries(by_hand, objects_of(tmp_path, "2")) is by_hand, (
        "nothing is read where nothing asks"
    )


def test_a_file_that_can_t_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"symmetries\.json: can't be read"):
        read_symmetries(objects_of(tmp_path, "1"))
    with pytest.raises(ArtifactError, match="'rotation'"):
        read_symmetries(objects_of(tmp_path, "2", {name: True for name in FOUND if name != "rotation"}))


def test_a_model_s_key_follows_the_objects_only_where_an_option_is_auto(tmp_path: Path) -> None:
    prepared = Artifact(tmp_path, "prepare", "bolt", "0" * 20, "bolt", inputs={})

    def key(augment: dict[str, Any], digest: str) -> str:
        pictures = Pictures(prepared, {"dent": prepared}, objects=objects_of(tmp_path, digest))
        return plan_model(config_of(tmp_path, augment), "localize", pictures, "real", 0).out.digest

    assert key({}, "1") != key({}, "2")
    assert key(NO_AUTO | {"rotation": "auto"}, "1") != key(NO_AUTO | {"rotation": "auto"}, "2")
    assert key(NO_AUTO, "1") == key(NO_AUTO, "2")


def test_the_report_says_what_was_found_where_an_option_asks_for_it(tmp_path: Path) -> None:
    def write(staged: Staged) -> None:
        (staged.out / SYMMETRIES).write_text(json.dumps(FOUND))

    objects = objects_of(tmp_path, "1")
    publish(objects, write, device="cpu")
    gone = StageOutcome("objects", "nut", objects_of(tmp_path, "2").ref, "ran")
    stages = (StageOutcome("objects", "bolt", objects.ref, "ran"), gone)
    run = Run("some", tmp_path, "completed", config_of(tmp_path, {}), stages)
    assert symmetries_found(run) == {"bolt": symmetries_text(FOUND)}
    by_hand = run.config.model_dump() | {model: {"augment": NO_AUTO} for model in ("localize", "classify")}
    assert symmetries_found(replace(run, config=RunConfig.model_validate(by_hand))) == {}


def test_what_was_found_is_said_in_one_sentence() -> None:
    assert symmetries_text(FOUND) == (
        "by its normals, training pictures may be mirrored left-right, rotated by up to 15°"
    )
    everything = {"horizontal_flip": True, "vertical_flip": True, "rotate90": True, "rotation": 180}
    assert symmetries_text(everything).endswith("mirrored top-bottom, turned by 90°, rotated by any angle")
