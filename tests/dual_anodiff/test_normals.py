"""Adapting the base to normals: a fresh LoRA is the base, resume, fusing, self-contained adapters, exact export."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor

from dual_anodiff.adapter_card import read_card
from dual_anodiff.attention import TwoBranchAttnProcessor
from dual_anodiff.config import FinetuneConfig, NormalsConfig, adapts_to_normals
from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.images import Shot
from dual_anodiff.lora import export_lora
from dual_anodiff.normals import (
    TARGETS,
    adapt,
    attach_lora,
    evenly_spaced,
    fuse_normals,
    lora_parameters,
    read_normals_card,
)
from dual_anodiff.objective import encode_prompts
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.training import train
from tests.tiny_base import tiny_base


@pytest.fixture(scope="module")
def pictures(shots: list[Shot]) -> list[Path]:
    return [shot.image for shot in shots]


@pytest.fixture(scope="module")
def strong(config: FinetuneConfig) -> FinetuneConfig:
    """Settings under which a few steps leave traces far above rounding."""
    normals = NormalsConfig(
        prompt="a photo of a nut", lora_rank=3, train_steps=6, batch_size=2, learning_rate=2e-2
    )
    return config.model_copy(update={"normals": normals, "learning_rate": 2e-2})


@pytest.fixture(scope="module")
def normals(strong: FinetuneConfig, pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("normals")
    adapt(pictures, strong, folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def adapter(
    strong: FinetuneConfig, shots: list[Shot], normals: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An adapter trained on a copy of the normals that is gone afterwards."""
    folder = tmp_path_factory.mktemp("adapter")
    copy = shutil.copytree(normals, folder / "of_another_stage")
    train(shots, strong, folder / "adapter", normals=copy, progress=False)
    shutil.rmtree(copy)
    return folder / "adapter"


def load(base: Path) -> Any:
    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def predict(unet: Any, text: Tensor, size: int = 8) -> Tensor:
    """What a UNet says of two fixed noisy latents, or of as many as `text` has rows."""
    g = torch.Generator().manual_seed(0)
    noisy = torch.randn(len(text), 4, size, size, generator=g)
    predicted: Tensor = unet.eval()(noisy, 500, encoder_hidden_states=text).sample
    return predicted


def words(pipe: Any, *prompts: str) -> Tensor:
    with torch.no_grad():
        return encode_prompts(pipe.tokenizer, pipe.text_encoder, list(prompts))


def test_a_fresh_lora_leaves_the_base_unchanged_and_reaches_every_kind_of_layer(base: Path) -> None:
    pipe = load(base)
    text = words(pipe, "a", "b")
    before = predict(pipe.unet, text)
    attach_lora(pipe.unet, 3, seed=0)
    assert torch.equal(predict(pipe.unet, text), before)
    for target in TARGETS:
        assert any(name.endswith(f".{target}.lora_A.weight") for name in lora_parameters(pipe.unet)), target


