"""Detectors train offline through anomalib, never see a test picture, and give the files that all models give."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file

from downstream.config import DetectConfig, DetectorName, learns_from_defects
from downstream.detectors.anomalib_data import rows_datamodule
from downstream.detectors.backbone import resolve_backbone
from downstream.detectors.models import build_detector, frugal_coreset, open_ended, seeded
from downstream.detectors.training import (
    DetectionModel,
    evaluate_detector,
    load_detector,
    predict_detector,
    train_detector,
)
from downstream.errors import DownstreamError, EncoderError, ModelError, PredictionError, TrainingSetError
from downstream.figures.defect_sizes import mask_shares
from downstream.figures.metrics import metrics_table
from downstream.figures.predictions import read_predictions
from downstream.training_sets import TrainingSet, training_set
from tests.downstream.conftest import SIZE_PX, Squares

MOBILENET = Path(__file__).parents[4] / "shared/models/mobilenetv2_100_imagenet.safetensors"

# Each small enough for a second or two on one core.
PADIM = DetectConfig(model="padim", size_px=SIZE_PX, n_features=24)
PATCHCORE = DetectConfig(model="patchcore", size_px=SIZE_PX)
SUPERSIMPLENET = DetectConfig(
    model="supersimplenet", size_px=SIZE_PX, layers=("layer1",), train_steps=3, batch_size=2
)

# Every path that Python opens is noted here while watched() is open; an audit hook cannot be taken off again.
opened: list[set[str]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if opened and event == "open" and isinstance(arguments[0], str | Path):
        opened[-1].add(str(arguments[0]))


sys.addaudithook(_note)


@contextmanager
def watched() -> Iterator[set[str]]:
    """The paths opened inside."""
    opened.append(set())
    try:
        yield opened[-1]
    finally:
        opened.pop()


@pytest.fixture(scope="module")
def generated(squares: Squares) -> TrainingSet:
    return training_set("generated", squares.samples, squares.pairs)


@pytest.fixture(scope="module")
def test_rows(squares: Squares) -> pd.DataFrame:
    return squares.samples[squares.samples["split"] == "test"].reset_index(drop=True)


@pytest.fixture(scope="module")
def on_generated(
    generated: TrainingSet, encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[DetectConfig], Path]:
    """The folder of a detector on `generated` with seed 0, trained once for all tests."""

    @cache
    def train(config: DetectConfig) -> Path:
        out = tmp_path_factory.mktemp(config.model)
        train_detector(generated, config, out, backbone=encoder_folder)
        return out

    return train


@pytest.fixture(scope="module")
def padim(on_generated: Callable[[DetectConfig], Path]) -> Path:
    return on_generated(PADIM)


@dataclass(frozen=True)
class Marked:
    """Detectors on "generated+real", trained while watched; the table's test pictures are copies in `folder`."""

    folder: Path
    samples: pd.DataFrame
    rows: TrainingSet
    trained: dict[str, Path]
    opened: dict[str, set[str]]

    def seen(self, paths: set[str]) -> int:
        """How many of the paths are marked."""
        return sum(path.startswith(str(self.folder)) for path in paths)


