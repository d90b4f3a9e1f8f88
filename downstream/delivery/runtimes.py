"""Exported models in the runtimes of a line: onnxruntime and, where installed, OpenVINO."""

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from downstream.errors import ModelError

Runner = Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]


def run_onnx(path: Path) -> Runner:
    """The exported file in onnxruntime on the CPU: pixels (1, 3, s, s) to its outputs by name."""
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return lambda pixels: dict(zip(names, session.run(names, {"input": pixels}), strict=True))


def run_openvino(path: Path) -> Runner:
    """The exported file in OpenVINO on the CPU: pixels (1, 3, s, s) to its outputs by name."""
    import openvino  # type: ignore[import-not-found,unused-ignore]  # optional

    # float32: a CPU with bfloat16 would otherwise take that
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: {one.get_any_name(): values for one, values in compiled({"input": pixels}).items()}


def check_packages(names: Sequence[str]) -> None:
    missing = [name for name in names if installed(name) is None]
    if missing:
        raise ModelError(
            f"export needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            f"pip install {' '.join(missing)}."
        )


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
