"""Sampling: seeds, batches, schedulers, files, and the exported LoRA in a plain pipeline."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from dual_anodiff.adapter import export_lora
from dual_anodiff.config import FinetuneConfig, GenerateConfig, MaskConfig
from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.images import Shot
from dual_anodiff.pipeline import SCHEDULERS, DualAnoDiffPipeline, generate_pairs
from dual_anodiff.training import train
from tests.tiny_base import tiny_base


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


def test_a_killed_generation_continues_and_ends_with_the_same_pixels(adapter: Path, tmp_path: Path) -> None:
    config = GenerateConfig(num_pairs=5, batch_size=4, num_inference_steps=2)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    table = generate_pairs(adapter, config, whole, seed=1, progress=False)
    shutil.copytree(whole, cut)
    # Killed within the first batch: two pairs whole, of the third no mask yet.
    (cut / "pairs.parquet").unlink()
    for number in (2, 3, 4):
        (cut / "mask" / f"{number:06}.png").unlink()
    kept = (cut / "image/000000.png").stat().st_mtime_ns
    generate_pairs(adapter, config, cut, seed=1, progress=False)
    assert (cut / "image/000000.png").stat().st_mtime_ns == kept
    pd.testing.assert_frame_equal(pd.read_parquet(cut / "pairs.parquet"), table)
    for path in table[["image_path", "anomaly_path", "mask_path"]].to_numpy().ravel():
        assert (cut / path).read_bytes() == (whole / path).read_bytes()


def test_refining_changes_masks_alone(config: FinetuneConfig, shots: list[Shot], tmp_path: Path) -> None:
    """On the random VAE whose pictures are patchy; the other one's are of one colour."""
    base = tiny_base(tmp_path / "base", vae="kl")
    train(shots, config.model_copy(update={"base": str(base)}), tmp_path / "adapter", progress=False)

    def draw(refine: bool) -> dict[str, list[np.ndarray]]:
        mask = MaskConfig(threshold=0.4, refine=refine)
        out = tmp_path / str(refine)
        few = GenerateConfig(num_pairs=3, batch_size=3, num_inference_steps=2, mask=mask)
        table = generate_pairs(tmp_path / "adapter", few, out, seed=1, progress=False)
        return {
            kind: [np.asarray(Image.open(out / path)) for path in table[f"{kind}_path"]]
            for kind in ("image", "anomaly", "mask")
        }

    refined, plain = draw(True), draw(False)
    for kind in ("image", "anomaly"):
        assert all(np.array_equal(a, b) for a, b in zip(refined[kind], plain[kind], strict=True))
    assert any(mask.any() for mask in plain["mask"])
    assert not all(np.array_equal(a, b) for a, b in zip(refined["mask"], plain["mask"], strict=True))


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
