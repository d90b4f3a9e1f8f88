"""The stage review: what people decided takes the place of what curation said, whichever run shows the pairs."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from flows.planning import plan_run
from tasks.config import RunConfig
from tasks.errors import ArtifactError
from tasks.review.decisions import Decision, decide, folder_of, save_mask
from tasks.stages.review import REJECTED, decisions_on, plan_review, review
from tasks.store.artifacts import Artifact, verified
from tasks.tables.pairs import read_pairs
from tasks.tables.training_rows import accepted
from tests.tasks.reviewed import drawn, judged, prepared, run_config, said_of, square


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Artifact, list[Artifact]]:
    """Seven pairs of two draws; curation refuses number 2 and 5, whose masks are empty."""
    config = run_config(tmp_path_factory.mktemp("review"))
    draws = [drawn(config, 0, [10, 12, 0]), drawn(config, 3, [8, 9, 0, 11])]
    return config, judged(config, prepared(config), draws), draws


@pytest.fixture
def store(
    made: tuple[RunConfig, Artifact, list[Artifact]], tmp_path: Path
) -> tuple[RunConfig, Artifact, list[Artifact]]:
    """The same in a store of the test's own."""
    config, curated, draws = made
    shutil.copytree(config.store, tmp_path / "store")
    config = config.model_copy(update={"store": tmp_path / "store"})
    return config, replace(curated, store=config.store), [replace(each, store=config.store) for each in draws]


def put(
    config: RunConfig,
    artifact: Artifact,
    index: int,
    verdict: str | None,
    mask: str | None = None,
    at: str = "1",
) -> None:
    decide(config.store, "bolt", artifact.digest, index, said_of(artifact, index, verdict, mask, at))


def reviewed(config: RunConfig, curated: Artifact, draws: list[Artifact]) -> Artifact:
    decided = decisions_on(config, curated, draws)
    out = plan_review(config, curated, decided).out
    review.fn(out, curated, decided, config)
    assert verified(out)
    return out


def test_decisions_reach_the_pairs_that_models_learn_from(
    store: tuple[RunConfig, Artifact, list[Artifact]], tmp_path: Path
) -> None:
    config, curated, draws = store
    painted = save_mask(config.store, "bolt", draws[0].digest, 2, square(20, 6))
    put(config, draws[0], 1, "rejected")
    put(config, draws[0], 2, "accepted", painted)  # curation refused it, its mask was empty
    out = reviewed(config, curated, draws)
    before, after = (pd.read_parquet(each.path / "pairs.parquet") for each in (curated, out))
    assert after["reasons"].tolist() == ["", REJECTED, "", "", "", "mask empty", ""]
    assert after["review"].tolist() == ["", "rejected", "mask painted", "", "", "", ""]
    assert list(after.columns) == [*before.columns, "review"]
    assert (out.path / "thresholds.parquet").read_bytes() == (
        curated.path / "thresholds.parquet"
    ).read_bytes()
    untouched = [0, 1, 3, 4, 5, 6]
    kept = [name for name in before if name != "reasons"]
    pd.testing.assert_frame_equal(before.loc[untouched, kept], after.loc[untouched, kept])
    assert after["mask_area_px"][2] == 36
    assert after["mask_share"][2] == pytest.approx(36 / 48**2)

    shutil.move(config.store, tmp_path / "moved")
    pairs = read_pairs({"dent": replace(out, store=tmp_path / "moved")})
    for column in ("image_path", "anomaly_path", "mask_path"):
        assert all(Path(path).is_file() for path in pairs[column])
    np.testing.assert_array_equal(np.asarray(Image.open(pairs["mask_path"][2])) > 127, square(20, 6))
    # Of four wanted the first four that are good, the one that was taken in among them.
    assert accepted(pairs, config)["index"].tolist() == [0, 2, 3, 4]


def test_without_a_decision_that_changes_something_there_is_no_stage(
    store: tuple[RunConfig, Artifact, list[Artifact]],
) -> None:
    config, curated, draws = store
    assert decisions_on(config, curated, draws) == {}
    put(config, draws[0], 0, "accepted")  # as curation has it
    put(config, draws[0], 2, "rejected")
    put(config, draws[1], 5, "accepted")  # its mask is empty still
    assert decisions_on(config, curated, draws) == {}
    put(config, draws[1], 3, "rejected")
    assert list(decisions_on(config, curated, draws)) == [f"{draws[1].digest}/3"]
    off = config.model_copy(update={"curate": config.curate.model_copy(update={"use_review": False})})
    assert decisions_on(off, curated, draws) == {}
    put(config, draws[1], 3, None, at="2")
    assert decisions_on(config, curated, draws) == {}


