"""The figure of how the numbers of steps were chosen: an axis a model, what was chosen said, nothing without a score."""

import pandas as pd

from tasks.report.steps import WIDTH, steps_svg


def scores(model: str, training_set: str, fold: int, of: dict[int, float], chosen: int) -> pd.DataFrame:
    table = pd.DataFrame({"step": list(of), "score": list(of.values())})
    return table.assign(model=model, training_set=training_set, fold=fold, n_shots=2, chosen=chosen)


def test_each_model_has_an_axis_and_its_alt_text_says_what_was_chosen() -> None:
    steps = pd.concat(
        [
            scores("localize", "real", 1, {50: 0.2, 100: 0.6}, 100),
            scores("localize", "real", 2, {50: 0.4, 100: 0.8, 200: 0.5}, 100),  # the other one ended early
            scores("localize", "generated+real", 1, {50: 0.1, 100: 0.2, 200: 0.3}, 200),
            scores("classify", "real", 1, {50: 0.5, 100: 0.4}, 50),
        ]
    )
    svg = " ".join(steps_svg(steps, "bolt-steps", "bolt").split())
    assert "Localization on real: 100 steps, pixel AP 70.0 %" in svg
    assert "Localization on generated+real: 200 steps, pixel AP 30.0 %" in svg
    assert "Classification on real: 50 steps, balanced accuracy 50.0 %" in svg
    assert svg.count("steps of training") == 2


def test_one_model_fills_the_page_s_width() -> None:
    svg = steps_svg(scores("localize", "real", 1, {50: 0.2, 100: 0.6}, 100), "bolt-steps", "bolt")
    assert f'width="{WIDTH * 96:.0f}"' in svg


def test_without_a_held_out_shot_there_is_no_figure() -> None:
    row = {"model": "localize", "training_set": "real", "fold": 0, "n_shots": 0, "chosen": 283}
    assert steps_svg(pd.DataFrame([row]), "bolt-steps", "bolt") == ""
    assert steps_svg(pd.DataFrame(), "bolt-steps", "bolt") == ""
