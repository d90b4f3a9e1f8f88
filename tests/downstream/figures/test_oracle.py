"""The oracle's figure: the best checkpoint by the test pictures, found without changing the model that is kept."""

from pathlib import Path

import pandas as pd

from downstream.config import ClassifyConfig, LocalizeConfig
from downstream.figures.oracle import FIGURES, keep_checkpoints, oracle_table
from downstream.localization import train_localization
from downstream.prediction import evaluate_localization
from downstream.training_sets import training_set
from tests.downstream.conftest import Squares


def overall(table: pd.DataFrame) -> "pd.Series[float]":
    chosen = table[(table["defect_type"] == "all") & (table["size"] == "all")]
    return chosen.set_index("metric")["value"]


def test_the_best_checkpoint_is_reported_and_the_last_one_kept(
    squares: Squares, encoder_folder: Path, tiny_config: LocalizeConfig, tmp_path: Path
) -> None:
    rows = training_set("generated+real", squares.samples, squares.pairs)
    config = tiny_config.model_copy(update={"select": "last", "train_steps": 6})
    for name, on_look in (("watched", keep_checkpoints(tmp_path / "looks")), ("plain", None)):
        train_localization(
            rows.train, rows.val, config, tmp_path / name, encoder=encoder_folder, on_look=on_look
        )
    for file in ("model.safetensors", "model.json", "training.csv"):
        assert (tmp_path / "watched" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()

    test = squares.samples[squares.samples["split"] == "test"]
    figures: list[float] = []

    def evaluate(model: Path, out: Path) -> pd.DataFrame:
        table = evaluate_localization(model, test, out)
        figures.append(overall(table)["pixel_ap"])
        return table

    table = oracle_table(tmp_path / "watched", tmp_path / "looks", evaluate, "pixel_ap")
    assert len(figures) == 3
    assert overall(table)["pixel_ap"] == max(figures)
    assert table["checkpoint"].unique().tolist() == [figures.index(max(figures)) + 1]
    assert table["n_checkpoints"].unique().tolist() == [3]
    assert set(table["metric"]) <= FIGURES, "no rate at a threshold that was set for other weights"
    honest = overall(evaluate_localization(tmp_path / "watched", test, tmp_path / "out"))
    assert figures[-1] == honest["pixel_ap"], "the last look is at the weights that are kept"
    assert len(list((tmp_path / "looks").iterdir())) == 3, "no copy is left behind"


def test_an_undefined_figure_is_never_the_best(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number:05}.safetensors").write_bytes(b"weights")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{}")
    values = iter([float("nan"), 0.1])

    def evaluate(model: Path, out: Path) -> pd.DataFrame:
        row = {"metric": "accuracy", "defect_type": "all", "size": "all", "value": next(values)}
        return pd.DataFrame([row])

    table = oracle_table(tmp_path / "model", tmp_path, evaluate, "accuracy")
    assert table["checkpoint"].tolist() == [2]


def test_watching_a_classifier_changes_nothing_in_it(
    squares: Squares, encoder_folder: Path, tmp_path: Path
) -> None:
    from downstream.classification import train_classifier

    pairs = squares.pairs.assign(label=["spot", "dot"] * (len(squares.pairs) // 2))
    rows = training_set("generated", squares.samples, pairs)
    config = ClassifyConfig(size_px=32, train_steps=4, batch_size=4, evaluate_every_steps=2)
    for name, on_look in (("watched", keep_checkpoints(tmp_path / "looks")), ("plain", None)):
        train_classifier(rows, config, tmp_path / name, encoder=encoder_folder, on_look=on_look)
    read = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("watched", "plain")]
    assert read[0] == read[1]
    assert len(list((tmp_path / "looks").iterdir())) == 2
