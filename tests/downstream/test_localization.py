"""The U-Net learns, the same seed gives the same weights, and a trained folder stands on its own."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from downstream.config import LocalizeConfig
from downstream.errors import ModelError, PredictionError, TrainingSetError
from downstream.figures.metrics import pixel_metrics
from downstream.figures.predictions import read_predictions, write_predictions
from downstream.localization import train_localization
from downstream.objective import localization_loss
from downstream.prediction import evaluate_localization, image_scores, predict, window_px
from downstream.training_sets import TrainingSet, training_set

from .conftest import Squares


@pytest.fixture(scope="module")
def generated(squares: Squares) -> TrainingSet:
    return training_set("generated", squares.samples, squares.pairs)


def test_bright_squares_are_found_on_unseen_pictures(
    squares: Squares,
    generated: TrainingSet,
    encoder_folder: Path,
    tiny_config: LocalizeConfig,
    tmp_path: Path,
) -> None:
    config = tiny_config.model_copy(update={"train_steps": 100, "batch_size": 8, "evaluate_every_steps": 25})
    encoder = shutil.copytree(encoder_folder, tmp_path / "encoder")
    train_localization(generated.train, generated.val, config, tmp_path / "model", encoder=encoder)
    shutil.rmtree(encoder)  # from here on the trained folder stands alone
    test = squares.samples[squares.samples["split"] == "test"]
    table = evaluate_localization(tmp_path / "model", test, tmp_path / "out")
    value = table[table["size"] == "all"].set_index(["defect_type", "metric"])["value"]
    predictions = read_predictions(tmp_path / "out" / "predictions.npz")
    chance = predictions.gt_mask.mean()
    assert value[("all", "pixel_ap")] > 0.8 > 10 * chance
    assert value[("all", "image_auroc")] > 0.9
    # The file gives the very metrics of the table, so that lift and report speak of the same numbers.
    again = pixel_metrics(predictions.anomaly_map, predictions.gt_mask)
    assert again["pixel_ap"] == pytest.approx(value[("all", "pixel_ap")], rel=1e-6)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "metrics.parquet"), table)
    assert set(table["defect_type"]) == {"all", "spot", "dot"}
    log = pd.read_csv(tmp_path / "model" / "training.csv")
    assert log["step"].tolist() == list(range(1, 101))
    assert log["loss"].tail(10).mean() < 0.5 * log["loss"].head(10).mean()
    model = json.loads((tmp_path / "model" / "model.json").read_text())
    scores = log.set_index("step")["val_pixel_ap"].dropna()
    assert model["selected_step"] == scores.idxmax()
    assert model["val_pixel_ap"] == pytest.approx(scores.max())
    assert model["n_val"] == {"normal": 6, "generated": 4}


@pytest.mark.parametrize("average_weights", [False, True])
def test_same_seed_same_weights(
    generated: TrainingSet,
    encoder_folder: Path,
    tiny_config: LocalizeConfig,
    tmp_path: Path,
    average_weights: bool,
) -> None:
    config = tiny_config.model_copy(update={"average_weights": average_weights})
    state = torch.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(seed)  # what ran before must not matter
        train_localization(
            generated.train, generated.val, config, tmp_path / name, encoder=encoder_folder, seed=seed
        )
    torch.set_rng_state(state)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)
    assert (tmp_path / "a/model.json").read_text() == (tmp_path / "b/model.json").read_text()
    assert (tmp_path / "a/training.csv").read_text() == (tmp_path / "b/training.csv").read_text()


def test_last_checkpoint_can_be_asked_for(
    generated: TrainingSet, encoder_folder: Path, tiny_config: LocalizeConfig, tmp_path: Path
) -> None:
    config = tiny_config.model_copy(update={"select": "last", "train_steps": 3})
    train_localization(generated.train, generated.val, config, tmp_path, encoder=encoder_folder)
    assert json.loads((tmp_path / "model.json").read_text())["selected_step"] == 3


def test_training_reads_no_test_file(
    squares: Squares, encoder_folder: Path, tiny_config: LocalizeConfig, tmp_path: Path
) -> None:
    """With every test picture gone from the table's paths, training and selection still go through."""
    samples = squares.samples.copy()
    samples.loc[samples["split"] == "test", ["image_path", "mask_path"]] = "/gone"
    one = training_set("generated+real", samples, squares.pairs)
    train_localization(one.train, one.val, tiny_config, tmp_path, encoder=encoder_folder)
    assert (tmp_path / "model.safetensors").exists()


def test_validation_without_normals_is_refused(generated: TrainingSet, tiny_config: LocalizeConfig) -> None:
    val = generated.val[generated.val["label_index"] == 1]
    with pytest.raises(TrainingSetError, match="normal and anomalous"):
        train_localization(generated.train, val, tiny_config, Path("/nowhere"))


def test_incomplete_folders_and_empty_tables_are_refused(squares: Squares, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no complete localization model"):
        predict(tmp_path, squares.samples)
    with pytest.raises(PredictionError, match="no rows"):
        predict(tmp_path, squares.samples.iloc[:0])
    (tmp_path / "predictions.npz").write_text("no")
    with pytest.raises(PredictionError, match=r"predictions\.npz"):
        read_predictions(tmp_path / "predictions.npz")


def test_predictions_survive_the_file(tmp_path: Path) -> None:
    from tests.downstream.figures.test_metrics import random_predictions

    given = random_predictions(0)
    write_predictions(given, tmp_path / "p.npz")
    read = read_predictions(tmp_path / "p.npz")
    for name, value in vars(given).items():
        np.testing.assert_array_equal(getattr(read, name), value, err_msg=name)


def test_image_score_is_the_maximum_of_the_mean_filtered_map() -> None:
    assert [window_px(s) for s in (256, 128, 512, 64, 32)] == [21, 11, 41, 5, 3]
    maps = torch.zeros(2, 64, 64)
    maps[0, 10:15, 20:25] = 1.0  # fills one 5×5 window
    maps[1, 30, 30] = 1.0  # a single hot pixel counts for 1/25
    torch.testing.assert_close(image_scores(maps), torch.tensor([1.0, 1 / 25]))


def test_loss_falls_with_better_masks_and_stays_finite_on_normals() -> None:
    loss = localization_loss(LocalizeConfig())
    truth = torch.zeros(2, 1, 8, 8)
    truth[0, 0, 2:5, 2:5] = 1
    losses = [loss(truth * 2 * scale - scale, truth).item() for scale in (-4.0, 0.0, 4.0, 20.0)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-3
    assert torch.isfinite(loss(torch.full((2, 1, 8, 8), -30.0).bfloat16(), torch.zeros(2, 1, 8, 8)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason=f"no CUDA device on {socket.gethostname()}")
def test_training_runs_in_bfloat16_on_cuda(
    squares: Squares,
    generated: TrainingSet,
    encoder_folder: Path,
    tiny_config: LocalizeConfig,
    tmp_path: Path,
) -> None:
    config = tiny_config.model_copy(update={"train_steps": 100, "batch_size": 8, "evaluate_every_steps": 25})
    train_localization(
        generated.train, generated.val, config, tmp_path / "m", encoder=encoder_folder, device="cuda"
    )
    test = squares.samples[squares.samples["split"] == "test"]
    on_gpu = predict(tmp_path / "m", test, device="cuda")
    assert pixel_metrics(on_gpu.anomaly_map, on_gpu.gt_mask)["pixel_ap"] > 0.8
    on_cpu = predict(tmp_path / "m", test)
    assert np.abs(on_gpu.anomaly_map - on_cpu.anomaly_map).mean() < 0.01
