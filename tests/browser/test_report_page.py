"""A run's report in a real browser: it opens from disk, alone, and shows what the tables say."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import typer
from playwright.sync_api import Browser, Page
from typer.testing import CliRunner

from flows.cli.report import report
from tasks.config import load_config
from tasks.report.words import percent
from tests.tasks.data_folders import healthy_category
from tests.tasks.drawn_run import drawn_run
from tests.tasks.page_rules import Elements

CATEGORIES = ["bolt", "nut"]
CHANGES = [
    "compare.models=[localize, classify, detect]",
    "compare.training_sets=[real, generated, generated+real]",
    "compare.seeds=[0, 1]",
    "report.bootstrap_samples=100",
    "report.sheet_size_px=64",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a drawn run, its report written by the command."""
    root = tmp_path_factory.mktemp("report")
    for category in CATEGORIES:
        healthy_category(root / "data" / category, tests=12, defects=12)
    config = load_config("cpu", CHANGES, data=root / "data", store=root / "store", categories=None)
    summary = drawn_run(config, CATEGORIES)
    app = typer.Typer()
    app.command()(report)
    result = CliRunner().invoke(app, ["latest", "--store", str(config.store)])
    assert result.exit_code == 0, result.output
    assert str(summary.folder / "report.html") in result.output
    return summary.folder


@pytest.fixture
def troubles() -> list[str]:
    """Whatever the page complains of, or asks of a network."""
    return []


@pytest.fixture
def page(browser: Browser, folder: Path, troubles: list[str]) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.on("console", lambda message: troubles.append(f"console: {message.text}"))
    opened.on("pageerror", lambda error: troubles.append(f"error: {error}"))
    opened.on("request", lambda asked: troubles.append(asked.url) if asked.url.startswith("http") else None)
    opened.goto((folder / "report.html").as_uri())
    yield opened
    opened.close()


def test_every_picture_is_there_and_nothing_is_asked_of_a_network(page: Page, troubles: list[str]) -> None:
    widths = page.eval_on_selector_all("img", "all => all.map(each => each.naturalWidth)")
    # Of each category: two defect types' sheets of passed and of refused pairs, heat maps of two models.
    assert len(widths) >= len(CATEGORIES) * (4 + 2 * 4)
    assert min(widths) > 0
    shapes = page.eval_on_selector_all(
        "figure svg", "all => all.map(each => each.querySelectorAll('path, circle, rect').length)"
    )
    assert len(shapes) >= len(CATEGORIES) * 3
    assert min(shapes) > 0
    assert troubles == []


def test_figures_are_those_of_the_tables(page: Page, folder: Path) -> None:
    metrics, lift = (pd.read_parquet(folder / f"{name}.parquet") for name in ("metrics", "lift"))
    overall = metrics[(metrics["defect_type"] == "all") & (metrics["size"] == "all")]
    values = overall.groupby(["category", "model", "training_set", "metric"])["value"].mean()
    shown = page.get_by_role("region", name="Detection, nut", exact=True).get_by_role("row").all_inner_texts()
    header = shown[0].split("\t")
    row = dict(
        zip(
            header, next(text for text in shown if text.startswith("generated+real")).split("\t"), strict=True
        )
    )
    assert row["AUPRO"] == percent(values["nut", "detect", "generated+real", "aupro"])
    assert row["image AUROC"] == percent(values["nut", "detect", "generated+real", "image_auroc"])
    of_model = lift[
        (lift["model"] == "localize") & (lift["metric"] == "pixel_ap") & (lift["against"] == "real")
    ]
    forest = page.locator("table.forest").first
    verdicts = forest.locator("tbody .badge").all_inner_texts()
    assert sorted(verdicts) == sorted(of_model["verdict"])


def test_a_lift_that_helps_stands_right_of_zero(page: Page) -> None:
    row = page.locator("table.forest").first.locator("tbody tr").filter(has_text="+").first
    drawing = row.locator("td svg").bounding_box()
    dot = row.locator("circle").bounding_box()
    assert drawing is not None
    assert dot is not None
    assert dot["x"] + dot["width"] / 2 > drawing["x"] + drawing["width"] / 2


def test_the_keyboard_reaches_the_parts_and_opens_what_is_folded(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    nut = page.get_by_role("navigation").get_by_role("link", name="nut")
    nut.focus()
    page.keyboard.press("Enter")
    top = page.locator("#of-nut").bounding_box()
    assert top is not None
    assert 0 <= top["y"] < 200, "the heading is hidden under the bar, or not reached"
    folded = page.locator("details:not([open]) > summary").first
    folded.focus()
    page.keyboard.press("Enter")
    everything = page.get_by_role("button", name="Unfold all")
    everything.focus()
    page.keyboard.press("Enter")
    assert page.locator("details:not([open])").count() == 0
    page.get_by_role("button", name="Fold all").press("Enter")
    assert page.locator("details[open]").count() == 0


def luminance(page: Page, selector: str, what: str) -> float:
    """0 to 255, of the colour that is used."""
    colour = page.eval_on_selector(selector, f"each => getComputedStyle(each).{what}")
    red, green, blue = (float(part) for part in colour.strip("rgba()").split(",")[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_dark_readers_get_light_text_and_light_curves_on_dark(page: Page) -> None:
    axis = "figure.curves svg text"
    assert luminance(page, "body", "backgroundColor") > 200 > 100 > luminance(page, axis, "fill")
    page.emulate_media(color_scheme="dark")
    assert luminance(page, "body", "backgroundColor") < 60 < 140 < luminance(page, axis, "fill")
    assert luminance(page, "body", "color") > 200
    page.emulate_media(media="print", color_scheme="dark")
    assert luminance(page, "body", "backgroundColor") > 254
    assert luminance(page, axis, "fill") < 100


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_never_scrolls_sideways(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.get_by_role("button", name="Unfold all").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_prints_and_is_small(page: Page, folder: Path) -> None:
    assert page.pdf(format="A4").startswith(b"%PDF")
    size = (folder / "report.html").stat().st_size
    assert size < len(CATEGORIES) * 1_000_000, "fifteen categories would take more than 15 MB"


def test_the_browser_reads_the_page_as_it_was_written(page: Page, folder: Path) -> None:
    # What is not valid HTML, a browser closes or moves elsewhere by itself.
    read = page.evaluate(
        "[...document.querySelectorAll('*')].map(each => "
        "[each.localName.toLowerCase(), each.parentElement?.localName.toLowerCase() ?? ''])"
    )
    written = Elements((folder / "report.html").read_text()).tree
    assert [tuple(each) for each in read] == written
