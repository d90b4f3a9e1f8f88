"""Curves of a page are those whose areas the run's table has."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from downstream.figures.metrics import aupro, image_metrics, pixel_metrics
from downstream.figures.predictions import Predictions
from tasks.data.samples import read_dataset
from tasks.report.curves import FPR_LIMIT, curve_table, curves_of, curves_svg
from tests.tasks.data_folders import healthy_category
from tests.tasks.drawn_run import drawn_predictions


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("curves")
    healthy_category(folder / "bolt", tests=12, defects=9)
    return read_dataset(folder, ["bolt"])


@pytest.mark.parametrize("strength", [0.02, 0.2, 0.5])
def test_areas_under_the_curves_are_the_metrics(samples: pd.DataFrame, strength: float) -> None:
    predictions = drawn_predictions(samples, strength)
    area = {name: float(np.trapezoid(y, x)) for name, (x, y) in curves_of(predictions).items()}
    scores, labels = predictions.pred_score, predictions.label_index
    maps, masks = predictions.anomaly_map, predictions.gt_mask
    assert area["ROC"] == pytest.approx(image_metrics(scores, labels)["image_auroc"], abs=0.01)
    assert area["PR"] == pytest.approx(pixel_metrics(maps, masks)["pixel_ap"], abs=0.01)
    assert area["PRO"] / FPR_LIMIT == pytest.approx(aupro(maps, masks), abs=0.01)


def test_a_region_counts_once_in_pro_however_large(samples: pd.DataFrame) -> None:
    """A small defect that is missed beside a large one that is found: half of PRO, little of the pixels."""
    predictions = drawn_predictions(samples, 0.0)
    maps, masks = np.zeros_like(predictions.anomaly_map), np.zeros_like(predictions.gt_mask)
    first = int(np.flatnonzero(predictions.label_index)[0])
    masks[first, :8, :8], masks[first, 12, 12] = True, True
    maps[first, :8, :8] = 1.0
    curves = curves_of(replace(predictions, anomaly_map=maps, gt_mask=masks))
    x, y = curves["PRO"]
    assert y[x > 0][0] == pytest.approx(0.5, abs=0.01)
    recall, precision = curves["PR"]
    assert precision[recall == 0.9] == pytest.approx(1.0)


def test_without_one_of_two_classes_there_is_no_curve(samples: pd.DataFrame) -> None:
    good = samples["label_index"] == 0
    assert curves_of(drawn_predictions(samples[good].reset_index(drop=True), 0.2)) == {}


def test_a_table_holds_the_mean_over_seeds_and_its_figure_names_the_areas(samples: pd.DataFrame) -> None:
    one, two = (drawn_predictions(samples, 0.1, seed) for seed in (0, 1))
    table = curve_table("localize", {"real": [one, two], "generated": [one]})

    def y(name: str) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        return table[(table["curve"] == "ROC") & (table["training_set"] == name)]["y"].to_numpy()

    np.testing.assert_allclose(y("real"), (y("generated") + curves_of(two)["ROC"][1]) / 2)
    assert table.groupby("training_set")["n_seeds"].first().to_dict() == {"real": 2, "generated": 1}
    svg = curves_svg(table, {("image_auroc", "real"): 0.4321}, "one", "Localization of bolt")
    assert "real 43.2" in " ".join(svg.split())
    assert "generated –" in " ".join(svg.split())
    assert len(svg) < 60_000


def test_drawn_predictions_are_as_the_file_gives_them_back(samples: pd.DataFrame, tmp_path: Path) -> None:
    from downstream.figures.predictions import read_predictions, write_predictions

    drawn: Predictions = drawn_predictions(samples, 0.2)
    write_predictions(drawn, tmp_path / "predictions.npz")
    back = curves_of(read_predictions(tmp_path / "predictions.npz"))
    for name, (x, y) in curves_of(drawn).items():
        np.testing.assert_array_equal(back[name], (x, y))
