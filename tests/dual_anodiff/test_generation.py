"""Pairs on disk: what a killed run goes on with, and masks refined or not."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dual_anodiff.config import FinetuneConfig, GenerateConfig, MaskConfig
from dual_anodiff.generation import generate_pairs
from dual_anodiff.images import Shot
from dual_anodiff.training import train
from tests.tiny_base import tiny_base


def test_a_killed_generation_continues_and_ends_with_the_same_pixels(
    config: FinetuneConfig, shots: list[Shot], tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    train(shots, config, adapter, progress=False)
    five = GenerateConfig(num_pairs=5, batch_size=4, num_inference_steps=2)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    table = generate_pairs(adapter, five, whole, seed=1, progress=False)
    shutil.copytree(whole, cut)
    # Killed within the first batch: two pairs whole, of the third no mask yet.
    (cut / "pairs.parquet").unlink()
    for number in (2, 3, 4):
        (cut / "mask" / f"{number:06}.png").unlink()
    kept = (cut / "image/000000.png").stat().st_mtime_ns
    generate_pairs(adapter, five, cut, seed=1, progress=False)
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
