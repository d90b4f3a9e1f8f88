"""The review page in a real browser: keys and brush end as decisions on disk, fast, and nothing goes astray."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from tasks.review.decisions import Decision, folder_of, read_decisions
from tasks.review.desk import Desk
from tasks.review.page import page_of, served
from tasks.runs.ended import find_run
from tests.tasks.reviewed import drawn, judged, prepared, run_config, written_run

pytest.importorskip("gradio", reason="needs gradio: the extra review")

LAPTOP = {"width": 1366, "height": 650}  # of which the browser itself takes the rest
SIDES = [10, 12, 0, 8, 9, 11, 7, 13, 6, 14]


@dataclass
class Open:
    """A page that is open, what is decided on disk, and what the browser complained of."""

    page: Page
    desk: Desk
    address: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def on_disk(self) -> dict[int, str | None]:
        self.page.wait_for_function("document.querySelector('#rv-saved').textContent === 'all saved'")
        return {index: one.verdict for index, one in self._decisions().items()}

    def mask(self, index: int) -> np.ndarray:
        name = self._decisions()[index].mask
        assert name is not None
        path = folder_of(self.desk.store, "bolt", self._drawn) / "mask" / name
        return np.asarray(Image.open(path)) > 127

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def wait_for_pair(self, number: int) -> None:
        self.page.wait_for_function(
            f"document.querySelector('[data-shown]')?.dataset.shown.endsWith('/{number}')"
        )

    @property
    def _drawn(self) -> str:
        return next(iter(self.desk.pairs.values())).drawn

    def _decisions(self) -> dict[int, Decision]:
        return read_decisions(self.desk.store, "bolt", self._drawn)


@pytest.fixture
def review(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Ten pairs, of which curation refuses number 2 for its empty mask."""
    config = run_config(tmp_path)
    split, draw = prepared(config), drawn(config, 0, SIDES)
    written_run(config, split, draw, judged(config, split, [draw]))
    desk = Desk(find_run(config.store, "latest"))
    page = browser.new_page(viewport={"width": LAPTOP["width"], "height": LAPTOP["height"]})
    page.set_default_timeout(120_000)  # the suite beside it takes all cores
    with served(page_of(desk), 0) as address:
        opened = Open(page, desk, address)
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        page.on("console", lambda said: opened.complaints.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: opened.requests.append(request.url))
        page.goto(address)
        opened.wait_for_pair(0)
        yield opened
    page.close()


def test_pairs_are_decided_by_key_and_taken_back(review: Open) -> None:
    review.press("a", "r", "j", "ArrowLeft", "ArrowRight")
    assert review.on_disk == {0: "accepted", 1: "rejected"}
    assert "2 decided" in review.page.inner_text("#rv-counts")
    review.press("u")
    assert review.on_disk == {0: "accepted"}
    review.wait_for_pair(1)
    review.page.click("#rv-reject")
    assert review.on_disk == {0: "accepted", 1: "rejected"}
    # Number 2 has no mask to learn from.
    review.press("a")
    assert "Its mask is empty" in review.page.inner_text("#rv-note")
    assert review.on_disk == {0: "accepted", 1: "rejected"}
    review.page.reload()
    review.wait_for_pair(2)  # the first that is undecided
    assert review.complaints == []


def test_keys_faster_than_the_server_fall_to_the_pairs_that_were_shown(review: Open) -> None:
    review.page.select_option("#rv-show", "passed")
    review.page.evaluate(
        """for (const key of "ararraarr")
            document.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}))"""
    )
    words = {"a": "accepted", "r": "rejected"}
    assert review.on_disk == {
        i: words[key] for i, key in zip([0, 1, 3, 4, 5, 6, 7, 8, 9], "ararraarr", strict=True)
    }
    assert "End of the list" in review.page.inner_text("#rv-note")