def test_resumed_is_uninterrupted_bit_for_bit(
    strong: FinetuneConfig, pictures: list[Path], normals: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    half = strong.model_copy(update={"normals": strong.normals.model_copy(update={"train_steps": 3})})
    adapt(pictures, half, tmp_path / "half", checkpoint=checkpoint, progress=False)
    assert checkpoint.is_file()
    card = adapt(pictures, strong, tmp_path, checkpoint=checkpoint, progress=False)
    for name in ("normals.safetensors", "normals.json", "training.csv"):
        assert (tmp_path / name).read_bytes() == (normals / name).read_bytes()
    assert card == read_normals_card(normals)
    assert (card.num_pictures, card.train_steps, card.prompt) == (3, 6, "a photo of a nut")


def test_fused_weights_say_what_the_unfused_lora_says(base: Path, normals: Path) -> None:
    beside, fused, plain = load(base), load(base), load(base)
    text = words(plain, "a photo of a nut", "sks")
    attach_lora(beside.unet, 3, seed=0)
    with torch.no_grad():
        for name, weight in load_file(normals / "normals.safetensors").items():
            lora_parameters(beside.unet)[name].copy_(weight)
    fuse_normals(fused.unet, normals)
    expected = predict(beside.unet, text)
    torch.testing.assert_close(predict(fused.unet, text), expected, atol=1e-4, rtol=1e-4)
    assert (expected - predict(plain.unet, text)).abs().max() > 1e-2


def test_normals_are_fused_once(base: Path, normals: Path, adapter: Path) -> None:
    pipe = DualAnoDiffPipeline.from_pretrained(base)
    fuse_normals(pipe.unet, normals)
    once = {name: weight.clone() for name, weight in pipe.unet.named_parameters()}
    fuse_normals(pipe.unet, normals)
    assert all(torch.equal(once[name], weight) for name, weight in pipe.unet.named_parameters())
    twice = pipe.load_adapter(adapter).sample([1], num_inference_steps=2, guidance_scale=1.0)
    alone = DualAnoDiffPipeline.from_adapter(adapter).sample([1], num_inference_steps=2, guidance_scale=1.0)
    assert torch.equal(twice, alone)


def test_an_adapters_folder_is_all_that_its_pictures_need(
    adapter: Path, normals: Path, tmp_path: Path
) -> None:
    def draw(folder: Path) -> Tensor:
        return DualAnoDiffPipeline.from_adapter(folder).sample([1], num_inference_steps=2, guidance_scale=1.0)

    moved = shutil.copytree(adapter, tmp_path / "moved")
    before = draw(moved)
    card = (moved / "adapter.json").read_text()
    digest = read_card(moved).normals
    assert digest is not None
    # The card of an adapter made before there were normals has no such field, and its pictures none of them.
    (moved / "adapter.json").write_text(card.replace(f'  "normals": "{digest}",\n', ""))
    assert (draw(moved) - before).abs().max() > 1e-2
    (moved / "adapter.json").write_text(card)
    (moved / "normals.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"normals\.safetensors"):
        draw(moved)


def test_a_half_precision_pipeline_fuses_before_it_rounds(adapter: Path) -> None:
    exact = DualAnoDiffPipeline.from_adapter(adapter)
    half = DualAnoDiffPipeline.from_adapter(adapter, dtype=torch.bfloat16)
    assert {p.dtype for m in (half.unet, half.vae, half.text_encoder) for p in m.parameters()} == {
        torch.bfloat16
    }
    rounded = dict(half.unet.named_parameters())
    assert all(torch.equal(rounded[n], p.bfloat16()) for n, p in exact.unet.named_parameters())


def test_exported_lora_is_the_image_branch_with_its_normals(
    adapter: Path, base: Path, tmp_path: Path
) -> None:
    ours = DualAnoDiffPipeline.from_adapter(adapter)
    for module in ours.unet.modules():
        if isinstance(module, TwoBranchAttnProcessor):
            for parameter in module.saim.to_out.parameters():
                torch.nn.init.zeros_(parameter)
    expected = predict(ours.unet, words(ours, "a vfx with sks", "sks"))[:1]

    export_lora(adapter, tmp_path)
    plain = load(base)
    untouched = predict(plain.unet, words(plain, "a vfx with sks"))
    plain.load_lora_weights(tmp_path)
    text = words(plain, "a vfx with sks", "sks")
    torch.testing.assert_close(predict(plain.unet, text)[:1], expected, atol=1e-4, rtol=1e-4)
    assert (expected - untouched).abs().max() > 1e-2


def test_normals_of_another_base_or_file_are_refused(
    config: FinetuneConfig, shots: list[Shot], normals: Path, adapter: Path, tmp_path: Path
) -> None:
    other = tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(AdapterError, match="another base"):
        train(shots, config.model_copy(update={"base": str(other)}), tmp_path, normals=normals)
    with pytest.raises(AdapterError, match=r"normals\.json"):
        train(shots, config, tmp_path, normals=tmp_path)
    swapped = shutil.copytree(adapter, tmp_path / "swapped")
    (swapped / "normals.safetensors").write_bytes((adapter / "adapter.safetensors").read_bytes())
    with pytest.raises(AdapterError, match="not the file"):
        DualAnoDiffPipeline.from_adapter(swapped)
    pipe = load(other)
    fuse_normals(pipe.unet, normals)
    (swapped / "normals.safetensors").write_bytes((adapter / "normals.safetensors").read_bytes() + b" ")
    with pytest.raises(AdapterError, match="can't be read"):
        fuse_normals(pipe.unet, swapped)
    with pytest.raises(InputError, match="no normal pictures"):
        adapt([], config, tmp_path)


def test_auto_adapts_mini_alone() -> None:
    base = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert adapts_to_normals(FinetuneConfig())
    assert not adapts_to_normals(FinetuneConfig(base=base))
    assert adapts_to_normals(FinetuneConfig(base=base, adapt_to_normals=True))
    assert not adapts_to_normals(FinetuneConfig(adapt_to_normals=False))


@pytest.mark.parametrize(("most", "expected"), [(10, "abcde"), (5, "abcde"), (2, "ac"), (1, "a")])
def test_pictures_are_taken_evenly_from_all_that_are_there(most: int, expected: str) -> None:
    assert [path.name for path in evenly_spaced([Path(name) for name in "edcba"], most)] == list(expected)
