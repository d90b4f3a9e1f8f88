"""Trained models as ONNX (and OpenVINO) files for the line, checked against PyTorch before they are handed over.

All take one RGB picture, float in 0..1, at the model's size_px, shape (1, 3, s, s); the normalisation that the
network was trained with is inside the graph. Resizing is not: `downstream.images.resize_image` squeezes with
antialiasing.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from downstream.delivery.runtimes import check_packages, installed, run_onnx, run_openvino
from downstream.encoder import EncoderSpec
from downstream.errors import ModelError
from downstream.images import load_pictures, normalize
from downstream.prediction import image_scores, load_localization

OPSET = 18
PACKAGES = ("torch", "timm", "anomalib", "segmentation-models-pytorch", "onnx", "onnxruntime", "openvino")
RESIZING = (
    "the stored pixels (no EXIF orientation), 16-bit grey divided by 257, transparent pixels black; the whole picture "
    "squeezed into the square whatever its shape, bilinear with antialiasing and half-pixel centres "
    "(torch.nn.functional.interpolate, antialias=True, align_corners=False; Pillow's BILINEAR does nearly the same, "
    "cv2.INTER_LINEAR does not), rounded to 8 bits, divided by 255"
)


class Export(BaseModel):
    """export.json: how to feed model.onnx, what comes out, and how far it is from PyTorch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["anodiff-export-1"] = "anodiff-export-1"
    model: str = Field(description='"localization", "classification" or the detector\'s name.')
    files: list[str] = []
    size_px: int = Field(description="Side of the square input, pixels.")
    input: str = Field("input: (1, 3, size_px, size_px) float32, RGB, 0..1")
    resizing: str = Field(RESIZING, description="What a picture is put through before, as in training.")
    run: str | None = Field(None, description="The run whose model it is, with the next three.")
    category: str | None = None
    training_set: str | None = None
    seed: int | None = None
    outputs: list[str]
    image_threshold: float | None = Field(
        None, description="A picture is refused if pred_score reaches this."
    )
    pixel_threshold: float | None = Field(None, description="A pixel is defect if anomaly_map reaches this.")
    classes: list[str] | None = Field(None, description="Defect types in the order of the probabilities.")
    max_abs_difference: dict[str, dict[str, float]] = Field(
        {},
        description="By runtime (onnxruntime, openvino) and output: largest difference to PyTorch on the check's pictures.",
    )
    n_checked: int = Field(0, description="Pictures compared.")
    versions: dict[str, str] = {}


class _Segmenter(nn.Module):
    """U-Net from pixels in 0..1 to the map and the picture's score."""

    def __init__(self, network: nn.Module, spec: EncoderSpec) -> None:
        super().__init__()
        self.network, self.spec = network, spec

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        anomaly_map = self.network(normalize(pixels, self.spec.mean, self.spec.std)).sigmoid()
        return anomaly_map, image_scores(anomaly_map[:, 0])


class _Classifier(nn.Module):
    """A network of logits from pixels in 0..1 to probabilities."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, tuple(mean), tuple(std)

    def forward(self, pixels: Tensor) -> Tensor:
        probabilities: Tensor = self.network(normalize(pixels, self.mean, self.std)).softmax(1)
        return probabilities


class _Detector(nn.Module):
    """anomalib's module, whose forward normalises and sets thresholds, as a tuple of the two we hand over."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model(pixels)
        n, _, height, width = pixels.shape
        return found.anomaly_map.reshape(n, 1, height, width), found.pred_score.reshape(n)


def export_localization(
    model_folder: Path,
    out: Path,
    *,
    pictures: Sequence[str] = (),
    openvino: bool = False,
    tolerance: float = 1e-3,
) -> Export:
    """U-Net to out/model.onnx: anomaly_map (1, 1, s, s) and pred_score (1,), by prediction.image_scores' rule.

    Predictions hold the map rounded to float16, so figures may differ from it by up to 2⁻¹². Raises: as _export.
    """
    network, model = load_localization(model_folder)
    return _export(
        _Segmenter(network, model.encoder),
        ("anomaly_map", "pred_score"),
        out,
        Export(
            model="localization",
            size_px=model.config.size_px,
            outputs=["anomaly_map", "pred_score"],
            image_threshold=model.image_threshold,
            pixel_threshold=model.pixel_threshold,
        ),
        pictures,
        openvino,
        tolerance,
    )


def export_detector(
    model_folder: Path,
    out: Path,
    *,
    pictures: Sequence[str] = (),
    openvino: bool = False,
    tolerance: float = 1e-3,
) -> Export:
    """A detector by anomalib's own export: pred_score, pred_label, anomaly_map, pred_mask, normalised.

    Raises: as _export.
    """
    from downstream.detectors.training import load_detector

    model, described = load_detector(model_folder)
    return _export(
        model,
        ("anomaly_map", "pred_score"),
        out,
        Export(
            model=described.config.model,
            size_px=described.config.size_px,
            outputs=["pred_score", "pred_label", "anomaly_map", "pred_mask"],
            image_threshold=described.image_threshold,
            pixel_threshold=described.pixel_threshold,
        ),
        pictures,
        openvino,
        tolerance,
    )


