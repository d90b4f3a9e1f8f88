"""What people decided is on disk at once, whole, and where every machine of a shared store finds it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.errors import ArtifactError
from tasks.review.decisions import (
    DECISIONS,
    Decision,
    decide,
    folder_of,
    mask_path,
    read_decisions,
    save_mask,
    send_decisions,
)
from tasks.store.place import open_store
from tasks.store.upkeep import find_garbage, sweep
from tests.s3 import make_bucket, s3_server, speak_to

DRAWN = "0123456789abcdef0123"


def said(verdict: str | None, at: str, mask: str | None = None) -> Decision:
    return Decision.model_validate({"verdict": verdict, "mask": mask, "picture": "p", "at": at})


def verdicts(store: Path) -> dict[int, str | None]:
    return {index: each.verdict for index, each in read_decisions(store, "bolt", DRAWN).items()}


def test_the_last_word_on_a_pair_counts_and_can_be_taken_back(tmp_path: Path) -> None:
    assert verdicts(tmp_path) == {}
    decide(tmp_path, "bolt", DRAWN, 3, said("accepted", "1"))
    decide(tmp_path, "bolt", DRAWN, 11, said("rejected", "2"))
    decide(tmp_path, "bolt", DRAWN, 3, said("rejected", "3"))
    assert verdicts(tmp_path) == {3: "rejected", 11: "rejected"}
    decide(tmp_path, "bolt", DRAWN, 3, said(None, "4"))
    assert verdicts(tmp_path) == {11: "rejected"}
    text = (folder_of(tmp_path, "bolt", DRAWN) / DECISIONS).read_text()
    assert str(tmp_path) not in text


def test_a_painted_mask_comes_back_pixel_for_pixel(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((30, 40)) > 0.5
    name = save_mask(tmp_path, "bolt", DRAWN, 7, mask)
    assert name == save_mask(tmp_path, "bolt", DRAWN, 7, mask)
    assert name != save_mask(tmp_path, "bolt", DRAWN, 7, ~mask)
    path = mask_path(tmp_path, "bolt", DRAWN, name)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.where(mask, 255, 0))


@pytest.mark.parametrize("text", ["{", '{"pairs": {"3": {"verdict": "perhaps", "picture": "p", "at": "1"}}}'])
def test_a_file_that_cannot_be_read_is_named_not_overwritten(tmp_path: Path, text: str) -> None:
    path = folder_of(tmp_path, "bolt", DRAWN) / DECISIONS
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(ArtifactError, match=f"{path}: cannot be read"):
        read_decisions(tmp_path, "bolt", DRAWN)
    with pytest.raises(ArtifactError, match=f"{path}: cannot be read"):
        decide(tmp_path, "bolt", DRAWN, 3, said("accepted", "1"))
    assert path.read_text() == text


@pytest.mark.parametrize("name", ["../../../etc/passwd", "000003-0123456789abcdef.png/..", "/etc/passwd"])
def test_a_mask_is_named_by_pair_and_content_alone(name: str) -> None:
    with pytest.raises(ValueError, match="mask"):
        said("accepted", "1", name)


def test_the_upkeep_of_a_store_leaves_decisions_alone(tmp_path: Path) -> None:
    decide(
        tmp_path,
        "bolt",
        DRAWN,
        3,
        said("accepted", "1", save_mask(tmp_path, "bolt", DRAWN, 3, np.ones((4, 4), bool))),
    )
    before = sorted((tmp_path / "reviews").rglob("*"))
    sweep(tmp_path, find_garbage(tmp_path, older_than_days=0, keep_runs=0))
    assert sorted((tmp_path / "reviews").rglob("*")) == before


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


def test_decisions_of_two_machines_come_together(
    server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speak_to(server, monkeypatch)
    make_bucket("reviews")

    def machine(name: str) -> Path:
        monkeypatch.setenv("ANODIFF_CACHE", str(tmp_path / name))
        return open_store("s3://reviews/line 1")

    here = machine("here")
    mask = save_mask(here, "bolt", DRAWN, 3, np.eye(8, dtype=bool))
    decide(here, "bolt", DRAWN, 3, said("accepted", "2", mask))
    decide(here, "bolt", DRAWN, 4, said("rejected", "2"))
    send_decisions(here, "bolt", DRAWN)

    there = machine("there")
    assert verdicts(there) == {3: "accepted", 4: "rejected"}
    np.testing.assert_array_equal(
        np.asarray(Image.open(mask_path(there, "bolt", DRAWN, mask))) > 0, np.eye(8) > 0
    )
    decide(there, "bolt", DRAWN, 4, said(None, "3"))
    decide(there, "bolt", DRAWN, 5, said("rejected", "1"))
    decide(there, "bolt", DRAWN, 3, said("rejected", "1"))  # before the other one
    send_decisions(there, "bolt", DRAWN)
    for store in (here, there):
        assert verdicts(store) == {3: "accepted", 5: "rejected"}
