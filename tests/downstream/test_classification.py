"""The classifier learns defect types, its figures are scikit-learn's, and what can't be learnt is said."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from downstream.batches import draw_class_batches
from downstream.classification import evaluate_classifier, predict_classes, train_classifier
from downstream.classifier import build_classifier, class_names
from downstream.config import ClassifyConfig
from downstream.errors import (
    EncoderError,
    ModelError,
    NotClassifiableError,
    PredictionError,
    TrainingSetError,
)
from downstream.figures.class_predictions import (
    ClassPredictions,
    class_metrics_table,
    confusion_table,
    read_class_predictions,
    write_class_predictions,
)
from downstream.training_sets import TrainingSet
from dual_anodiff.image_encoder import imagenet_encoder

SIZE_PX = 32
TILES = Path(__file__).parents[3] / "shared/data/magnetic_tile"
CONFIG = ClassifyConfig(size_px=SIZE_PX, train_steps=4, batch_size=6, evaluate_every_steps=2)


def draw_rows(root: Path, counts: dict[str, int], source: str, seed: int) -> pd.DataFrame:
    """Grey noise; "hole" has a dark square, "spot" a bright one."""
    generator = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for label, count in counts.items():
        for i in range(count):
            picture = generator.normal(128, 10, (SIZE_PX, SIZE_PX, 3))
            y, x = generator.integers(0, SIZE_PX - 16, 2)
            picture[y : y + 16, x : x + 16] += {"good": 0, "hole": -90, "spot": 90}[label]
            path = root / f"{label}-{i}.png"
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path)
            kind = "normal" if label == "good" else source
            rows.append((str(path), "no mask is read", label, int(label != "good"), kind))
    return pd.DataFrame(rows, columns=["image_path", "mask_path", "label", "label_index", "source"])


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    """24 good against 3 holes and 8 made spots in training; a few of each in validation."""
    root = tmp_path_factory.mktemp("toys")
    real = draw_rows(root / "real", {"good": 24, "hole": 3}, "real", 0)
    made = draw_rows(root / "made", {"spot": 8}, "generated", 1)
    val = draw_rows(root / "val", {"good": 3, "hole": 2, "spot": 2}, "generated", 2)
    return TrainingSet("generated+real", pd.concat([real, made], ignore_index=True), val)


@pytest.fixture(scope="module")
def test_rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return draw_rows(tmp_path_factory.mktemp("test"), {"good": 8, "hole": 6, "spot": 6}, "real", 3)


def test_defect_types_are_told_apart_on_unseen_pictures(
    toys: TrainingSet, test_rows: pd.DataFrame, encoder_folder: Path, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"train_steps": 50, "batch_size": 12, "learning_rate": 3e-3})
    encoder = shutil.copytree(encoder_folder, tmp_path / "encoder")
    train_classifier(toys, config, tmp_path / "model", encoder=encoder)
    shutil.rmtree(encoder)  # from here on the trained folder stands alone
    table = evaluate_classifier(tmp_path / "model", test_rows, tmp_path / "out")
    value = table.set_index(["defect_type", "metric"])["value"]
    assert value[("all", "accuracy")] > 0.85
    assert set(table["model"]) == {"classification"}
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out/metrics.parquet"), table)
    predictions = read_class_predictions(tmp_path / "out/predictions.npz")
    assert value[("all", "accuracy")] == accuracy_score(predictions.label, predictions.pred_label)
    assert predictions.classes.tolist() == ["good", "hole", "spot"]
    np.testing.assert_allclose(predictions.probability.sum(1), 1, atol=1e-5)
    assert pd.read_parquet(tmp_path / "out/confusion.parquet")["n"].sum() == 20
    model = json.loads((tmp_path / "model/model.json").read_text())
    assert model["selected_step"] == 50, "a fixed budget and the last weights, unless asked otherwise"
    assert model["n_train"] == {"good": 24, "hole": 3, "spot": 8}
    log = pd.read_csv(tmp_path / "model/training.csv")
    assert log["step"].tolist() == list(range(1, 51))
    assert log["loss"].tail(5).mean() < 0.5 * log["loss"].head(5).mean()


def test_same_seed_same_weights(toys: TrainingSet, encoder_folder: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(seed)  # what ran before must not matter
        train_classifier(toys, CONFIG, tmp_path / name, encoder=encoder_folder, seed=seed)
    torch.set_rng_state(state)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)
    assert (tmp_path / "a/model.json").read_text() == (tmp_path / "b/model.json").read_text()


def test_validation_selects_where_asked(toys: TrainingSet, encoder_folder: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"select": "validation"})
    train_classifier(toys, config, tmp_path, encoder=encoder_folder)
    scores = pd.read_csv(tmp_path / "training.csv").set_index("step")["val_balanced_accuracy"].dropna()
    assert scores.index.tolist() == [2, 4]
    assert json.loads((tmp_path / "model.json").read_text())["selected_step"] == scores.idxmax()
    with pytest.raises(TrainingSetError, match=r"classify\.select"):
        train_classifier(replace(toys, val=toys.val.iloc[:0]), config, tmp_path, encoder=encoder_folder)


def test_classes_take_equal_turns_and_kinds_their_share() -> None:
    labels = ["good"] * 50 + ["hole"] * 2 + ["spot"] * 3 + ["spot"] * 20
    sources = ["normal"] * 50 + ["real"] * 5 + ["generated"] * 20
    config = CONFIG.model_copy(update={"batch_size": 8, "real_share": 0.25})
    batches = draw_class_batches(labels, sources, config, seed=0)
    drawn = np.concatenate([next(batches) for _ in range(60)])  # 480 rows
    count = pd.Series(labels).iloc[drawn].value_counts()
    assert count.to_dict() == {"good": 160, "hole": 160, "spot": 160}
    assert ((drawn >= 52) & (drawn < 55)).sum() == pytest.approx(40, abs=1)
    assert len(set(drawn[drawn < 50].tolist())) == 50
    again = draw_class_batches(labels, sources, config, seed=0)
    np.testing.assert_array_equal(np.concatenate([next(again) for _ in range(60)]), drawn)


def test_what_cannot_be_classified_is_said(toys: TrainingSet) -> None:
    train = toys.train
    assert class_names(train) == ("good", "hole", "spot")
    cases = [
        (train[train["label"] != "spot"], None, "two defect types"),
        (train, ["hole", "rust", "spot"], "no training picture of class rust"),
        (train[train["label"] != "good"], None, "no training picture of class good"),
        (
            train.replace({"source": {"generated": "perlin"}}),
            None,
            "8 training pictures are drawn by the perlin",
        ),
        (train.replace({"label": {"spot": "perlin"}}), None, "have no defect type"),
        (pd.concat([train, train.tail(1).assign(label="rust")]), ["hole", "spot"], "not among the expected"),
    ]
    for rows, expected, reason in cases:
        with pytest.raises(NotClassifiableError, match=reason):
            class_names(rows, expected)
    with pytest.raises(NotClassifiableError, match="two defect types"):
        train_classifier(replace(toys, train=cases[0][0]), CONFIG, Path("/nowhere"))


def random_guesses(seed: int = 0) -> ClassPredictions:
    generator = np.random.default_rng(seed)
    classes = np.array(["good", "crack", "hole", "stain"])
    label = generator.choice(classes[:3], 50)
    probability = generator.dirichlet(np.ones(4), 50).astype(np.float32)
    probability[:, 2] = 0  # "hole" is never guessed
    return ClassPredictions(np.array([f"{i}.png" for i in range(50)]), label, classes, probability)


def test_figures_are_scikit_learns_and_absent_classes_are_left_out() -> None:
    given = random_guesses()
    table = class_metrics_table(given)
    value = table.set_index(["defect_type", "metric"])["value"]
    present, truth, guess = ["good", "crack", "hole"], given.label, given.pred_label
    assert value[("all", "accuracy")] == pytest.approx(accuracy_score(truth, guess))
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        assert value[("all", "balanced_accuracy")] == pytest.approx(balanced_accuracy_score(truth, guess))
    wanted = f1_score(truth, guess, labels=present, average="macro", zero_division=0)
    assert value[("all", "macro_f1")] == pytest.approx(wanted)
    note = table.set_index(["defect_type", "metric"])["note"]
    assert note[("all", "macro_f1")] == "left out, no test picture: stain"
    assert note[("all", "accuracy")] == ""
    assert np.isnan(value[("stain", "recall")])
    assert note[("stain", "recall")] == "no test picture of this class"
    assert (value[("hole", "recall")], value[("hole", "f1")]) == (0, 0)
    assert note[("hole", "precision")] == "this class was never predicted"
    n_good = int((truth == "good").sum())
    for defect_type, metric, counts in (
        ("all", "accuracy", [50, n_good, 50 - n_good]),
        ("good", "recall", [n_good, n_good, 0]),
    ):
        row = table[(table["defect_type"] == defect_type) & (table["metric"] == metric)]
        assert row[["n", "n_good", "n_defect"]].to_numpy().tolist() == [counts]
    assert table["size"].eq("all").all()
    square = confusion_table(given).pivot(index="label", columns="pred_label", values="n")
    order = given.classes.tolist()
    expected = confusion_matrix(truth, guess, labels=order)
    np.testing.assert_array_equal(square.loc[order, order].to_numpy(), expected)


def test_predictions_survive_the_file(tmp_path: Path) -> None:
    given = random_guesses()
    write_class_predictions(given, tmp_path / "p.npz")
    for name, value in vars(read_class_predictions(tmp_path / "p.npz")).items():
        np.testing.assert_array_equal(getattr(given, name), value, err_msg=name)
    (tmp_path / "p.npz").write_text("no")
    with pytest.raises(PredictionError, match=r"p\.npz"):
        read_class_predictions(tmp_path / "p.npz")


def test_a_class_that_was_never_trained_and_empty_tables_are_refused(
    toys: TrainingSet, test_rows: pd.DataFrame, encoder_folder: Path, tmp_path: Path
) -> None:
    train_classifier(toys, CONFIG, tmp_path / "m", encoder=encoder_folder)
    with pytest.raises(PredictionError, match="not trained on rust"):
        predict_classes(tmp_path / "m", test_rows.replace({"label": {"spot": "rust"}}))
    with pytest.raises(PredictionError, match="no rows"):
        predict_classes(tmp_path / "m", test_rows.iloc[:0])
    with pytest.raises(ModelError, match="no complete classification model"):
        predict_classes(tmp_path, test_rows)


def test_the_body_is_loaded_and_the_head_is_fresh(encoder_folder: Path, tmp_path: Path) -> None:
    import timm

    network, spec = build_classifier(3, encoder_folder)
    weights = load_file(encoder_folder / "model.safetensors")
    state = network.state_dict()
    assert all(torch.equal(state[name], tensor.to(state[name].dtype)) for name, tensor in weights.items())
    assert set(state) - set(weights) == {"fc.weight", "fc.bias"}
    assert spec.mean == (0.5, 0.5, 0.5)
    # A file with a head of another size, as ImageNet weights have it.
    full = timm.create_model("resnet18", num_classes=10).state_dict()
    save_file(full, tmp_path / "resnet18.safetensors")
    loaded = build_classifier(3, "resnet18", tmp_path / "resnet18.safetensors")[0].state_dict()
    assert torch.equal(loaded["layer4.1.conv2.weight"], full["layer4.1.conv2.weight"])
    assert loaded["fc.weight"].shape == (3, 512)


def test_encoder_errors_name_the_options_of_classification(tmp_path: Path, encoder_folder: Path) -> None:
    with pytest.raises(EncoderError, match=r"classify\.encoder: 'resnett18' is neither"):
        build_classifier(3, "resnett18", "random")
    with pytest.raises(EncoderError, match=r"no such file.*classify\.encoder_weights"):
        build_classifier(3, "resnet18", tmp_path / "absent.safetensors")
    with pytest.raises(EncoderError, match="tensors of encoder resnet18 are not in it"):
        build_classifier(3, "resnet18", encoder_folder / "model.safetensors")


@pytest.mark.skipif(not TILES.exists(), reason="needs ../shared/data, which is not part of the project")
def test_real_tiles_go_through_with_the_imagenet_encoder(tmp_path: Path) -> None:
    """Two steps on a few real pictures: grey JPEGs, ImageNet weights, prediction on others of them."""
    rows = [
        (str(path), "", label, int(label != "good"), "normal" if label == "good" else "real", split)
        for label in ("good", "blowhole", "crack")
        for split, paths in (("train", slice(0, 3)), ("test", slice(3, 5)))
        for path in sorted((TILES / "test" / label).iterdir())[paths]
    ]
    table = pd.DataFrame(rows, columns=["image_path", "mask_path", "label", "label_index", "source", "split"])
    train = table[table["split"] == "train"]
    config = CONFIG.model_copy(update={"size_px": 64, "train_steps": 2})
    rows_to_train = TrainingSet("real", train, train.iloc[:0])
    train_classifier(rows_to_train, config, tmp_path / "m", encoder=imagenet_encoder())
    metrics = evaluate_classifier(tmp_path / "m", table[table["split"] == "test"], tmp_path / "o")
    assert metrics["n"].max() == 6
    assert metrics["value"].notna().any()
