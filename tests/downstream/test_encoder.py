"""Encoder weights really arrive in the U-Net, and what does not fit is refused with the option to change."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from downstream.encoder import EncoderSpec, build_unet, train_mode
from downstream.errors import EncoderError

CHANNELS = (32, 16, 16, 8, 8)
MOBILENET = Path(__file__).parents[3] / "shared/models/mobilenetv2_100_imagenet.safetensors"


def _encoder(network: torch.nn.Module) -> Any:
    return network.encoder


def test_folder_weights_give_timms_own_features(encoder_folder: Path) -> None:
    import timm

    network, spec = build_unet(encoder_folder, decoder_channels=CHANNELS)
    reference = timm.create_model("resnet10t", num_classes=0)
    reference.load_state_dict(load_file(encoder_folder / "model.safetensors"))
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        ours = _encoder(network).eval()(x)[-1]
        torch.testing.assert_close(ours, reference.eval().forward_features(x))
        assert network.eval()(x).shape == (2, 1, 64, 64)
    assert spec.mean == (0.5, 0.5, 0.5)
    assert next(network.parameters()).dtype == torch.float32, "half precision on disk only"


@pytest.mark.parametrize("name", ["convnext_atto", "mobilenetv2_035", "regnetx_002"])
def test_a_local_file_loads_into_families_with_renamed_layers(name: str, tmp_path: Path) -> None:
    import timm

    full = timm.create_model(name, num_classes=10)
    save_file(full.state_dict(), tmp_path / "weights.safetensors")
    network, _ = build_unet(name, tmp_path / "weights.safetensors", CHANNELS)
    x = torch.rand(1, 3, 64, 64)
    features = timm.create_model(name, features_only=True)
    state = {k.replace("_", "."): v for k, v in full.state_dict().items()}
    features.load_state_dict({k: state[k.replace("_", ".")] for k in features.state_dict()})
    with torch.inference_mode():
        torch.testing.assert_close(_encoder(network).eval()(x)[-1], features.eval()(x)[-1])


def test_random_weights_need_no_file() -> None:
    network, spec = build_unet("resnet10t", "random", CHANNELS)
    assert spec.mean == (0.485, 0.456, 0.406), "timm's own preprocessing of that name"
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 1, 32, 32)


def test_unreachable_hub_names_the_local_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderError, match=r"hub.*localize\.encoder_weights"):
        build_unet("resnet10t", "hub", CHANNELS)


def test_weights_that_do_not_fit_are_refused(encoder_folder: Path, tmp_path: Path) -> None:
    weights = encoder_folder / "model.safetensors"
    with pytest.raises(EncoderError, match="tensors of encoder resnet18"):
        build_unet("resnet18", weights, CHANNELS)
    state = load_file(weights)
    state["conv1.0.weight"] = state["conv1.0.weight"][:4].contiguous()
    save_file(state, tmp_path / "shape.safetensors")
    with pytest.raises(EncoderError, match=r"conv1\.0\.weight is \(4, 3, 3, 3\)"):
        build_unet("resnet10t", tmp_path / "shape.safetensors", CHANNELS)
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(EncoderError, match="not a safetensors file"):
        build_unet("resnet10t", tmp_path / "text.safetensors", CHANNELS)
    with pytest.raises(EncoderError, match=r"no such file.*localize\.encoder_weights"):
        build_unet("resnet10t", tmp_path / "absent.safetensors", CHANNELS)


def test_wrong_names_and_folders_are_refused(tmp_path: Path, encoder_folder: Path) -> None:
    with pytest.raises(EncoderError, match="neither a folder nor a timm model"):
        build_unet("resnett18", "random", CHANNELS)
    with pytest.raises(EncoderError, match="no folder"):
        build_unet(tmp_path / "nowhere", "random", CHANNELS)
    with pytest.raises(EncoderError, match="imagenet"):
        build_unet("imagenet", "random", CHANNELS)
    with pytest.raises(EncoderError, match=r"config\.json: not found"):
        build_unet(tmp_path, "random", CHANNELS)
    shutil.copy(encoder_folder / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet10t", "mean": [0, 0, 0], "sdt": 1})
    )
    with pytest.raises(EncoderError, match="std: Field required; sdt: Extra inputs"):
        build_unet(tmp_path, "random", CHANNELS)


def test_frozen_batch_norm_stays_in_evaluation_mode(encoder_folder: Path) -> None:
    network, spec = build_unet(encoder_folder, decoder_channels=CHANNELS)
    before = {n: b.clone() for n, b in network.named_buffers()}
    train_mode(network, spec.model_copy(update={"freeze_batch_norm": True}))
    network(torch.rand(2, 3, 32, 32))
    changed = {n for n, b in network.named_buffers() if not torch.equal(b, before[n])}
    assert changed
    assert all(name.startswith("decoder") for name in changed)


@pytest.mark.skipif(not MOBILENET.exists(), reason="needs ../shared/models, which is not part of the project")
def test_real_mobilenet_folder_gives_its_published_behaviour(tmp_path: Path) -> None:
    import timm

    (tmp_path / "model.safetensors").symlink_to(MOBILENET)
    spec = EncoderSpec(
        architecture="mobilenetv2_100",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        model_args={"pad_type": "same"},
        freeze_batch_norm=True,
    )
    (tmp_path / "config.json").write_text(spec.model_dump_json())
    network, read = build_unet(tmp_path, decoder_channels=CHANNELS)
    assert read == spec
    reference = timm.create_model(
        "mobilenetv2_100",
        pretrained=True,
        features_only=True,
        pad_type="same",
        pretrained_cfg_overlay={"file": str(MOBILENET)},
    ).eval()
    x = torch.rand(1, 3, 96, 96)
    train_mode(network, read)
    with torch.inference_mode():
        for ours, theirs in zip(_encoder(network)(x)[1:], reference(x), strict=True):
            torch.testing.assert_close(ours, theirs)
