"""Sampling: seeds, batches, schedulers, and the exported LoRA in a plain pipeline."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from dual_anodiff.config import FinetuneConfig
from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.generation import SCHEDULERS
from dual_anodiff.images import Shot
from dual_anodiff.lora import export_lora
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.training import train


@pytest.fixture(scope="module")
def adapter(config: FinetuneConfig, shots: list[Shot], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    strong = config.model_copy(update={"learning_rate": 2e-2, "train_steps": 10})
    train(shots, strong, folder, progress=False)
    return folder


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_pair_does_not_depend_on_its_batch(adapter: Path, scheduler: str) -> None:
    """Tolerance: 1e-3 of the range [-1, 1], since batched products round otherwise; below one 8-bit level."""
    pipe = DualAnoDiffPipeline.from_adapter(adapter)
    pipe.scheduler = SCHEDULERS[scheduler].from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    together = pipe.sample([5, 6, 7], num_inference_steps=4, guidance_scale=2.0)
    alone = pipe.sample([6], num_inference_steps=4, guidance_scale=2.0)
    torch.testing.assert_close(together[1:2], alone, atol=1e-3, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_guidance_of_one_is_the_prompt_alone(adapter: Path) -> None:
    pipe = DualAnoDiffPipeline.from_adapter(adapter)
    pipe.set_progress_bar_config(disable=True)
    plain = pipe.sample([1], num_inference_steps=3, guidance_scale=1.0)
    nearly = pipe.sample([1], num_inference_steps=3, guidance_scale=1.0 + 1e-6)
    torch.testing.assert_close(plain, nearly, atol=1e-3, rtol=0)


def test_call_returns_pictures_and_binary_masks_of_the_working_size(adapter: Path) -> None:
    pipe = DualAnoDiffPipeline.from_adapter(adapter)
    pipe.set_progress_bar_config(disable=True)
    out = pipe(num_pairs=2, num_inference_steps=2)
    assert len(out.images) == len(out.anomalies) == len(out.masks) == 2
    assert all(p.size == (64, 64) for p in (*out.images, *out.anomalies, *out.masks))
    assert set(np.unique(np.asarray(out.masks[0]))) <= {0, 255}
    with pytest.raises(InputError, match="seeds"):
        pipe(num_pairs=2, seeds=[1])


def test_exported_image_branch_loads_into_a_plain_pipeline_and_changes_its_pictures(
    adapter: Path, base: Path, tmp_path: Path
) -> None:
    export_lora(adapter, tmp_path)
    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)

    def draw() -> np.ndarray:
        g = torch.Generator().manual_seed(0)
        picture = pipe(
            "a vfx with sks", height=64, width=64, num_inference_steps=2, generator=g, output_type="np"
        )
        return np.asarray(picture.images[0])

    before = draw()
    pipe.load_lora_weights(tmp_path)
    assert np.abs(draw() - before).max() > 1e-3
    pipe.unload_lora_weights()
    np.testing.assert_allclose(draw(), before, atol=1e-5)


def test_a_broken_or_foreign_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"adapter\.json"):
        DualAnoDiffPipeline.from_adapter(tmp_path)
    (tmp_path / "adapter.json").write_text((adapter / "adapter.json").read_text())
    (tmp_path / "adapter.safetensors").write_bytes(b"broken")
    with pytest.raises(AdapterError, match=r"adapter\.safetensors"):
        DualAnoDiffPipeline.from_adapter(tmp_path)
    with pytest.raises(AdapterError, match="adapter already"):
        DualAnoDiffPipeline.from_adapter(adapter).load_adapter(adapter)
