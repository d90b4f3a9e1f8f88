"""Training: resume, learning, the cache of flips, and what bad input is told."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from dual_anodiff.adapter_card import read_card
from dual_anodiff.config import FinetuneConfig
from dual_anodiff.errors import BaseModelError, InputError
from dual_anodiff.images import Shot, load_shot
from dual_anodiff.objective import decode, encode
from dual_anodiff.training import cache_shots, train
from tests.tiny_base import tiny_base


def test_resumed_training_is_uninterrupted_training_bit_for_bit(
    config: FinetuneConfig, shots: list[Shot], tmp_path: Path
) -> None:
    whole = train(shots, config, tmp_path / "whole", seed=3, progress=False)
    checkpoint = tmp_path / "work" / "checkpoint.pt"
    first_half = config.model_copy(update={"train_steps": 3})
    train(shots, first_half, tmp_path / "half", seed=3, checkpoint=checkpoint, progress=False)
    assert checkpoint.is_file()
    resumed = train(shots, config, tmp_path / "resumed", seed=3, checkpoint=checkpoint, progress=False)
    a = load_file(tmp_path / "whole" / "adapter.safetensors")
    b = load_file(tmp_path / "resumed" / "adapter.safetensors")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert whole == resumed
    assert (tmp_path / "whole" / "training.csv").read_text() == (
        tmp_path / "resumed" / "training.csv"
    ).read_text()


def test_training_lowers_the_loss(config: FinetuneConfig, shots: list[Shot], tmp_path: Path) -> None:
    longer = config.model_copy(update={"train_steps": 60, "learning_rate": 5e-3, "batch_size": 4})
    train(shots, longer, tmp_path, progress=False)
    losses = [float(line.split(",")[1]) for line in (tmp_path / "training.csv").read_text().splitlines()[1:]]
    assert sum(losses[-15:]) < 0.97 * sum(losses[:15])


@pytest.mark.parametrize("vae", ["tiny", "kl"])
def test_both_kinds_of_vae_train(vae: str, config: FinetuneConfig, shots: list[Shot], tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", vae=vae)  # type: ignore[arg-type]
    short = config.model_copy(update={"base": str(base), "train_steps": 2})
    train(shots, short, tmp_path / "out", progress=False)
    assert read_card(tmp_path / "out").base == str(base)


def test_accumulated_gradients_train_as_many_steps(
    config: FinetuneConfig, shots: list[Shot], tmp_path: Path
) -> None:
    halves = config.model_copy(update={"batch_size": 1, "gradient_accumulation_steps": 2, "train_steps": 2})
    train(shots, halves, tmp_path, progress=False)
    assert len((tmp_path / "training.csv").read_text().splitlines()) == 3


def test_image_and_part_are_flipped_alike(base: Path, shots: list[Shot]) -> None:
    vae = StableDiffusionPipeline.from_pretrained(base).vae
    image, mask = load_shot(shots[0], 64)
    cached = cache_shots(vae, image[None], mask[None], horizontal=True, vertical=True)
    assert cached.mean.shape[:3] == (1, 4, 2)
    for i, axes in enumerate(([], [-1], [-2], [-1, -2])):
        flipped_image, flipped_mask = (x.flip(axes) if axes else x for x in (image, mask))
        with torch.no_grad():
            expected = encode(vae, torch.stack([flipped_image, flipped_image * flipped_mask]))[0]
        torch.testing.assert_close(cached.mean[0, i], expected, atol=1e-5, rtol=1e-4)


def test_latents_survive_encode_and_decode_in_shape(base: Path) -> None:
    vae = StableDiffusionPipeline.from_pretrained(base).vae
    with torch.no_grad():
        mean, std = encode(vae, torch.zeros(1, 3, 64, 64))
        assert mean.shape == std.shape == (1, 4, 8, 8)
        assert decode(vae, mean).shape == (1, 3, 64, 64)


def test_bad_input_is_named_before_anything_is_loaded(
    config: FinetuneConfig, shots: list[Shot], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="at least one"):
        train([], config, tmp_path)
    other = tmp_path / "other_mask.png"
    Image.new("L", (10, 10), 255).save(other)
    with pytest.raises(InputError, match=r"other_mask.png: is 10x10 px"):
        train([Shot(shots[0].image, other)], config, tmp_path)
    empty = tmp_path / "empty_mask.png"
    Image.new("L", (80, 64), 0).save(empty)
    with pytest.raises(InputError, match="marks no pixel"):
        train([Shot(shots[0].image, empty)], config, tmp_path)
    with pytest.raises(BaseModelError, match=r"no model_index\.json"):
        train(shots, config.model_copy(update={"base": str(tmp_path)}), tmp_path)
