"""Figures, pictures, tables and maps of a page, each by itself."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tasks.config import RunConfig, load_config
from tasks.data.samples import read_dataset
from tasks.report.config import nearest_preset, run_command
from tasks.report.doses import doses_svg
from tasks.report.embedding import MAX_PAIRS, dots, pictures_to_place, placed
from tasks.report.maps import colour_range, heat_strip, pictures_to_show
from tasks.report.pictures import within
from tasks.report.svg import INK, SERIES, new_figure, svg_of, thinned
from tasks.report.tables import confusion, forest, number, quality_rows
from tests.tasks.data_folders import healthy_category, save, texture
from tests.tasks.drawn_run import drawn_predictions


def figure(name: str) -> str:
    drawn = new_figure(1)
    drawn.axes[0].plot([0, 1, 2], [0, 1, 0], color=SERIES[2], label="a")
    drawn.axes[0].set_title("<t>", color=INK)
    return svg_of(drawn, name, 'alt "text" <b>')


def test_two_figures_share_a_page_without_a_style_or_an_id_of_each_other() -> None:
    one, two = figure("one"), figure("two")
    assert "<style" not in one
    assert "var(--series-2)" in one
    assert not re.search(r"#0000[ef]\d", one), "a stand-in colour is left"
    ids = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, own in zip((one, two), ids, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) <= own
    assert 'aria-label="alt &#34;text&#34; &lt;b&gt;"' in one
    assert figure("one") == one, "the same figure, byte by byte"


def test_a_thinned_line_keeps_its_corners() -> None:
    x = [0.0, 1.0, 2.0, 3.0, 4.0, 4.0]
    y = [0.0, 0.0, 0.0, 1.0, 2.0, 5.0]
    assert thinned(x, y) == [(0, 0), (2, 0), (4, 2), (4, 5)]
    assert thinned([1.0], [2.0]) == [(1, 2)]


def test_pictures_share_a_budget_and_are_shown_as_large_as_they_were() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    pictures = [(Image.fromarray(noise), f"alt {i}", "") for i in range(4)]
    rich, poor = within(pictures, 10**9), within(pictures, 60_000)
    assert sum(len(each.url) for each in poor) < 62_000 < sum(len(each.url) for each in rich)
    assert [(each.width, each.height, each.alt) for each in poor] == [
        (300, 200, f"alt {i}") for i in range(4)
    ]
    assert within([], 0) == []


def lift_rows(*rows: tuple[float, float, float, str]) -> pd.DataFrame:
    names = ["difference", "low", "high", "verdict"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(category="bolt", training_set="generated", metric="pixel_ap", against="real",
                        baseline=0.5, value=0.6)  # fmt: skip


def test_bars_of_lifts_stand_on_their_side_of_zero_and_within_the_drawing() -> None:
    plot = forest(lift_rows((0.031, 0.01, 0.05, "helps"), (-0.02, -0.13, 0.02, "no difference shown")))
    helps, open_ = plot.rows
    assert [mark for _, mark in plot.ticks] == ["−20", "−10", "0", "+10", "+20"]
    zero = plot.width / 2
    assert helps.at is not None
    assert zero < helps.low < helps.at < helps.high < plot.width
    assert 0 < open_.low < zero < open_.high
    assert helps.text == "+3.1 [+1.0, +5.0]"
    assert (helps.tone, open_.tone) == ("good", "open")


def test_a_lift_that_is_not_defined_has_no_bar() -> None:
    nan = float("nan")
    (row,) = forest(lift_rows((nan, nan, nan, "too few test pictures"))).rows
    assert (row.at, row.text, row.tone) == (None, "– [–, –]", "warn")


def test_confusions_are_means_over_seeds_with_shares_of_each_row() -> None:
    def counts(a: int, b: int) -> pd.DataFrame:
        rows = [("good", "good", a), ("good", "dent", b), ("dent", "good", 0), ("dent", "dent", 0)]
        return pd.DataFrame(rows, columns=["label", "pred_label", "n"])

    found = confusion([counts(3, 1), counts(4, 0)])
    assert found["rows"] == [("good", [("3.5", 0.875), ("0.5", 0.125)]), ("dent", [("0", 0.0), ("0", 0.0)])]
    assert (found["classes"], found["seeds"]) == (["good", "dent"], 2)


def test_quality_is_of_the_pairs_that_pass_and_says_where_none_does() -> None:
    def row(defect: str, pairs: str, value: float) -> dict[str, object]:
        return {"defect": defect, "metric": "coverage", "value": value, "pairs": pairs}

    rows = [row("dent", "drawn", 0.1), row("dent", "accepted", 0.2), row("stain", "drawn", 0.3)]
    found = quality_rows(pd.DataFrame(rows))
    assert found is not None
    assert found["of_all"] == ["stain"]
    assert found["rows"][0][-1] == ["0.200", "0.300"]
    assert number(float("nan")) == "–"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("parts")
    healthy_category(folder / "bolt", tests=5, defects=7)
    return read_dataset(folder, ["bolt"])


def test_pictures_to_show_go_from_best_to_worst_and_end_with_good_parts_that_score_high(
    samples: pd.DataFrame,
) -> None:
    predictions = drawn_predictions(samples, 0.15)
    shown = pictures_to_show(predictions)
    figures = [each.figure for each in shown if each.rank != "good part with a high score"]
    assert [each.rank for each in shown] == ["best"] * 2 + ["median"] * 2 + ["worst"] * 2 + [
        "good part with a high score"
    ] * 2
    assert figures == sorted(figures, reverse=True)
    good = [each.index for each in shown[-2:]]
    assert (predictions.label_index[good] == 0).all()
    assert predictions.pred_score[good[0]] == predictions.pred_score[predictions.label_index == 0].max()


def test_few_pictures_are_shown_once(samples: pd.DataFrame) -> None:
    few = samples.groupby("label").head(1).reset_index(drop=True)
    few.loc[few["label"] == "good", "split"] = "test"
    shown = pictures_to_show(drawn_predictions(few, 0.15))
    assert len({each.index for each in shown}) == len(shown) == 3


def test_a_heat_map_is_hot_where_the_model_is_sure_and_outlines_truth_in_green(
    samples: pd.DataFrame, tmp_path: Path
) -> None:
    predictions = drawn_predictions(samples, 0.5)
    index = int(np.flatnonzero(predictions.label_index)[0])
    picture = save(tmp_path / "flat.png", np.full((64, 64), 100.0))
    low, high = colour_range(predictions)
    assert low < 0.45 < high
    strip = np.asarray(heat_strip(picture, {"generated": predictions}, index)).astype(int)
    half = strip.shape[1] // 2
    truth, heated = strip[16:, :half], strip[16:, half:]
    assert ((truth[..., 1] > 200) & (truth[..., 0] < 80)).any(), "no green outline"
    side = heated.shape[0]
    inside, outside = (
        heated[part, part, 0].mean() for part in (slice(side // 6, side // 3), slice(side // 2, side))
    )
    assert inside > outside + 30


def test_the_map_leaves_test_pictures_out_and_thins_pairs_evenly(
    samples: pd.DataFrame, tmp_path: Path
) -> None:
    split = samples.assign(split="test")
    split.loc[
        split["label"].eq("dent") & split["image_path"].str.endswith(("000.png", "001.png")), "split"
    ] = "train"
    split.loc[split["image_path"].str.contains("train"), "split"] = "train"
    drawn = [str(save(tmp_path / f"{i}.png", texture(i))) for i in range(6)]
    pairs = pd.DataFrame({"label": "dent", "image_path": drawn * 20, "reasons": ["", "mask empty"] * 60})
    pictures = pictures_to_place(split, pairs)
    counts = pictures.groupby("kind").size().to_dict()
    assert counts == {"normal": 10, "generated": MAX_PAIRS, "real": 2}
    assert not set(pictures["image_path"]) & set(split[split["split"] == "test"]["image_path"])
    places = placed(pictures)
    pd.testing.assert_frame_equal(places, placed(pictures))
    assert places[["x", "y"]].to_numpy().min() == 0
    assert places[["x", "y"]].to_numpy().max() == 1
    drawing = dots(places, "bolt")
    assert drawing["counts"] == counts
    assert drawing["legend"] == [("dent", 1)]


def test_the_command_of_a_run_asks_for_the_same_configuration(tmp_path: Path) -> None:
    import shlex

    changes = [
        "finetune.train_steps=7",
        "compare.seeds=[3, 4]",
        "finetune.image_prompt=a {category}'s $x",
        "seed=5",
    ]
    config: RunConfig = load_config("cpu", changes, data=tmp_path, categories=("a", "b c"), defects=("dent",))
    assert nearest_preset(config)[0] == "cpu"
    words = shlex.split(" ".join(run_command(config, str(tmp_path))))
    assert words[:4] == ["anodiff", "run", "--config", "cpu"]
    options = list(zip(words[2::2], words[3::2], strict=True))
    sets = [value for option, value in options if option == "--set"]
    given = {option.removeprefix("--"): value for option, value in options if option != "--set"}
    again = load_config(given["config"], sets, data=Path(given["data"]), categories=tuple(given["categories"].split(",")),
                        defects=tuple(given["defects"].split(",")))  # fmt: skip
    assert again == config


def test_dose_curves_have_an_axis_a_kind_and_metric_and_say_their_ends() -> None:
    rows = [
        {"category": "bolt", "model": model, "defect_type": defect, "kind": kind, "metric": "pixel_ap", "dose": dose,
         "value": dose / 100, "low": dose / 100 - 0.05, "high": dose / 100 + 0.05}
        for model in ("localize", "detect")
        for defect in ("all", "dent")
        for kind, doses in (("pairs", (50, 0, 25)), ("shots", (1, 3)))
        for dose in doses
    ]  # fmt: skip
    svg = " ".join(doses_svg(pd.DataFrame(rows), "bolt-doses", "bolt").split())
    assert "pixel AP over pairs" in svg
    assert "pixel AP over shots" in svg
    assert "Localization pixel AP: 0.0 % at 0 pairs and 50.0 % at 50 pairs" in svg
    assert svg.count(">Detection<") == 2
