"""Guided pairs: drawn one by one or together, the normal's own pixels outside."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dual_anodiff.config import FinetuneConfig
from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.guided import guided_pairs
from dual_anodiff.images import Shot
from dual_anodiff.paste import Change, box_of
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.training import train
from dual_anodiff.wishes import Wish
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


@pytest.fixture
def wishes(shots: list[Shot], normals: list[Path]) -> list[Wish]:
    """Amid the first normal, at the border of the second, and turned."""
    return [
        Wish(shots[0], None, Change(), normals[0], 40, 50, seed=1),
        Wish(shots[1], None, Change(flip_x=True), normals[1], 0, 30, seed=2),
        Wish(shots[2], None, Change(turn_deg=30, scale=0.8), normals[0], 20, 20, seed=3),
    ]


@pytest.mark.parametrize("side_px", [48, 84, None])  # smaller than both, larger than one, the whole picture
def test_what_is_far_from_the_defect_is_the_normal_to_the_bit(
    pipe: DualAnoDiffPipeline, wishes: list[Wish], side_px: int | None
) -> None:
    pairs = list(guided_pairs(pipe, wishes, side_px=side_px, num_inference_steps=5, margin_cells=1))
    assert [pair.wish for pair in pairs] == wishes
    for pair in pairs:
        real = np.asarray(Image.open(pair.wish.normal).convert("RGB"))
        assert pair.image.shape == pair.pasted.shape == real.shape
        assert pair.mask.shape == real.shape[:2]
        changed = (pair.image != real).any(-1)
        assert changed.any()
        box = box_of((pair.pasted != real).any(-1))
        # A cell of its own and one as margin, each as large as it is in the picture.
        reach = 2 * 8 * (pair.window.width / 64)
        near = np.zeros_like(changed)
        near[box.top : box.bottom, box.left : box.right] = True
        assert ndimage.distance_transform_edt(~near)[changed].max() <= np.hypot(reach, reach)
        if pair.wish.normal.name == "1.png":
            assert (pair.image == pair.image[..., :1]).all()
        assert 0 <= pair.agreement <= 1


def test_a_pair_comes_from_its_wish_alone(pipe: DualAnoDiffPipeline, wishes: list[Wish]) -> None:
    together = list(guided_pairs(pipe, wishes, side_px=48, num_inference_steps=5, batch_size=3))
    one_by_one = list(guided_pairs(pipe, wishes[::-1], side_px=48, num_inference_steps=5, batch_size=1))[::-1]
    for a, b in zip(together, one_by_one, strict=True):
        assert (a.window, a.strength) == (b.window, b.strength)
        # A batched product may round to the next grey level.
        assert np.abs(a.image.astype(int) - b.image).max() <= 1
    other = next(guided_pairs(pipe, [replace(wishes[0], seed=9)], side_px=48, num_inference_steps=5))
    assert (other.image != together[0].image).any()


def test_what_cannot_be_drawn_is_refused_by_name(
    pipe: DualAnoDiffPipeline, base: Path, wishes: list[Wish]
) -> None:
    with pytest.raises(InputError, match=r"side_px: .*0\.png has a defect of 14x14 px"):
        next(guided_pairs(pipe, wishes, side_px=12))
    with pytest.raises(AdapterError, match="load_adapter"):
        next(guided_pairs(DualAnoDiffPipeline.from_pretrained(base), wishes, side_px=48))
