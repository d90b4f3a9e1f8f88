"""Guided pairs: at the normals' own resolution, nothing changed clear of the defect, each pair its own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dual_anodiff.blend import read_pixels
from dual_anodiff.config import FinetuneConfig
from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.guided import GuidedPair, guided_pairs, plan_pairs
from dual_anodiff.images import Shot
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.training import train
from tests.tiny_base import tiny_base


@pytest.fixture(scope="module")
def pipe(
    config: FinetuneConfig, shots: list[Shot], tmp_path_factory: pytest.TempPathFactory
) -> DualAnoDiffPipeline:
    base = tiny_base(tmp_path_factory.mktemp("kl"), vae="kl")
    folder = tmp_path_factory.mktemp("adapter")
    train(shots, config.model_copy(update={"base": str(base)}), folder, progress=False)
    pipe = DualAnoDiffPipeline.from_adapter(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pictures of other sizes than the shots'."""
    folder = tmp_path_factory.mktemp("normals")
    rng = np.random.default_rng(1)
    for i, size in enumerate([(96, 120, 3), (70, 90, 3)]):
        Image.fromarray(rng.integers(60, 90, size, dtype=np.uint8)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def drawn(
    pipe: DualAnoDiffPipeline, shots: list[Shot], normals: list[Path], **options: int
) -> list[GuidedPair]:
    wishes = plan_pairs(shots, normals, 4, seed=0)
    return list(guided_pairs(pipe, wishes, side_px=64, num_inference_steps=6, guidance_scale=1, **options))


def test_pairs_have_the_normals_own_size_and_pixels_clear_of_the_defect(
    pipe: DualAnoDiffPipeline, shots: list[Shot], normals: list[Path]
) -> None:
    pairs = drawn(pipe, shots, normals)
    assert len(pairs) == 4
    for pair in pairs:
        real = read_pixels(pair.wish.normal)
        assert pair.image.shape == pair.pasted.shape == real.shape
        assert pair.mask.shape == real.shape[:2]
        pasted = (pair.pasted != real).any(-1)
        changed = (pair.image != real).any(-1)
        assert changed.any()
        far = ndimage.distance_transform_edt(~pasted) > 4 * 8
        assert not (changed & far).any(), "the normal's own pixels stay"
        assert 0.2 <= pair.strength <= 0.5


def test_a_pair_depends_on_its_wish_alone(
    pipe: DualAnoDiffPipeline, shots: list[Shot], normals: list[Path]
) -> None:
    together, alone = drawn(pipe, shots, normals), drawn(pipe, shots, normals, batch_size=1)
    for a, b in zip(together, alone, strict=True):
        assert a.wish == b.wish
        assert a.strength == b.strength
        assert np.abs(a.image.astype(int) - b.image.astype(int)).max() <= 1  # a batch may round otherwise
    assert plan_pairs(shots, normals, 2, seed=0) == [pair.wish for pair in together[:2]]
    assert plan_pairs(shots, normals, 2, seed=1) != [pair.wish for pair in together[:2]]


def test_what_cannot_be_drawn_is_said(
    pipe: DualAnoDiffPipeline, shots: list[Shot], normals: list[Path]
) -> None:
    with pytest.raises(InputError, match="at least one of each"):
        plan_pairs([], normals, 1, seed=0)
    wishes = plan_pairs(shots, normals, 1, seed=0)
    with pytest.raises(InputError, match=r"side_px: .* take larger crops"):
        list(guided_pairs(pipe, wishes, side_px=8))
    bare = DualAnoDiffPipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet, pipe.scheduler)
    with pytest.raises(AdapterError, match="no adapter"):
        list(guided_pairs(bare, wishes, side_px=64))
