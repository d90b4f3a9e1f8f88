"""Runs beside each other: differences only on the same test pictures, by content, and a reason where there are none."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from downstream.figures.lift import lift
from downstream.figures.predictions import read_predictions
from tasks.compare.comparison import Comparison, as_json, check_writable, compare_runs, find_runs, write_table
from tasks.compare.page import write_page
from tasks.compare.tables import by_value, listed_runs, spread_of
from tasks.compare.ui import summary_text
from tasks.errors import AnodiffError, ConfigError
from tasks.report.run_folder import RunSummary
from tasks.report.words import signed
from tests.tasks.finished_runs import config_of, finished_run, pictures_to_test, shuffled
from tests.tasks.page_rules import check_sound


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def compared(*runs: RunSummary) -> Comparison:
    return compare_runs(
        find_runs([str(each.folder) for each in runs], [runs[0].folder.parents[1]]), resamples=200
    )


def row_of(comparison: Comparison, run: RunSummary, metric: str, training_set: str = "real") -> pd.Series:
    figures = comparison.figures
    found = figures[
        (figures["run"] == run.run)
        & (figures["metric"] == metric)
        & (figures["training_set"] == training_set)
    ]
    assert len(found) == 1, found
    return found.iloc[0]


def test_the_difference_is_that_of_lift_whatever_the_pictures_are_called_and_in_which_order(
    store: Path,
) -> None:
    config, pictures = config_of(store), pictures_to_test()
    weak = finished_run(config, pictures, contrast=0.1)
    strong = finished_run(config, shuffled(pictures, "x"), day=2, contrast=0.4, data="e" * 64)
    found = compared(weak, strong)
    assert found.not_compared.empty
    row = row_of(found, strong, "pixel_ap")
    assert row["verdict"] == "helps"
    assert row["low"] <= row["difference"] <= row["high"]

    def predictions(summary: RunSummary) -> list[Path]:
        refs = [
            each.artifact for each in summary.stages if each.stage == "localize" and "/real/" in each.label
        ]
        return [store / "artifacts" / str(ref) / "predictions.npz" for ref in refs]

    # The plain way round: the first run's rows by content, which is the order that pictures_to_test has.
    sides = [[read_predictions(path) for path in predictions(each)] for each in (weak, strong)]
    place = {sha: i for i, sha in enumerate(shuffled(pictures, "x").sha256)}
    order = [place[sha] for sha in pictures.sha256]
    for i, each in enumerate(sides[1]):
        values = {
            name: getattr(each, name)[order]
            for name in ("label_index", "anomaly_map", "gt_mask", "pred_score")
        }
        sides[1][i] = type(each)(
            image_path=sides[0][0].image_path,
            label=each.label[order],
            pixel_threshold=each.pixel_threshold,
            image_threshold=each.image_threshold,
            **values,
        )
    (plain,) = (each for each in lift(*sides, metrics=["pixel_ap"], resamples=200))
    assert row["difference"] == pytest.approx(plain.difference)
    assert (row["low"], row["high"]) == pytest.approx((plain.low, plain.high))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pictures": pictures_to_test().but(3, 20)}, "2 of 24 test pictures not tested by"),
        (
            {"data": "e" * 64, "pictures": pictures_to_test(("dent",))},
            "12 of 24 test pictures labelled otherwise (bolt/test/crack/000.png, ",
        ),
        ({"data": "e" * 64, "mask_px": 5}, "the masks of 12 test pictures differ (bolt/test/crack/000.png, "),
        (
            {"data": "e" * 64, "pictures": pictures_to_test().but(0)},
            "the data differ (fingerprints dddddddddddd and eeee",
        ),
    ],
)
def test_other_test_pictures_are_refused_with_the_reason(
    change: dict[str, object], reason: str, store: Path
) -> None:
    config = config_of(store)
    first = finished_run(config)
    found = compared(first, finished_run(config, day=2, contrast=0.35, **change))  # type: ignore[arg-type]
    (why,) = found.not_compared["why"]
    assert reason in why
    assert set(found.figures["run"]) == {first.run}


def test_a_category_that_cannot_be_compared_leaves_the_others_alone(store: Path) -> None:
    config, other = config_of(store), config_of(store, "split.shots=3")
    first = finished_run(config, categories=("bolt", "nut", "screw"))
    second = finished_run(other, pictures_to_test().but(5), day=2, categories=("bolt",))
    third = finished_run(config, day=3, contrast=0.4, categories=("nut", "screw"))
    found = compared(first, second, third)
    why = dict(zip(zip(found.not_compared["run"], found.not_compared["category"], strict=True),
                   found.not_compared["why"], strict=True))  # fmt: skip
    assert "the split differs (split.shots 4 and 3)" in why[second.run, "bolt"]
    assert why[third.run, "bolt"] == "not in this run"
    assert set(found.figures.loc[found.figures["run"] == third.run, "category"]) == {"nut", "screw"}
    assert set(found.ranking["run"]) == {third.run}
    assert (found.ranking["n"] == 2).all()
    alone = finished_run(config, day=4, categories=("plate",))
    with pytest.raises(
        AnodiffError, match=f"no category in common with the first run: {first.run}: bolt, nut, screw"
    ):
        compared(first, alone)


def test_the_same_models_differ_by_nothing(store: Path) -> None:
    config = config_of(store, "compare.seeds=[0, 1]")
    first, again = finished_run(config), finished_run(config, day=2)
    row = row_of(compared(first, again), again, "image_auroc")
    assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)
    assert (row["verdict"], row["note"]) == ("no difference shown", "the same models")


def test_what_was_redrawn_is_kept_so_that_the_models_are_read_once(store: Path) -> None:
    config = config_of(store, "compare.seeds=[0, 1]")
    runs = [finished_run(config, day=day, contrast=day / 10) for day in (1, 2, 4)]
    before = compared(*runs[:2])
    for each in runs[1].stages:
        if each.stage == "localize":
            (store / "artifacts" / str(each.artifact) / "predictions.npz").unlink()
    pd.testing.assert_frame_equal(compared(*runs[:2]).figures, before.figures)
    with_a_third = compared(*runs)
    assert with_a_third.not_compared.empty
    row = row_of(with_a_third, runs[1], "pixel_ap")
    assert (row["low"], row["high"]) == tuple(row_of(before, runs[1], "pixel_ap")[["low", "high"]])


def test_of_many_runs_each_is_a_number_and_the_overview_holds_every_category_and_run(
    store: Path, tmp_path: Path
) -> None:
    runs = [
        finished_run(config_of(store, f"finetune.train_steps={100 + day // 4}"), day=day, contrast=day / 20)
        for day in range(1, 6)
    ]
    found = compared(*runs)
    names = [each.run for each in runs]
    ((key, values),) = by_value(found.config, names)
    assert key == "finetune.train_steps"
    assert [(value, listed_runs(of_value, names)) for value, of_value in values] == [
        ("100", "1–3"),
        ("101", "4–5"),
    ]
    spread = spread_of(found.figures, names, "real")
    assert spread["category"].tolist() == ["bolt"]
    assert spread["best"].item() == names[-1]
    assert spread["n"].item() == 4
    write_page(found, tmp_path / "many.html")
    page = (tmp_path / "many.html").read_text()
    check_sound(page)
    (table, *_) = re.findall(r'<table class="rows matrix">(.*?)</table>', page, re.DOTALL)
    heads = re.findall(r'<th scope="col" class="num" title="([^"]*)">(\d)</th>', table)
    assert heads == [(name, str(number)) for number, name in enumerate(names[1:], 2)]
    text = signed(row_of(found, runs[-1], "pixel_ap", "generated")["difference"])
    assert f"▲ {text}</td></tr>" in table


def test_few_pictures_give_no_verdict_and_what_one_run_lacks_has_no_difference(store: Path) -> None:
    few = pictures_to_test(per_kind=4)
    first = finished_run(config_of(store, "compare.training_sets=[real]"), few)
    second = finished_run(config_of(store, "compare.models=[localize, classify]"), few, day=2, contrast=0.5)
    found = compared(first, second)
    assert row_of(found, second, "pixel_ap")["verdict"] == "too few test pictures"
    lone = row_of(found, second, "pixel_ap", "generated")
    assert np.isnan(lone["difference"])
    assert lone["note"] == "not in the first run"
    plain = row_of(found, second, "threshold")  # no redraw gives it
    assert plain["difference"] == 0
    assert np.isnan(plain["low"])


def test_models_that_are_gone_leave_the_category_out(store: Path) -> None:
    config = config_of(store)
    first, second = finished_run(config), finished_run(config, day=2, contrast=0.4)
    (ref,) = [each.artifact for each in second.stages if each.label == "bolt/generated/seed 0"]
    (store / "artifacts" / str(ref) / "predictions.npz").unlink()
    (why,) = compared(first, second).not_compared["why"]
    assert "files differ from its manifest" in why


def test_configuration_shows_only_what_differs_and_cost_what_the_manifests_say(store: Path) -> None:
    first = finished_run(config_of(store))
    second = finished_run(
        config_of(store, "finetune.train_steps=7", "localize.augment.rotate90=false"), day=2
    )
    found = compared(first, second)
    keys = found.config.set_index("key")
    assert set(keys.index) == {"finetune.train_steps", "localize.augment.rotate90"}
    assert keys.at["finetune.train_steps", second.run] == "7"
    refs = [each.artifact for each in first.stages if each.stage == "localize"]
    seconds = sum(
        json.loads((store / "artifacts" / str(ref) / "manifest.json").read_text())["seconds"] for ref in refs
    )
    about = found.about.to_dict("records")[0]
    assert about["models_s"] == pytest.approx(seconds)
    assert (about["drawn"], about["passed"]) == (4, 3)
    assert about["memory_gb"] > 0


def test_runs_are_found_in_several_stores_and_by_default_the_last_two_are(tmp_path: Path) -> None:
    here, there = tmp_path / "here" / "store", tmp_path / "there" / "store"
    runs = [finished_run(config_of(here), day=day) for day in (1, 2, 3)]
    far = finished_run(config_of(there), day=9)
    assert [each.name for each in find_runs((), [here])] == [runs[1].run, runs[2].run]
    assert [each.name for each in find_runs((runs[0].run, "latest"), [here, there])] == [runs[0].run, far.run]
    assert [each.name for each in find_runs((str(far.folder), "latest"), [here])] == [far.run, runs[2].run]
    for names, message in (
        ((runs[0].run, str(runs[0].folder)), "named twice"),
        ((runs[0].run,), "name another one"),
        ((runs[0].run, "2020"), "no run '2020' in any of"),
    ):
        with pytest.raises(AnodiffError, match=message):
            find_runs(names, [here, there])
    with pytest.raises(AnodiffError, match=r"1 run\(s\) ended there"):
        find_runs((), [there])


def test_it_is_written_as_table_page_and_json(store: Path, tmp_path: Path) -> None:
    config = config_of(store, "compare.models=[localize, classify]")
    first = finished_run(config, categories=("bolt", "nut"))
    second = finished_run(config, day=2, contrast=0.5, categories=("bolt", "nut"))
    found = compared(first, second, finished_run(config, pictures_to_test().but(1), day=3))
    for name in ("out/a.csv", "out/a.parquet"):
        write_table(found.figures, tmp_path / name)
    read = pd.read_csv(tmp_path / "out/a.csv", keep_default_na=True)
    assert read["difference"].to_numpy() == pytest.approx(found.figures["difference"].to_numpy(), nan_ok=True)
    assert len(pd.read_parquet(tmp_path / "out/a.parquet")) == len(found.figures)
    document = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert document["runs"][:2] == [first.run, second.run]
    assert document["figures"][0]["difference"] is None
    write_page(found, tmp_path / "out/a.html")
    page = (tmp_path / "out/a.html").read_text()
    for text in (first.run, second.run, "not tested by", "helps", "Best and worst", "[95 %]"):
        assert text in page
    check_sound(page)
    assert f"against {first.run}" in summary_text(found)
    with pytest.raises(ConfigError, match=r"--csv a\.txt: name it a\.csv"):
        check_writable({".csv": Path("a.txt")})


def test_names_of_the_data_are_escaped_on_the_page(store: Path, tmp_path: Path) -> None:
    config = config_of(store)
    category = "<script>alert(1)"
    found = compared(
        finished_run(config, categories=(category,)),
        finished_run(config, day=2, contrast=0.4, categories=(category,)),
    )
    write_page(found, tmp_path / "a.html")
    assert "<script>alert" not in (tmp_path / "a.html").read_text()