@pytest.fixture(scope="module")
def marked(squares: Squares, encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Marked:
    samples, root = squares.samples.copy(), tmp_path_factory.mktemp("marked")
    (root / "test").mkdir()
    for i in samples.index[samples["split"] == "test"]:
        for column in ("image_path", "mask_path"):
            if samples.loc[i, column]:
                copy = root / "test" / f"{i}_{column}.png"
                copy.write_bytes(Path(samples.loc[i, column]).read_bytes())
                samples.loc[i, column] = str(copy)
    one = Marked(root / "test", samples, training_set("generated+real", samples, squares.pairs), {}, {})
    for config in (PADIM, SUPERSIMPLENET):
        out = one.trained[config.model] = root / config.model
        with watched() as paths:
            train_detector(one.rows, config, out, backbone=encoder_folder)
        one.opened[config.model] = paths
    return one


def test_a_detector_finds_squares_and_gives_the_files_of_every_model(
    padim: Path, test_rows: pd.DataFrame, tmp_path: Path
) -> None:
    table = evaluate_detector(padim, test_rows, tmp_path)
    predictions = read_predictions(tmp_path / "predictions.npz")
    whole = table[(table["defect_type"] == "all") & (table["size"] == "all")]
    value = whole.set_index("metric")["value"]
    assert value["image_auroc"] > 0.9
    assert value["pixel_auroc"] > 0.9
    assert table.columns[0] == "model"
    assert set(table["model"]) == {"padim"}
    shares = mask_shares(test_rows["mask_path"].tolist())
    pd.testing.assert_frame_equal(table.drop(columns="model"), metrics_table(predictions, shares))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "metrics.parquet"), table)
    assert (predictions.image_threshold, predictions.pixel_threshold) == (0.5, 0.5)
    assert predictions.anomaly_map.shape == (len(test_rows), SIZE_PX, SIZE_PX)
    assert predictions.anomaly_map.min() > 0
    assert predictions.anomaly_map.max() < 1
    assert value["overkill_rate"] < 0.5, "normals of the test set stay below the threshold set on validation"


def test_defect_sizes_are_those_of_the_masks_on_disk(
    padim: Path, test_rows: pd.DataFrame, tmp_path: Path
) -> None:
    """A scratch of 0.16 % is 1.6 % of the model's smaller picture, in which it cannot be thinner than a pixel."""
    mask = np.zeros((10 * SIZE_PX, 10 * SIZE_PX), dtype=np.uint8)
    mask[5] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask // 2).convert("RGB").save(tmp_path / "scratch.png")
    rows = test_rows.groupby("label_index").head(1).copy()
    rows.loc[rows["label_index"] == 1, ["image_path", "mask_path"]] = [
        str(tmp_path / "scratch.png"),
        str(tmp_path / "mask.png"),
    ]
    table = evaluate_detector(padim, rows, tmp_path / "out")
    assert set(table["size"]) == {"all", "0.1-1 %"}


