"""What the review page may ask for: a run's pairs by name, decisions that are on disk at once, and nothing else."""

import http.client
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from tasks.config import RunConfig
from tasks.errors import AnodiffError
from tasks.review.decisions import decide, read_decisions
from tasks.review.desk import Desk, read_painted
from tasks.review.page import bound, page_of, served
from tasks.review.pairs import picture
from tasks.runs.ended import find_run
from tasks.stages.review import decisions_on
from tasks.store.artifacts import Artifact
from tests.tasks.reviewed import drawn, judged, prepared, run_config, said_of, square, written_run


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    config = run_config(tmp_path_factory.mktemp("desk"))
    split, draw = prepared(config), drawn(config, 0, [10, 12, 0])
    written_run(config, split, draw, judged(config, split, [draw]))
    return config


@pytest.fixture
def desk(config: RunConfig) -> Iterator[Desk]:
    """The pairs of the run, undecided."""
    desk = Desk(find_run(config.store, "latest"))
    yield desk
    for pair in desk.pairs.values():
        desk.decide({"key": pair.key, "verdict": None, "mask": None})


def on_disk(desk: Desk) -> dict[int, tuple[str | None, str | None]]:
    (drawn_by,) = {pair.drawn for pair in desk.pairs.values()}
    return {i: (one.verdict, one.mask) for i, one in read_decisions(desk.store, "bolt", drawn_by).items()}


def data_url(tmp_path: Path, mask: np.ndarray) -> str:
    path = tmp_path / "painted.png"
    Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).save(path)
    return picture(path)


def test_every_decision_is_on_disk_at_once_and_there_when_the_page_opens_again(
    desk: Desk, tmp_path: Path
) -> None:
    first, second, third = desk.pairs
    assert [pair["reasons"] for pair in desk.listing({})["pairs"]] == ["", "", "mask empty"]
    desk.decide({"key": first, "verdict": "rejected", "mask": None})
    assert on_disk(desk) == {0: ("rejected", None)}
    name = desk.paint({"key": third, "png": data_url(tmp_path, square(5, 9))})["record"]["mask"]
    desk.decide({"key": second, "verdict": "accepted", "mask": None})
    assert on_disk(desk) == {0: ("rejected", None), 1: ("accepted", None), 2: ("accepted", name)}
    again = Desk(desk.run)
    assert again.listing({})["records"] == {
        first: {"verdict": "rejected", "mask": None},
        second: {"verdict": "accepted", "mask": None},
        third: {"verdict": "accepted", "mask": name},
    }
    np.testing.assert_array_equal(read_painted(again.pictures({"key": third})["painted"]), square(5, 9))
    assert again.summary() == "2 accepted (1 with a painted mask), 1 rejected, 0 of 3 undecided"
    desk.decide({"key": first, "verdict": None, "mask": None})
    assert 0 not in on_disk(desk)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"key": "bolt/../0", "verdict": "accepted"}, "no such pair in this run"),
        ({"verdict": "accepted"}, "no such pair in this run"),
        ({"key": "third", "verdict": "accepted"}, "its mask is empty; paint one, or reject the pair"),
        ({"key": "first", "verdict": "perhaps"}, "not a decision"),
        ({"key": "first", "verdict": "accepted", "mask": "../../../../etc/passwd"}, "not a decision"),
        (
            {"key": "first", "verdict": "accepted", "mask": "000001-0123456789abcdef.png"},
            "is of another pair",
        ),
        ({"key": "first", "verdict": "accepted", "mask": "000000-0123456789abcdef.png"}, "is gone"),
    ],
)
def test_what_is_no_decision_on_a_pair_of_the_run_is_refused(
    desk: Desk, asked: dict[str, str], expected: str
) -> None:
    keys = dict(zip(("first", "second", "third"), desk.pairs, strict=True))
    with pytest.raises(AnodiffError, match=expected):
        desk.decide(asked | ({"key": keys[asked["key"]]} if asked.get("key") in keys else {}))
    assert on_disk(desk) == {}


def test_a_painted_mask_must_be_a_picture_of_the_pairs_size_with_a_defect(desk: Desk, tmp_path: Path) -> None:
    key = next(iter(desk.pairs))
    for mask in (np.zeros((48, 48), bool), np.ones((47, 48), bool)):
        with pytest.raises(AnodiffError, match="empty, or not of its picture's size"):
            desk.paint({"key": key, "png": data_url(tmp_path, mask)})
    for png in ("", "data:image/png;base64,AAAA", "data:image/svg+xml;base64,AAAA"):
        with pytest.raises(AnodiffError, match="cannot be read"):
            desk.paint({"key": key, "png": png})
    assert on_disk(desk) == {}


