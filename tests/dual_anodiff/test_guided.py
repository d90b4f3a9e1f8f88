"""Guided pairs: planned from seeds, drawn one by one or together, the normal's own pixels outside."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dual_anodiff.config import FinetuneConfig
from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.guided import Wish, guided_pairs, plan_pairs
from dual_anodiff.images import Shot
from dual_anodiff.paste import Change, box_of
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.training import train
from tests.tiny_base import tiny_base


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pictures of unlike size, the second grey."""
    folder, rng = tmp_path_factory.mktemp("normals"), np.random.default_rng(1)
    Image.fromarray(rng.integers(60, 90, (96, 120, 3), dtype=np.uint8)).save(folder / "0.png")
    Image.fromarray(rng.integers(60, 90, (70, 100), dtype=np.uint8)).save(folder / "1.png")
    return [folder / "0.png", folder / "1.png"]


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
        Wish(shots[0], Change(), normals[0], 40, 50, seed=1),
        Wish(shots[1], Change(flip_x=True), normals[1], 0, 30, seed=2),
        Wish(shots[2], Change(turn_deg=30, scale=0.8), normals[0], 20, 20, seed=3),
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


def test_plans_come_from_seed_and_number_and_stay_within_the_normals(
    shots: list[Shot], normals: list[Path]
) -> None:
    planned = plan_pairs(shots, normals, 30, 7, horizontal=True, max_turn_deg=20)
    assert plan_pairs(shots, normals, 3, 7, horizontal=True, max_turn_deg=20) == planned[:3]
    assert len({wish.seed for wish in planned}) == 30
    assert {wish.shot for wish in planned} == set(shots)
    assert {wish.change.flip_x for wish in planned} == {True, False}
    assert not any(wish.change.flip_y for wish in planned)
    for wish in planned:
        width, height = Image.open(wish.normal).size
        assert 0 <= wish.top <= height - 10
        assert 0 <= wish.left <= width - 10


def test_a_defect_at_a_border_stays_at_that_border_mirrored_with_it_and_unturned(
    tmp_path: Path, normals: list[Path]
) -> None:
    mask = np.zeros((50, 60), dtype=np.uint8)
    mask[20:30, :8] = 255
    Image.fromarray(np.repeat(mask[..., None] // 2 + 60, 3, axis=2)).save(tmp_path / "break.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    shot = Shot(tmp_path / "break.png", tmp_path / "mask.png")
    planned = plan_pairs([shot], normals, 20, 0, horizontal=True, max_turn_deg=45, scale=(1, 1))
    for wish in planned:
        assert wish.change.turn_deg == 0
        width = Image.open(wish.normal).width
        assert wish.left == (width - 8 if wish.change.flip_x else 0)
    assert {wish.change.flip_x for wish in planned} == {True, False}


def test_what_cannot_be_drawn_is_refused_by_name(
    pipe: DualAnoDiffPipeline, base: Path, shots: list[Shot], normals: list[Path], wishes: list[Wish]
) -> None:
    with pytest.raises(InputError, match=r"side_px: .*0\.png has a defect of 14x14 px"):
        next(guided_pairs(pipe, wishes, side_px=12))
    with pytest.raises(InputError, match="shots, normals: 0 and 2 were given"):
        plan_pairs([], normals, 1, 0)
    with pytest.raises(InputError, match="fits into none of 2; lower `scale`"):
        plan_pairs(shots, normals, 1, 0, scale=(12, 12))
    with pytest.raises(AdapterError, match="load_adapter"):
        next(guided_pairs(DualAnoDiffPipeline.from_pretrained(base), wishes, side_px=48))
