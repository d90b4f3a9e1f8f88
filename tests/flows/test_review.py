"""What is decided on the review page of a run is what the next run's models learn from."""

from contextlib import ExitStack

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from flows.planning import plan_run
from tasks.config import RunConfig
from tasks.review.desk import Desk
from tasks.review.page import page_of, served
from tasks.runs.ended import find_run, pictures_of
from tasks.stages.review import REJECTED
from tasks.tables.training_rows import rows_of
from tests.browser.chromium import chromium
from tests.flows.running import run


def small(config: RunConfig) -> RunConfig:
    """One model, learnt from pairs alone."""
    compare = config.compare.model_copy(update={"models": ("localize",), "training_sets": ("generated",)})
    return config.model_copy(update={"compare": compare})


def trained_on(config: RunConfig, name: str) -> pd.DataFrame:
    """The generated pairs that a run's models learnt from or were validated on."""
    found = find_run(config.store, name)
    rows, _ = rows_of(pictures_of(found, "bolt"), "generated", found.config)
    both = pd.concat([rows.train, rows.val])
    return both[both["source"] == "generated"]


def statuses(config: RunConfig) -> dict[tuple[str, str], str]:
    return {(each.out.stage, each.out.label): each.outcome.status for each in plan_run(config)}


def test_decisions_made_in_the_browser_reach_the_next_runs_training_set(config: RunConfig) -> None:
    pytest.importorskip("gradio", reason="needs gradio: the extra review")
    config = small(config)
    first = run(config)
    assert all(each.stage != "review" for each in first.stages)
    before = trained_on(config, first.run)
    assert sorted(before["index"]) == [0, 0, 1, 1, 2, 2]  # all three of both types

    desk = Desk(find_run(config.store, first.run))
    with ExitStack() as stack:
        browser = stack.enter_context(chromium())
        page = browser.new_page(viewport={"width": 1366, "height": 650})
        errors: list[str] = []
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        # What the run itself wrote at its end, seen before its pairs are judged.
        page.goto((first.folder / "report.html").as_uri())
        assert page.locator("h1").inner_text() == "Did generated defects help?"
        widths = page.eval_on_selector_all("img", "all => all.map(each => each.naturalWidth)")
        assert len(widths) > 2
        assert min(widths) > 0
        page.goto(stack.enter_context(served(page_of(desk), 0)))
        page.wait_for_selector("[data-shown]")
        page.select_option("#rv-defect", "dent")
        page.keyboard.press("a")
        page.keyboard.press("r")
        page.wait_for_function("document.querySelector('[data-shown]').dataset.shown.endsWith('/2')")
        page.keyboard.press("e")
        page.wait_for_selector("#rv-painting:not([hidden])")
        page.keyboard.press("c")
        box = page.locator("#rv-over").bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.keyboard.press("Enter")
        page.wait_for_function("document.querySelector('#rv-saved').textContent === 'all saved'")
        assert errors == []

    planned = statuses(config)
    assert planned["review", "bolt/dent"] == "planned"
    assert ("review", "bolt/stain") not in planned
    assert {planned[stage, "bolt/dent"] for stage in ("finetune", "generate", "curate")} == {"cached"}
    second = run(config)
    assert second.state == "completed"
    ran = {f"{each.stage} {each.label}" for each in second.stages if each.status == "ran"}
    assert {"review bolt/dent", "quality bolt/dent", "localize bolt/generated/seed 0", "report bolt"} <= ran
    assert not {each.split()[0] for each in ran} & {"finetune", "generate", "curate"}
    assert "quality bolt/stain" not in ran

    dents = trained_on(config, second.run).query("label == 'dent'").set_index("index")
    assert sorted(dents.index) == [0, 2]
    mask = np.asarray(Image.open(str(dents.loc[2, "mask_path"]))) > 127
    size = Image.open(str(dents.loc[2, "image_path"])).size
    assert mask.shape == size[::-1]
    assert 0 < mask.mean() < 0.05  # a dab of the brush
    assert mask[size[1] // 2, size[0] // 2]
    told = second.pairs.query("label == 'dent'").set_index("index")
    assert told["reasons"].to_dict() == {0: "", 1: REJECTED, 2: ""}

    assert {each.status for each in run(config).stages} == {"cached"}
    off = config.model_copy(update={"curate": config.curate.model_copy(update={"use_review": False})})
    assert set(statuses(off).values()) == {"cached"}  # the first run's
