"""A run's verdict in sentences: what helps, what hurts, what is not known, what to do."""

import pandas as pd
import pytest

from tasks.report.verdict import best_set, deciding_rows, findings, headline, what_next

HELPS, HURTS, OPEN, FEW = "helps", "hurts", "no difference shown", "too few test pictures"
DIFFERENCE = {HELPS: 0.05, HURTS: -0.05, OPEN: 0.001, FEW: 0.02}


def lifts(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    """Rows of lift.parquet: category, model, training set, verdict on the model's headline figure."""
    metric = {"localize": "pixel_ap", "classify": "accuracy", "detect": "image_auroc"}
    return pd.DataFrame(
        [
            {"category": category, "model": model, "training_set": name, "against": "real", "metric": metric[model],
             "baseline": 0.5, "difference": DIFFERENCE[verdict], "low": DIFFERENCE[verdict] - 0.01,
             "high": DIFFERENCE[verdict] + 0.01, "verdict": verdict}
            for category, model, name, verdict in rows
        ]
    )  # fmt: skip


BOTH, ALONE = "generated+real", "generated"


ADDED, INSTEAD = "added to the real shots", "in place of the real shots"


@pytest.mark.parametrize(
    ("rows", "tone", "sentence"),
    [
        ([(BOTH, HELPS), (ALONE, HURTS)], "good",
         f"Yes: {ADDED}, generated pairs help localization; {INSTEAD}, they hurt localization."),
        ([(BOTH, OPEN), (ALONE, HURTS)], "bad",
         f"No: {ADDED}, generated pairs show no difference; {INSTEAD}, they hurt localization."),
        ([(BOTH, OPEN), (ALONE, HELPS)], "warn",
         f"In part: {ADDED}, generated pairs show no difference; {INSTEAD}, they help localization."),
        ([(BOTH, OPEN)], "open", f"Not shown: {ADDED}, generated pairs show no difference."),
        ([(ALONE, HELPS)], "good", f"Yes: {INSTEAD}, generated pairs help localization."),
        ([(BOTH, FEW)], "warn", f"Not known: {ADDED}, generated pairs have too few test pictures to tell."),
        ([("perlin", HELPS)], "warn",
         "Not known: no model was trained both with generated pairs and on the real shots alone."),
        ([], "warn", "Not known: no model was trained both with generated pairs and on the real shots alone."),
    ],
)  # fmt: skip
def test_the_answer_goes_by_pairs_besides_the_shots(
    rows: list[tuple[str, str]], tone: str, sentence: str
) -> None:
    table = lifts(*(("bolt", "localize", name, verdict) for name, verdict in rows))
    assert headline(findings(table)) == (tone, sentence)


def test_over_several_categories_it_says_in_how_many_and_which() -> None:
    table = lifts(
        ("bolt", "localize", BOTH, HELPS), ("nut", "localize", BOTH, HURTS), ("cog", "localize", BOTH, OPEN),
        ("bolt", "detect", BOTH, HELPS), ("nut", "detect", BOTH, HELPS), ("cog", "detect", BOTH, OPEN),
    )  # fmt: skip
    tone, sentence = headline(findings(table))
    assert tone == "warn"
    assert sentence == (
        f"In part: {ADDED}, generated pairs help localization in 1 of 3 categories and detection in "
        "2 of 3 categories and hurt localization in 1 of 3 categories."
    )
    localize, detect = findings(table)
    assert localize.text == (
        "helps in 1 of 3 categories (bolt); hurts in 1 of 3 categories (nut); shows no difference in 1 of 3 categories"
    )
    assert (localize.tone, detect.tone) == ("warn", "good")
    (everywhere,) = findings(table[(table["category"] != "cog") & (table["model"] == "detect")])
    assert everywhere.text == "helps in all 2 categories"


def test_one_category_gets_its_interval() -> None:
    (found,) = findings(lifts(("bolt", "classify", ALONE, HURTS)))
    assert found.text == "hurts: −5.0 [−6.0, −4.0] points"


def test_other_metrics_are_no_verdict() -> None:
    assert findings(lifts(("bolt", "localize", BOTH, HELPS)).assign(metric="aupro")) == []


def test_pairs_are_judged_against_the_best_baseline_and_the_words_say_which() -> None:
    over_real = lifts(("bolt", "localize", BOTH, HELPS), ("bolt", "localize", "copy-paste+real", HELPS))
    over_pasted = lifts(("bolt", "localize", BOTH, OPEN)).assign(against="copy-paste+real", baseline=0.6)
    over_perlin = lifts(("bolt", "localize", BOTH, HURTS)).assign(against="perlin+real", baseline=0.4)
    table = pd.concat([over_real, over_pasted, over_perlin], ignore_index=True)
    pasted, both = findings(table)
    assert both.rows["against"].tolist() == ["copy-paste+real"], "its figure is the best, 60 of 100"
    assert both.text == "shows no difference: +0.1 [−0.9, +1.1] points, against copy-paste+real"
    assert pasted.text == "helps: +5.0 [+4.0, +6.0] points", "no pairs in it: against the shots alone"
    tone, sentence = headline([both, pasted])
    assert (tone, sentence) == (
        "open",
        f"Not shown: {ADDED}, generated pairs show no difference (each against the best baseline: copy-paste+real).",
    )
    assert "take `copy-paste+real`" in advice(table)
    assert best_set(table, "localize", "bolt") == ("copy-paste+real", False)
    rates = table.assign(metric="escape_rate")
    assert deciding_rows(rates)["against"].tolist() == ["real", "perlin+real"], (
        "of escapes the fewest are best"
    )
    assert deciding_rows(pd.DataFrame()).empty


def test_a_set_of_pairs_that_helps_over_the_best_baseline_is_the_one_to_take() -> None:
    table = lifts(("bolt", "localize", BOTH, HELPS), ("bolt", "localize", "copy-paste+real", HELPS))
    table.loc[0, "against"] = "copy-paste+real"
    table.loc[0, "difference"] = 0.02
    table.loc[1, "difference"] = 0.3
    assert best_set(table, "localize", "bolt") == (BOTH, True)
    assert "train on `generated+real`" in advice(table)


def advice(table: pd.DataFrame, **changed: object) -> str:
    given = {
        "failed": 0,
        "base": "sd15",
        "seeds": 3,
        "pass_rate": 0.9,
        "refused_for": "mask empty",
        "naive": False,
    }
    return "\n".join(what_next("R", findings(table), **{**given, **changed}))  # type: ignore[arg-type]


def test_advice_names_the_set_to_take_and_the_command() -> None:
    assert "`anodiff export R OUT --model localize --training-set generated+real`" in advice(
        lifts(("bolt", "localize", BOTH, HELPS), ("bolt", "localize", "copy-paste", OPEN))
    )
    pasted = advice(lifts(("bolt", "localize", BOTH, OPEN), ("bolt", "localize", "copy-paste", HELPS)))
    assert "take `copy-paste`" in pasted
    assert "export" not in pasted
    assert "keep the real shots alone" in advice(lifts(("bolt", "localize", BOTH, OPEN)))


def test_advice_is_of_what_is_wrong_with_the_run() -> None:
    table = lifts(("bolt", "localize", BOTH, OPEN))
    assert "anodiff rerun R --failed" in advice(table, failed=2)
    assert "finetune.base" in advice(table, base="mini")
    assert "finetune.base" not in advice(lifts(("bolt", "localize", BOTH, HELPS)), base="mini")
    assert "Only 20.0 % of the pairs drawn pass, most are refused as “mask empty”" in advice(
        table, pass_rate=0.2
    )
    assert "compare.seeds" in advice(table, seeds=1)
    assert "split.naive" in advice(table, naive=True)
    assert "fewer than ten" in advice(lifts(("bolt", "localize", BOTH, FEW)))
    assert advice(table).count("\n") == 0, "nothing is wrong: one line on the model"


def test_the_best_set_is_the_one_that_helps_most() -> None:
    table = lifts(
        ("bolt", "detect", "copy-paste", HELPS),
        ("bolt", "detect", "perlin", HELPS),
        ("nut", "detect", BOTH, HURTS),
    )
    table.loc[1, "difference"] = 0.2
    assert best_set(table, "detect", "bolt") == ("perlin", False)
    assert best_set(table, "detect", "nut") is None
