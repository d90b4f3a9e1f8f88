"""What goes to the line computes what PyTorch computes."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import downstream.delivery.runtimes
from downstream.config import DetectConfig, LocalizeConfig
from downstream.delivery.export import Export, export_classifier, export_detector, export_localization
from downstream.delivery.runtimes import run_onnx
from downstream.detectors.training import predict_detector, train_detector
from downstream.errors import ModelError
from downstream.images import read_image, resize_image
from downstream.localization import train_localization
from downstream.prediction import predict
from downstream.training_sets import TrainingSet, training_set
from tests.downstream.conftest import SIZE_PX, Squares

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="needs onnx, onnxruntime and onnxscript, which are optional",
)


@pytest.fixture(scope="module")
def generated(squares: Squares) -> TrainingSet:
    return training_set("generated", squares.samples, squares.pairs)


def pixels_of(path: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A picture as the exported models take it."""
    return (resize_image(read_image(path), SIZE_PX)[None].float() / 255).numpy()


def test_unet_file_gives_the_predictions_of_the_model(
    squares: Squares,
    generated: TrainingSet,
    encoder_folder: Path,
    tiny_config: LocalizeConfig,
    tmp_path: Path,
) -> None:
    train_localization(generated.train, generated.val, tiny_config, tmp_path / "m", encoder=encoder_folder)
    rows = generated.val.iloc[-2:]
    export = export_localization(tmp_path / "m", tmp_path / "e", pictures=rows["image_path"].tolist())
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == ["export.json", "model.onnx"]
    assert Export.model_validate_json((tmp_path / "e/export.json").read_text()) == export
    assert export.max_abs_difference["onnxruntime"]["anomaly_map"] < 1e-4
    assert export.n_checked == 2
    predictions = predict(tmp_path / "m", rows)
    assert export.image_threshold == predictions.image_threshold
    run = run_onnx(tmp_path / "e/model.onnx")
    for i, path in enumerate(rows["image_path"]):
        out = run(pixels_of(path))
        np.testing.assert_allclose(out["anomaly_map"][0, 0], predictions.anomaly_map[i], atol=1e-3)
        np.testing.assert_allclose(out["pred_score"], predictions.pred_score[i], atol=1e-3)


@pytest.mark.parametrize("model", ["padim", "patchcore", "supersimplenet"])
def test_detector_file_gives_the_predictions_of_the_model(
    generated: TrainingSet, encoder_folder: Path, tmp_path: Path, model: str
) -> None:
    config = DetectConfig.model_validate(
        {"model": model, "size_px": SIZE_PX, "layers": ["layer1"], "train_steps": 2, "batch_size": 2}
        | {"coreset_share": 0.02, "n_features": 16}
    )
    train_detector(generated, config, tmp_path / "m", backbone=encoder_folder)
    rows = generated.val.iloc[-2:]
    openvino = find_spec("openvino") is not None
    export = export_detector(
        tmp_path / "m", tmp_path / "e", pictures=rows["image_path"].tolist(), openvino=openvino
    )
    assert export.files == ["model.onnx", "model.xml", "model.bin"][: 3 if openvino else 1]
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == sorted(["export.json", *export.files])
    assert max(v for one in export.max_abs_difference.values() for v in one.values()) < 1e-3
    predictions = predict_detector(tmp_path / "m", rows)
    run = run_onnx(tmp_path / "e/model.onnx")
    for i, path in enumerate(rows["image_path"]):
        out = run(pixels_of(path))
        assert set(out) == set(export.outputs)
        np.testing.assert_allclose(out["anomaly_map"].squeeze(), predictions.anomaly_map[i], atol=1e-3)
        np.testing.assert_allclose(out["pred_score"].squeeze(), predictions.pred_score[i], atol=1e-3)
        assert out["pred_label"].squeeze() == (predictions.pred_score[i] > 0.5)


def test_classifier_file_gives_probabilities(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=3)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    export = export_classifier(
        network, tmp_path, classes=["good", "spot", "dot"], size_px=SIZE_PX, mean=mean, std=std
    )
    assert export.classes == ["good", "spot", "dot"]
    x = torch.rand(1, 3, SIZE_PX, SIZE_PX)
    normal = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    with torch.inference_mode():
        expected = network.eval()(normal).softmax(1)
    out = run_onnx(tmp_path / "model.onnx")(x.numpy())
    np.testing.assert_allclose(out["probabilities"], expected.numpy(), atol=1e-5)


def test_an_export_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mean(nn.Module):
        """As small as a network of logits gets."""

        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    def export(folder: Path, tolerance: float = 1e-3) -> Export:
        return export_classifier(
            Mean(),
            folder,
            classes=["a", "b", "c"],
            size_px=32,
            mean=(0,) * 3,
            std=(1,) * 3,
            tolerance=tolerance,
        )

    assert export(tmp_path / "good").n_checked == 3
    with pytest.raises(ModelError, match="Do not ship it"):
        export(tmp_path / "strict", tolerance=-1.0)
    assert not (tmp_path / "strict/export.json").exists()
    monkeypatch.setattr(downstream.delivery.runtimes, "installed", lambda name: None)
    with pytest.raises(ModelError, match="pip install onnx onnxruntime onnxscript"):
        export(tmp_path / "without")