def test_training_leaves_its_folder_alone_behind(
    generated: TrainingSet, encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    train_detector(generated, PATCHCORE, tmp_path / "model", backbone=encoder_folder)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["model", "model.json", "model.safetensors"]
    assert capfd.readouterr() == ("", "")


def test_no_test_picture_is_opened_in_training(marked: Marked, encoder_folder: Path, tmp_path: Path) -> None:
    """Opening a test row's picture while training, in Python or by anomalib, would show."""
    for paths in marked.opened.values():
        assert set(marked.rows.val["image_path"]) <= paths, "the watch sees what is read"
        assert marked.seen(paths) == 0
    test = marked.samples[marked.samples["split"] == "test"]
    with watched() as paths:
        evaluate_detector(marked.trained["padim"], test, tmp_path / "out")
    assert marked.seen(paths) == (test["label_index"] == 0).sum() + 2 * test["label_index"].sum()
    # What anomalib does by default, the test set for validation, this very test would find.
    leaky = replace(marked.rows, val=test.assign(source="real"))
    with watched() as paths:
        train_detector(leaky, PADIM, tmp_path / "leaky", backbone=encoder_folder)
    assert marked.seen(paths) > 0


def test_the_datamodule_holds_train_and_validation_only(generated: TrainingSet) -> None:
    data = rows_datamodule(generated, PATCHCORE, 0)
    train = [path for batch in data.train_dataloader() for path in batch.image_path]
    val = [path for batch in data.val_dataloader() for path in batch.image_path]
    assert train == generated.train.loc[generated.train["label_index"] == 0, "image_path"].tolist()
    assert val == generated.val["image_path"].tolist()
    with pytest.raises(TrainingSetError, match="no test set"):
        data.test_dataloader()
    batch = next(iter(data.val_dataloader()))
    assert batch.image.shape == (8, 3, SIZE_PX, SIZE_PX)
    assert 0 <= batch.image.min() < batch.image.max() <= 1
    assert batch.gt_mask.flatten(1).any(1).tolist() == batch.gt_label.tolist()


def test_only_supervised_supersimplenet_learns_from_defects(
    marked: Marked, on_generated: Callable[[DetectConfig], Path]
) -> None:
    assert learns_from_defects("supersimplenet")
    others: tuple[DetectorName, ...] = (
        "padim",
        "patchcore",
        "supersimplenet-unsupervised",
        "efficientad",
        "draem",
        "dinomaly",
    )
    assert not any(map(learns_from_defects, others))
    # "generated+real" against "generated": the same normals, other defects
    for config, alike in ((PADIM, True), (SUPERSIMPLENET, False)):
        folders = (marked.trained[config.model], on_generated(config))
        states = [load_file(folder / "model.safetensors") for folder in folders]
        assert all(torch.equal(states[0][n], states[1][n]) for n in states[0]) == alike, config.model
        described = DetectionModel.model_validate_json((folders[0] / "model.json").read_text())
        assert ("generated" in described.n_train) != alike


def test_drawn_batches_hold_their_share_of_defects(generated: TrainingSet) -> None:
    config = SUPERSIMPLENET.model_copy(update={"batch_size": 4, "train_steps": 20})
    pasted = replace(generated, train=generated.train.replace({"source": {"generated": "copy-paste"}}))
    data = rows_datamodule(pasted, config, 0)
    labels = [batch.gt_label.sum().item() for _ in range(2) for batch in data.train_dataloader()]
    assert labels == [2] * 4, "two rounds of two steps, half of each batch anomalous"
    unsupervised = config.model_copy(update={"model": "supersimplenet-unsupervised"})
    data = rows_datamodule(generated, unsupervised, 0)
    paths = [p for _ in range(2) for batch in data.train_dataloader() for p in batch.image_path]
    assert len(set(paths)) == 16, "rounds go on where the last one stopped: each normal once before any twice"
    assert not any(batch.gt_label.any() for batch in data.train_dataloader())


@pytest.mark.parametrize("config", [PADIM, PATCHCORE, SUPERSIMPLENET], ids=lambda c: c.model)
def test_same_seed_same_weights_and_the_callers_random_numbers_stay(
    generated: TrainingSet,
    on_generated: Callable[[DetectConfig], Path],
    encoder_folder: Path,
    tmp_path: Path,
    config: DetectConfig,
) -> None:
    first = on_generated(config)
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    for name, seed in (("again", 0), ("other", 1)):
        train_detector(generated, config, tmp_path / name, backbone=encoder_folder, seed=seed)
    assert (torch.rand(1), np.random.rand()) == expected
    a, b, c = (load_file(f / "model.safetensors") for f in (first, tmp_path / "again", tmp_path / "other"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_decisions_are_anomalibs_but_scores_beyond_validation_keep_their_order() -> None:
    from anomalib.post_processing import PostProcessor

    raw = torch.linspace(-30, 60, 500)
    low, high, threshold = torch.tensor(0.0), torch.tensor(8.0), torch.tensor(5.0)
    ours = open_ended(raw, low, high, threshold)
    theirs = PostProcessor._normalize(raw, low, high, threshold)
    assert ours is not None
    assert torch.equal(ours > 0.5, theirs > 0.5)
    assert (ours.diff() > 0).all()
    assert (theirs.diff() == 0).any(), "anomalib's clamp, which makes far scores equal"
    assert 0 < ours.min() < ours.max() < 1
    assert open_ended(torch.ones(1), low, torch.tensor(torch.nan), threshold) == 1, "unset: left as it is"


def test_the_threshold_is_the_middle_of_the_gap_on_validation(padim: Path, generated: TrainingSet) -> None:
    predictions = predict_detector(padim, generated.val)
    reached = predictions.pred_score >= 0.5
    truth = predictions.label_index == 1
    assert (reached == truth).mean() > 0.8
    below, above = predictions.pred_score[~reached].max(), predictions.pred_score[reached].min()
    assert below < 0.5 < above
    model, described = load_detector(padim)
    assert model.post_processor._image_threshold.item() == pytest.approx(described.raw_image_threshold)


def test_the_frugal_coreset_is_anomalibs() -> None:
    from anomalib.models.components.sampling import KCenterGreedy

    patches = torch.rand(400, 24, generator=torch.Generator().manual_seed(0))

    def chosen() -> list[int]:
        with seeded(3, "cpu"):
            return KCenterGreedy(patches, 0.1).select_coreset_idxs()

    plain = chosen()
    with frugal_coreset():
        assert chosen() == plain
    assert chosen() == plain, "anomalib's own is back"


def test_grey_and_16_bit_pictures_are_read(
    generated: TrainingSet, encoder_folder: Path, tmp_path: Path
) -> None:
    train = generated.train.copy()
    for i, path in enumerate(train["image_path"]):
        grey = np.asarray(Image.open(path).convert("L"))
        deep = Image.fromarray(grey.astype(np.uint16) * 257) if i % 2 else Image.fromarray(grey)
        deep.save(tmp_path / f"{i}.png")
        train.loc[i, "image_path"] = str(tmp_path / f"{i}.png")
    described = train_detector(
        replace(generated, train=train), PADIM, tmp_path / "m", backbone=encoder_folder
    )
    assert described.n_train == {"normal": 16}


@pytest.mark.skipif(not MOBILENET.exists(), reason="needs ../shared/models, which is not part of the project")
def test_a_local_weight_file_reaches_the_backbone(generated: TrainingSet, tmp_path: Path) -> None:
    config = PADIM.model_copy(update={"backbone": "mobilenetv2_100", "backbone_weights": MOBILENET})
    described = train_detector(generated, config, tmp_path)
    assert described.backbone is not None
    assert described.backbone.layers == ("blocks.1", "blocks.2", "blocks.4"), "strides 4, 8, 16"
    given, kept = load_file(MOBILENET), load_file(tmp_path / "model.safetensors")
    name = "feature_extractor.feature_extractor.conv_stem.weight"
    assert torch.equal(kept[f"model.{name}"], given["conv_stem.weight"])


def test_an_encoder_folders_arguments_reach_timm(encoder_folder: Path, tmp_path: Path) -> None:
    config = DetectConfig(
        model="supersimplenet", backbone="mobilenetv2_035", backbone_weights="random", size_px=128
    )
    spec, weights = resolve_backbone(config, None)
    same = spec.encoder.model_copy(update={"model_args": {"pad_type": "same"}})
    model = build_detector(config, spec.model_copy(update={"encoder": same}), weights)
    stem = model.model.feature_extractor.feature_extractor.feature_extractor.conv_stem
    assert "Same" in type(stem).__name__


def test_an_unreachable_hub_names_the_local_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for model, name in (
        ("supersimplenet", "resnet10t"),
        ("patchcore", "resnet10t"),
        ("dinomaly", "vit_small_patch14_reg4_dinov2"),
    ):
        config = DetectConfig.model_validate({"model": model, "backbone": name, "size_px": 224})
        spec, weights = resolve_backbone(config, None)
        with pytest.raises(EncoderError, match=r"hub.*detect\.backbone_weights"):
            build_detector(config, spec, weights)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"model": "draem"}, "texture_folder"),
        ({"model": "draem", "texture_folder": "x", "size_px": 100}, "multiple of 32"),
        ({"model": "efficientad"}, "picture_folder"),
        ({"model": "efficientad", "picture_folder": "x", "size_px": 128}, "at least 256"),
        ({"model": "dinomaly"}, "backbone_weights"),
        ({"model": "padin"}, "model"),
    ],
)
def test_what_a_model_lacks_is_said_when_the_config_is_read(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        DetectConfig.model_validate(options)


def test_what_a_model_lacks_on_disk_is_said_before_training(
    generated: TrainingSet, encoder_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "classes" / "cat").mkdir(parents=True)
    (tmp_path / "weights").write_text("no")
    vit = "vit_small_patch14_reg4_dinov2"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": "draem", "texture_folder": tmp_path / "none"}, r"detect\.texture_folder"),
        (
            {"model": "efficientad", "picture_folder": tmp_path / "none"},
            r"detect\.picture_folder.*there is none",
        ),
        ({"model": "efficientad", "picture_folder": tmp_path / "classes"}, r"\['cat'\] hold none"),
        ({"model": "dinomaly", "backbone": "resnet18", "size_px": 224}, r"detect\.backbone.*dinomaly"),
        ({"model": "dinomaly", "backbone": vit, "size_px": 256}, r"detect\.size_px.*Set it to 252"),
        (
            {"model": "dinomaly", "backbone": vit, "size_px": 224, "backbone_weights": "x"},
            r"detect\.backbone_weights",
        ),
        (
            {"model": "padim", "backbone": "resnet18", "backbone_weights": tmp_path / "weights"},
            "not a safetensors",
        ),
        ({"model": "padim", "backbone": "resnettt"}, "neither a folder nor a timm model"),
        ({"model": "padim", "backbone": "a/b"}, "no folder"),
        ({"model": "padim"}, "imagenet"),
        (
            {"model": "padim", "backbone": str(encoder_folder), "layers": ["layer9"]},
            r"detect\.layers.*layer1",
        ),
        (
            {"model": "padim", "backbone": str(encoder_folder), "n_features": 900},
            r"detect\.n_features is 900",
        ),
        ({"model": "supersimplenet", "backbone": str(encoder_folder), "size_px": 64}, "Set it to 128"),
    ]
    for options, fault in cases:
        with pytest.raises(DownstreamError, match=fault):
            train_detector(generated, DetectConfig.model_validate(options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_that_cannot_set_a_threshold_are_refused(generated: TrainingSet, encoder_folder: Path) -> None:
    no_defect = replace(generated, val=generated.val[generated.val["label_index"] == 0])
    no_normal = replace(generated, train=generated.train[generated.train["label_index"] == 1])
    for one, fault in ((no_defect, "normal and anomalous"), (no_normal, "no normal picture")):
        with pytest.raises(TrainingSetError, match=fault):
            train_detector(one, PADIM, Path("/nowhere"), backbone=encoder_folder)


def test_incomplete_folders_and_empty_tables_are_refused(
    padim: Path, test_rows: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no complete detector"):
        predict_detector(tmp_path, test_rows)
    with pytest.raises(PredictionError, match="no rows"):
        predict_detector(padim, test_rows.iloc[:0])
    described = DetectionModel.model_validate_json((padim / "model.json").read_text())
    (tmp_path / "model.safetensors").symlink_to(padim / "model.safetensors")
    assert described.backbone is not None
    other = described.backbone.model_copy(update={"layers": ("layer1",)})
    (tmp_path / "model.json").write_text(
        described.model_copy(update={"backbone": other, "config": PATCHCORE}).model_dump_json()
    )
    with pytest.raises(ModelError, match="does not fit"):
        predict_detector(tmp_path, test_rows)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dinomaly", "efficientad", "draem"])
def test_the_large_ones_train_a_step_and_come_back_from_their_file(
    squares: Squares, generated: TrainingSet, tmp_path: Path, model: str
) -> None:
    pictures = Path(squares.samples["image_path"][0]).parents[1]  # train/good and train/spot: two "classes"
    options = {
        "dinomaly": {"backbone": "vit_small_patch14_reg4_dinov2", "size_px": 56},
        "efficientad": {"picture_folder": pictures, "size_px": 256},
        "draem": {"texture_folder": pictures, "size_px": 32},
    }[model]
    config = DetectConfig.model_validate(
        {"model": model, "backbone_weights": "random", "train_steps": 1, "batch_size": 2} | options
    )
    few = replace(
        generated,
        train=generated.train.groupby("source").head(2).reset_index(drop=True),
        val=generated.val.groupby("source").head(2).reset_index(drop=True),
    )
    train_detector(few, config, tmp_path)
    first = predict_detector(tmp_path, few.val)
    assert first.anomaly_map.shape == (4, config.size_px, config.size_px)
    assert np.isfinite(first.anomaly_map).all()
    assert first.pred_score.max() >= 0.5, "some validation picture reaches the threshold"