def test_a_decision_on_a_picture_drawn_anew_is_not_shown(config: RunConfig, desk: Desk) -> None:
    pair = next(iter(desk.pairs.values()))
    artifact = Artifact(config.store, "generate", "bolt", pair.drawn, "bolt/dent", inputs={})
    other = said_of(artifact, 0, "rejected").model_copy(update={"picture": "another"})
    decide(config.store, "bolt", pair.drawn, 0, other)
    assert Desk(desk.run).decided == {}


def test_pairs_that_a_dose_of_shots_drew_are_decided_on_by_themselves_and_the_next_run_hears_of_it(
    tmp_path: Path,
) -> None:
    config = run_config(tmp_path)
    split, draw = prepared(config), drawn(config, 0, [10, 12])
    of_dose = replace(drawn(config, 50, [9]), label="bolt/dent, 1 shots")
    judged_of_dose = judged(config, split, [of_dose])
    written_run(config, split, draw, judged(config, split, [draw]), of_dose, judged_of_dose)
    desk = Desk(find_run(config.store, "latest"))
    assert [pair.defect for pair in desk.pairs.values()] == ["dent", "dent", "dent, 1 shots"]
    key = f"bolt/{of_dose.digest}/50"
    assert desk.shots({"key": key})["shots"]
    desk.decide({"key": key, "verdict": "rejected"})
    assert list(decisions_on(config, judged_of_dose, [of_dose])) == [f"{of_dose.digest}/50"]


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(AnodiffError, match=r"port \d+ is taken; give another with --port"):
            bound(other.getsockname()[1])


@pytest.fixture(scope="module")
def address(config: RunConfig) -> Iterator[str]:
    """The page as `anodiff review` serves it."""
    pytest.importorskip("gradio", reason="needs gradio: the extra review")
    desk = Desk(find_run(config.store, "latest"))
    with served(page_of(desk), 0) as address:
        yield address


def status(address: str, path: str, method: str = "GET", **headers: str) -> int:
    """Of a request whose path is sent as it is, dots and all."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers)
    body = json.dumps({"session_hash": "x", "component_id": 1, "fn_name": "listing", "data": {}}).encode()
    for name, value in {**headers, "Content-Type": "application/json"}.items():
        connection.putheader(name, value)
    if method == "POST":
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body if method == "POST" else None)
    found = connection.getresponse().status
    connection.close()
    return found


def test_the_page_is_served_on_loopback_alone(address: str) -> None:
    port = urlsplit(address).port
    assert status(address, "/") == 200
    lines = (
        Path("/proc/net/tcp").read_text().splitlines()[1:]
        + Path("/proc/net/tcp6").read_text().splitlines()[1:]
    )
    listening = [line.split()[1] for line in lines if line.split()[3] == "0A"]
    assert [each for each in listening if each.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=STORE/runs",
        "/gradio_api/file=STORE/artifacts/../../../../../etc/passwd",
        "/gradio_api/file/../../etc/passwd",
        "/file=/etc/passwd",
        "/static/../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/__init__.py",
        "/assets/..%2f..%2f..%2f..%2froutes.py",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/gradio_api/stream/x/1/1/playlist.m3u8",
        "/gradio_api/info",
        "/docs",
    ],
)
def test_no_file_is_served_by_its_path(address: str, config: RunConfig, path: str) -> None:
    assert status(address, path.replace("STORE", str(config.store))) in (403, 404)
    assert status(address, "/gradio_api/upload", "POST") == 403


def test_another_web_page_cannot_ask_in_the_readers_name(address: str) -> None:
    asked = "/gradio_api/component_server/"
    host = urlsplit(address).netloc
    assert status(address, asked, "POST") != 403
    assert status(address, asked, "POST", Origin=address) != 403
    assert status(address, asked, "POST", Origin="https://example.com") == 403
    assert status(address, asked, "POST", Origin="null") == 403
    assert status(address, asked, "POST", Origin="http://127.0.0.1:1") == 403
    assert status(address, "/", Host=host) == 200
    assert status(address, "/", Host="example.com") == 403  # a name that was made to lead here
    assert status(address, "/", Host=f"example.com:{urlsplit(address).port}") == 403
