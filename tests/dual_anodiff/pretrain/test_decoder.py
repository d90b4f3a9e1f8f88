"""The decoder stage: latents stay what they were, and blur is what the eyes added to the loss see."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from skimage import data
from torch import Tensor

from dual_anodiff.base import MINI
from dual_anodiff.pretrain.corpus import read_corpus, write_corpus
from dual_anodiff.pretrain.fidelity import sharpness
from dual_anodiff.pretrain.perception import Perception
from dual_anodiff.pretrain.stage import Plan
from dual_anodiff.pretrain.vae import train_decoder


@pytest.fixture(scope="module")
def brick() -> Tensor:
    """A real picture. Shape: (1, 3, 64, 64) in [-1, 1]."""
    picture = torch.from_numpy(data.brick()[:64, :64].copy()).float() / 127.5 - 1
    return picture.expand(1, 3, -1, -1).contiguous()


def test_only_the_decoder_changes_and_the_whole_vae_is_written(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", 640, 64, seed=0)
    corpus = read_corpus(tmp_path / "corpus")
    plan = Plan(num_steps=2, batch_size=5, seed=0, device="cpu")
    assert train_decoder(corpus, MINI, tmp_path / "vae", tmp_path, plan, Perception())
    before, after = (AutoencoderTiny.from_pretrained(folder) for folder in (MINI / "vae", tmp_path / "vae"))
    for name, weight in before.state_dict().items():
        assert torch.equal(weight, after.state_dict()[name]) is name.startswith("encoder."), name


def test_blur_is_farther_off_than_a_change_of_brightness_of_the_same_error(brick: Tensor) -> None:
    blurred = F.avg_pool2d(brick, 3, 1, 1, count_include_pad=False)
    error = (blurred - brick).square().mean().sqrt()
    perceived = Perception()
    assert perceived(brick, brick) == pytest.approx(0, abs=1e-6)
    assert perceived(blurred, brick) > 2 * perceived(brick + error, brick)


def test_sharpness_falls_with_blur(brick: Tensor) -> None:
    blurred = F.avg_pool2d(brick, 3, 1, 1, count_include_pad=False)
    assert sharpness(blurred)[0] < 0.7 * sharpness(brick)[0]
    assert sharpness(torch.zeros_like(brick))[0] == 0
