"""A run's report: its numbers are those of the tables, its parts are made once, it stands alone."""

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from tasks.config import RunConfig, load_config
from tasks.errors import DataError
from tasks.report.run_folder import RunSummary, write_run
from tasks.report.run_page import write_page
from tasks.report.words import percent
from tasks.runs.ended import Run, artifacts_of, find_run
from tasks.runtime.stage import StageOutcome
from tasks.stages.page import CURVES, HEATS, PAGE, PLACES, make_pages, plan_page
from tasks.store.artifacts import fault, plan
from tests.tasks.data_folders import healthy_category
from tests.tasks.drawn_run import drawn_run
from tests.tasks.page_rules import Elements, check_sound, contrast

ROOT = Path(__file__).parents[3]
CHANGES = [
    "compare.models=[localize, classify, detect]",
    "compare.training_sets=[real, generated, generated+real]",
    "compare.seeds=[0, 1]",
    "report.bootstrap_samples=100",
    "report.sheet_size_px=48",
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("page")
    for category in ("bolt", "nut"):
        healthy_category(root / "data" / category, tests=12, defects=12)
    return load_config("cpu", CHANGES, data=root / "data", store=root / "store", categories=None)


@pytest.fixture(scope="module")
def summary(config: RunConfig) -> RunSummary:
    """Two categories, and a stage that failed."""
    failed = StageOutcome("finetune", "nut/scratch", None, "failed", error="no memory <here> & there")
    return drawn_run(config, ["bolt", "nut"], failed)


@pytest.fixture(scope="module")
def run(config: RunConfig, summary: RunSummary) -> Run:
    return find_run(config.store, summary.run)


@pytest.fixture(scope="module")
def text(run: Run) -> str:
    return write_page(run, make_pages(run)).read_text()


def test_numbers_of_the_page_are_those_of_the_tables(run: Run, text: str) -> None:
    metrics = pd.read_parquet(run.folder / "metrics.parquet")
    lift = pd.read_parquet(run.folder / "lift.parquet")
    overall = metrics[(metrics["defect_type"] == "all") & (metrics["size"] == "all")]
    means = overall.groupby(["category", "model", "training_set", "metric"])["value"].mean()
    for category in ("bolt", "nut"):
        for model, metric in (("localize", "aupro"), ("detect", "pixel_ap"), ("classify", "macro_f1")):
            for name in run.config.compare.training_sets:
                section = text[text.index(f'id="of-{category}-{model}"') :]
                row = re.search(rf"<th [^>]*>{re.escape(name)}</th>(.*?)</tr>", section)
                assert row is not None
                value = percent(means[category, model, name, metric])
                assert f'<td class="num">{value}</td>' in row[1], (category, model, name, metric)
    for of_lift in lift[(lift["against"] == "real") & (lift["metric"] == "pixel_ap")].to_dict("records"):
        difference = f"{100 * of_lift['difference']:+.1f}".replace("-", "−")
        assert f'<td class="num">{difference} [' in text


def test_the_page_stands_alone_and_is_sound(text: str) -> None:
    page = check_sound(text)
    assert "of-bolt" in page.values("id")
    assert len(page.all("img")) > 10


def test_text_and_drawings_stand_out_in_light_in_the_dark_and_on_paper() -> None:
    blocks = re.findall(r":root \{(.*?)\}", (ROOT / "tasks/report/html/style.css").read_text(), re.DOTALL)
    assert len(blocks) == 3
    tones = ("good", "bad", "open", "warn")
    pairs = [(name, "paper") for name in ("ink", "muted", "link", *tones)]
    pairs += [(name, "card") for name in ("ink", "muted")]
    pairs += [(name, f"{tone}-paper") for tone in tones for name in ("ink", tone)]
    for block in blocks:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for name, behind in pairs:
            assert contrast(colours[name], colours[behind]) >= 4.5, (name, behind, colours[name])
        for number in range(8):
            assert contrast(colours[f"series-{number}"], colours["paper"]) >= 3, number


def test_what_failed_is_said_with_the_reason_and_the_command(run: Run, text: str) -> None:
    assert "no memory &lt;here&gt; &amp; there" in text
    assert f"anodiff rerun {run.name} --failed" in text


def test_parts_are_made_once_and_again_when_they_are_gone_or_the_report_is_another(
    run: Run, config: RunConfig
) -> None:
    pages = make_pages(run)
    (reported,) = artifacts_of(run, "report", "bolt").values()
    assert pages["bolt"] == plan_page(config, reported).out
    assert {PAGE, CURVES, HEATS, PLACES} < {path.name for path in pages["bolt"].path.iterdir()}
    before = (pages["bolt"].path / "manifest.json").stat().st_mtime_ns
    assert make_pages(run) == pages
    assert (pages["bolt"].path / "manifest.json").stat().st_mtime_ns == before
    first = (pages["bolt"].path / PAGE).read_bytes()
    (pages["bolt"].path / PAGE).write_text("damaged")
    make_pages(run)
    assert fault(pages["bolt"]) is None
    assert (pages["bolt"].path / PAGE).read_bytes() == first, "the same inputs make the same page"
    other = plan(config.store, "report", 1, "bolt", anything="else")
    assert plan_page(config, other).out != pages["bolt"]


def test_a_page_that_is_there_needs_no_pictures_and_a_missing_one_says_what_it_needs(
    run: Run, config: RunConfig, tmp_path: Path
) -> None:
    moved = find_run(config.store, run.name, data=tmp_path / "moved")
    pages = make_pages(moved)
    (pages["nut"].path / PAGE).unlink()
    with pytest.raises(DataError, match=f"moved: the run's pictures are not there; .*{run.name}.*--data"):
        make_pages(moved)
    make_pages(run)


def test_a_category_without_a_page_is_named(run: Run, tmp_path: Path) -> None:
    pages = make_pages(run)
    text = write_page(run, {"bolt": pages["bolt"]}, tmp_path / "new" / "page.html").read_text()
    assert 'id="of-bolt"' in text
    assert 'id="of-nut"' not in text
    assert "No details of nut" in text


def test_a_run_without_pairs_without_a_baseline_or_without_anything_has_a_page_that_says_so(
    config: RunConfig, tmp_path: Path
) -> None:
    started = datetime(2026, 1, 2, tzinfo=UTC)
    bad = StageOutcome("prepare", "bolt", None, "failed", error="no picture", bad_input=True)
    refused = write_run(config, [bad], {}, started=started, refused=True)
    run = find_run(config.store, refused.run)
    text = write_page(run, make_pages(run)).read_text()
    assert "no picture" in text
    assert "Not known" in text
    changes = [
        *CHANGES,
        "compare.models=[detect]",
        "compare.training_sets=[real]",
        "report.bootstrap_samples=101",
    ]
    alone = load_config("cpu", changes, data=config.data, store=tmp_path / "store", categories=None)
    run = find_run(alone.store, drawn_run(alone, ["bolt"]).run)
    text = write_page(run, make_pages(run)).read_text()
    assert "Not known" in text
    assert "Detection" in text
    assert "Heat maps" in text
    Elements(text)


def test_names_of_categories_and_defects_are_text_never_markup(tmp_path: Path) -> None:
    folder = healthy_category(tmp_path / "data" / "a & <b>bolt<", tests=4, defects=4)
    for part in ("test", "ground_truth"):
        (folder / part / "dent").rename(folder / part / "<i>dent")
    changes = [*CHANGES, "compare.models=[localize]", "compare.seeds=[0]"]
    config = load_config("cpu", changes, data=tmp_path / "data", store=tmp_path / "store", categories=None)
    run = find_run(config.store, drawn_run(config, ["a & <b>bolt<"]).run)
    text = write_page(run, make_pages(run)).read_text()
    Elements(text)
    assert "<b>" not in text
    assert "<i>" not in text
    assert "&lt;i&gt;dent" in text


def test_fifteen_categories_are_put_together_in_seconds_without_torch_or_matplotlib(run: Run) -> None:
    make_pages(run)
    code = f"""
import sys, time
from dataclasses import replace
from pathlib import Path
import pandas as pd
from tasks.report.run_page import page_text
from tasks.stages.page import make_pages
from tasks.runs.ended import find_run
run = find_run(Path({str(run.config.store)!r}), {run.name!r})
pages = make_pages(run)
page_text(run, pages)
stages = [replace(each, label=each.label.replace("bolt", f"bolt{{i}}")) for i in range(15) for each in run.stages]
started = time.process_time()
text = page_text(replace(run, stages=tuple(stages)), {{f"bolt{{i}}": pages["bolt"] for i in range(15)}})
print(time.process_time() - started < 2, len(text), sorted({{"torch", "matplotlib", "sklearn"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    fast, length, heavy = done.stdout.split(" ", 2)
    assert (fast, heavy) == ("True", "[]\n"), done.stdout
    assert int(length) < 15_000_000