def test_what_is_typed_or_held_down_decides_nothing(review: Open) -> None:
    review.page.focus("#rv-number")
    review.press("a", "r")
    review.page.focus("#rv-order")
    review.press("a")
    review.page.evaluate("document.activeElement.blur()")
    review.press("Control+a", "Alt+a")
    review.wait_for_pair(0)
    assert review.on_disk == {}
    review.page.evaluate(
        """for (const repeat of [false, true, true])
            document.dispatchEvent(new KeyboardEvent("keydown", {key: "a", repeat, bubbles: true}))"""
    )
    assert review.on_disk == {0: "accepted"}
    review.page.fill("#rv-number", "7")
    review.press("Enter")
    review.wait_for_pair(7)


def drag(page: Page, *places: tuple[float, float], button: str = "left") -> None:
    """Draw with the mouse through places of the picture, shares of its side."""
    box = page.locator("#rv-over").bounding_box()
    assert box is not None
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*at[0])
    page.mouse.down(button="right" if button == "right" else "left")
    for each in at[1:]:
        page.mouse.move(*each, steps=4)
    page.mouse.up(button="right" if button == "right" else "left")


def test_a_mask_is_painted_and_erased_pixel_by_pixel_and_its_pair_accepted(review: Open) -> None:
    review.press("j", "j", "e")  # number 2, without a mask
    review.page.wait_for_selector("#rv-painting:not([hidden])")
    review.press("a", "r", "j")  # are no decisions here
    drag(review.page, (0.25, 0.5), (0.75, 0.5))
    drag(review.page, (0.5, 0.5), button="right")
    review.press("Enter")
    review.wait_for_pair(3)
    assert review.on_disk == {2: "accepted"}
    mask = review.mask(2)
    assert mask.shape == (48, 48)
    assert mask[24, 13]
    assert mask[24, 35]
    assert not mask[24, 24]  # erased
    assert not mask[:20].any()
    assert not mask[28:].any()
    # Painted anew from there: it is what is shown, and G is the way back to the generated one.
    review.press("k", "e")
    review.page.wait_for_selector("#rv-painting:not([hidden])")
    review.press("g", "Enter")
    assert "The mask is empty" in review.page.inner_text("#rv-note")
    review.press("z", "Escape")
    np.testing.assert_array_equal(review.mask(2), mask)
    review.press("u")
    assert review.on_disk == {}
    assert review.complaints == []


def test_pairs_are_listed_by_state_and_in_the_order_asked_for(review: Open) -> None:
    review.press("a", "r")
    assert review.on_disk == {0: "accepted", 1: "rejected"}
    for show, count in {
        "undecided": 8,
        "refused": 1,
        "refused: mask empty": 1,
        "accepted": 1,
        "rejected": 1,
    }.items():
        review.page.select_option("#rv-show", show)
        assert f"of {count}," in review.page.inner_text("#rv-counts"), show
    review.page.select_option("#rv-show", "all")
    review.page.select_option("#rv-order", "largest mask first")
    keys = review.page.eval_on_selector_all("#rv-strip button", "all => all.map(each => each.dataset.key)")
    assert [SIDES[int(key.rpartition("/")[2])] for key in keys] == sorted(SIDES, reverse=True)


def test_nothing_is_lost_while_the_server_is_away(review: Open) -> None:
    review.press("j")
    review.wait_for_pair(1)
    review.page.context.set_offline(True)
    review.press("a", "r")
    review.page.wait_for_selector("#rv-trouble:not([hidden])")
    assert "Not saved" in review.page.inner_text("#rv-trouble")
    review.page.context.set_offline(False)
    assert review.on_disk == {1: "accepted", 2: "rejected"}
    assert review.page.is_hidden("#rv-trouble")


def test_it_fits_a_laptop_and_asks_nobody_else(review: Open) -> None:
    review.page.wait_for_selector("#rv-shots img")
    height = review.page.evaluate("document.querySelector('#rv-help').getBoundingClientRect().bottom")
    assert height <= LAPTOP["height"]
    assert review.page.evaluate("document.documentElement.scrollWidth") <= LAPTOP["width"]
    review.page.emulate_media(color_scheme="dark")
    review.page.reload()
    review.wait_for_pair(0)
    colour = review.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(value) for value in colour.strip("rgba()").split(",")[:3]) < 60
    others = [url for url in review.requests if not url.startswith((review.address, "data:", "blob:"))]
    assert others == []
    assert review.complaints == []