def export_classifier(
    network: nn.Module,
    out: Path,
    *,
    classes: Sequence[str],
    size_px: int,
    mean: Sequence[float],
    std: Sequence[float],
    pictures: Sequence[str] = (),
    openvino: bool = False,
    tolerance: float = 1e-3,
) -> Export:
    """A network of logits to out/model.onnx: probabilities (1, len(classes)). Raises: as _export."""
    return _export(
        _Classifier(network.cpu().eval(), mean, std),
        ("probabilities",),
        out,
        Export(
            model="classification",
            size_px=size_px,
            outputs=["probabilities"],
            classes=list(classes),
        ),
        pictures,
        openvino,
        tolerance,
    )


def _export(
    network: Any,
    compared: tuple[str, ...],
    out: Path,
    described: Export,
    pictures: Sequence[str],
    openvino: bool,
    tolerance: float,
) -> Export:
    """Write model.onnx (and model.xml, model.bin), compare with PyTorch on `pictures` (or drawn noise), write export.json.

    Raises: ModelError if a package is missing (named before any work), or an output is further than
    `tolerance` from PyTorch's; PictureError.
    """
    check_packages(("onnx", "onnxruntime", "onnxscript", *(("openvino",) if openvino else ())))
    out.mkdir(parents=True, exist_ok=True)
    network = network.cpu().eval()
    path = _to_onnx(network, described, out)
    runners = {"onnxruntime": run_onnx(path)}
    files = [path.name]
    if openvino:
        runners["openvino"] = run_openvino(_to_openvino(path))
        files += ["model.xml", "model.bin"]
    pixels = _check_pixels(pictures, described.size_px)
    plain = network if isinstance(network, _Segmenter | _Classifier) else _Detector(network)
    worst = {runtime: dict.fromkeys(compared, 0.0) for runtime in runners}
    with torch.inference_mode():
        for one in pixels.split(1):
            found = plain(one)
            expected = dict(zip(compared, found if isinstance(found, tuple) else (found,), strict=True))
            for runtime, run in runners.items():
                given = run(one.numpy())
                for name, values in expected.items():
                    far = float(np.abs(given[name].reshape(values.shape) - values.numpy()).max())
                    # numpy's maximum, since Python's would pass over a NaN
                    worst[runtime][name] = float(np.maximum(worst[runtime][name], far))
    described = described.model_copy(
        update={
            "files": files,
            "max_abs_difference": worst,
            "n_checked": len(pixels),
            "versions": {name: v for name in PACKAGES if (v := installed(name))},
        }
    )
    bad = {
        f"{runtime} {name}": far
        for runtime, one in worst.items()
        for name, far in one.items()
        if not far <= tolerance
    }
    if bad:
        raise ModelError(f"{path}: differs from PyTorch by {bad}, more than {tolerance}. Do not ship it.")
    write_export(described, out)
    return described


def write_export(export: Export, out: Path) -> None:
    """Write export.json, for who names the run beside what was exported."""
    (out / "export.json").write_text(export.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _to_onnx(network: Any, described: Export, out: Path) -> Path:
    """One file with its weights inside; a detector through anomalib's own export."""
    size = described.size_px
    path = out / "model.onnx"
    # one file, whatever the size; and no diary of the exporter's steps
    options: dict[str, Any] = {"opset_version": OPSET, "external_data": False, "verbose": False}
    if isinstance(network, _Segmenter | _Classifier):
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, size, size),),
            str(path),
            input_names=["input"],
            output_names=described.outputs,
            dynamo=True,
            **options,
        )
        return path
    # One picture a call: PatchCore's search in pieces has no form with an open number of pictures.
    with TemporaryDirectory(dir=out) as scratch:
        written: Path = network.to_onnx(scratch, input_size=(size, size), dynamic_axes=None, **options)
        written.replace(path)
    return path


def _to_openvino(path: Path) -> Path:
    """model.xml and model.bin beside model.onnx, in float32."""
    import openvino  # type: ignore[import-not-found,unused-ignore]  # optional

    target = path.with_suffix(".xml")
    openvino.save_model(openvino.convert_model(path), target, compress_to_fp16=False)
    return target


def _check_pixels(pictures: Sequence[str], size_px: int) -> Tensor:
    """Pictures to compare on, (n, 3, s, s) in 0..1: the given files, or noise of three grains."""
    if pictures:
        n = len(pictures)
        return load_pictures(pictures, [""] * n, [0] * n, size_px)[0].float() / 255
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.rand((1, 3, cells, cells), generator=generator) for cells in (4, 16, size_px)]
    return torch.cat([nn.functional.interpolate(one, (size_px, size_px), mode="bilinear") for one in drawn])
