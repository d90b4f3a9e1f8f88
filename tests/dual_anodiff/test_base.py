"""Bases that cannot be adapted are refused by their small files, before anything is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dual_anodiff.base import MINI, resolve_base
from dual_anodiff.errors import BaseModelError


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The bundled base, its weights empty files: none of them is read here."""
    folder = tmp_path / "base"
    shutil.copytree(MINI, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (folder / part / f"{name}.safetensors").touch()
    return folder


def change(file: Path, **values: object) -> None:
    """Put values into a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def fp16_alone(base: Path) -> None:
    for file in base.glob("*/*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))


def pickles(base: Path) -> None:
    file = base / "unet/diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "SDXL": (
        lambda base: change(
            base / "model_index.json",
            _class_name="StableDiffusionXLPipeline",
            text_encoder_2=["transformers", "X"],
        ),
        "is a StableDiffusionXLPipeline with text_encoder_2",
    ),
    "Flux": (lambda base: change(base / "model_index.json", _class_name="FluxPipeline"), "is a FluxPipeline"),
    "inpainting": (lambda base: change(base / "unet/config.json", in_channels=9), "takes 9 channels"),
    "fp16 alone": (
        fp16_alone,
        r"there is diffusion_pytorch_model\.fp16\.safetensors; variants are not read, rename it",
    ),
    "pickles": (pickles, "there is .bin alone; save it with safe_serialization=True"),
    "half": (
        lambda base: shutil.rmtree(base / "vae"),
        r"lacks weights: vae/diffusion_pytorch_model\.safetensors",
    ),
    "broken": (lambda base: (base / "model_index.json").write_text("{"), r"model_index\.json: can't be read"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_no_base_for_us_is_named(base: Path, kind: str) -> None:
    spoil, what = FAULTS[kind]
    spoil(base)
    with pytest.raises(BaseModelError, match=what):
        resolve_base(str(base))


def test_a_whole_base_and_one_in_several_files_will_do(base: Path) -> None:
    assert resolve_base(str(base)) == str(base)
    file = base / "unet/diffusion_pytorch_model.safetensors"
    file.rename(base / "unet/diffusion_pytorch_model-00001-of-00002.safetensors")
    (base / "unet/diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    assert resolve_base(str(base)) == str(base)
    assert resolve_base("mini") == str(MINI)