def test_the_key_follows_what_was_decided_and_not_when(
    store: tuple[RunConfig, Artifact, list[Artifact]],
) -> None:
    config, curated, draws = store

    def key() -> str:
        return plan_review(config, curated, decisions_on(config, curated, draws)).out.digest

    put(config, draws[0], 0, "rejected", at="1")
    keys = [key()]
    put(config, draws[0], 0, "rejected", at="2")
    assert key() == keys[0]
    put(config, draws[1], 3, "rejected")
    keys.append(key())
    for at, side in (("3", 6), ("4", 7)):
        mask = save_mask(config.store, "bolt", draws[1].digest, 3, square(20, side))
        put(config, draws[1], 3, "accepted", mask, at=at)
        keys.append(key())
    assert len(set(keys)) == len(keys)
    put(
        config,
        draws[1],
        3,
        "accepted",
        save_mask(config.store, "bolt", draws[1].digest, 3, square(20, 6)),
        "5",
    )
    assert key() == keys[2]


def test_decisions_outlive_other_curation_settings_and_more_pairs(
    store: tuple[RunConfig, Artifact, list[Artifact]],
) -> None:
    config, curated, draws = store
    put(config, draws[0], 1, "rejected")
    stricter = config.model_copy(update={"curate": config.curate.model_copy(update={"max_mask_share": 0.5})})
    more = [*draws, drawn(config, 7, [9, 9])]
    again = judged(stricter, prepared(config), more)
    assert again != curated
    assert list(decisions_on(stricter, again, more)) == [f"{draws[0].digest}/1"]


def test_a_decision_on_another_picture_does_not_count(
    store: tuple[RunConfig, Artifact, list[Artifact]], said: list[str]
) -> None:
    config, curated, draws = store
    put(config, draws[0], 1, "rejected")
    shutil.rmtree(draws[0].path)
    drawn(config, 0, [10, 12, 0], seed=1)  # the same key, drawn anew on another device
    assert decisions_on(config, curated, draws) == {}
    assert any("1 decision(s) on pictures that were drawn anew since" in line for line in said)


def test_what_is_planned_of_crops_blends_the_reviewed_ones(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    config = config.model_copy(
        update={
            "native": config.native.model_copy(update={"enabled": True, "crop_px": 32}),
            # Pairs that start from shots come out as whole pictures, without blend.
            "generate": config.generate.model_copy(update={"start": "noise"}),
        }
    )

    def planned() -> dict[tuple[str, str], Artifact]:
        return {(each.out.stage, each.out.label): each.out for each in plan_run(config)}

    before = planned()
    pairs = before["generate", "bolt/dent"]
    decide(config.store, "bolt", pairs.digest, 1, Decision(verdict="rejected", picture="p", at="1"))
    after = planned()
    assert set(after) - set(before) == {("review", "bolt/dent")}
    for stage in ("quality", "blend"):
        assert after[stage, "bolt/dent"].inputs["pairs"] == after["review", "bolt/dent"].ref
        assert after[stage, "bolt/stain"] == before[stage, "bolt/stain"]
    assert after["curate", "bolt/dent"] == before["curate", "bolt/dent"]


def test_a_painted_mask_that_is_gone_or_of_another_size_is_said(
    store: tuple[RunConfig, Artifact, list[Artifact]],
) -> None:
    config, curated, draws = store
    small = save_mask(config.store, "bolt", draws[0].digest, 0, np.ones((4, 4), bool))
    put(config, draws[0], 0, "accepted", small)
    with pytest.raises(ArtifactError, match=r"is of \(4, 4\) px, its picture of \(48, 48\); paint it again"):
        reviewed(config, curated, draws)
    (folder_of(config.store, "bolt", draws[0].digest) / "mask" / small).unlink()
    with pytest.raises(ArtifactError, match="a mask painted in review is gone"):
        reviewed(config, curated, draws)
