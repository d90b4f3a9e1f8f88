"""Guided pairs: drawn one by one or together, the normal's own pixels outside, each mark seen whole."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from dual_anodiff.config import FinetuneConfig, GenerateConfig
from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.generation import redraw_pairs
from dual_anodiff.guided import Pasted, guided_pairs, windows_of
from dual_anodiff.images import Shot
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.training import train
from tests.tiny_base import tiny_base


@pytest.fixture(scope="module")
def adapter(config: FinetuneConfig, shots: list[Shot], tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tiny_base(tmp_path_factory.mktemp("kl"), vae="kl")
    folder = tmp_path_factory.mktemp("adapter")
    train(shots, config.model_copy(update={"base": str(base)}), folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def pipe(adapter: Path) -> DualAnoDiffPipeline:
    pipe = DualAnoDiffPipeline.from_adapter(adapter)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def paste_square(normal: Path, corners: list[tuple[int, int]], seed: int) -> Pasted:
    """A normal with bright squares of 14 px."""
    pixels = np.asarray(Image.open(normal).convert("RGB"))
    image, mask = pixels.copy(), np.zeros(pixels.shape[:2], dtype=bool)
    for top, left in corners:
        mask[top : top + 14, left : left + 14] = True
    image[mask] = 230
    return Pasted(pixels, image, mask, seed)


@pytest.fixture
def pasted(normals: list[Path]) -> list[Pasted]:
    """Amid the first normal, at the border of the second, and two squares that lie far apart."""
    return [
        paste_square(normals[0], [(40, 50)], seed=1),
        paste_square(normals[1], [(0, 30)], seed=2),
        paste_square(normals[0], [(2, 2), (80, 100)], seed=3),
    ]


@pytest.mark.parametrize("side_px", [48, 84, None])  # smaller than both, larger than one, the whole picture
def test_what_is_far_from_the_defect_is_the_normal_to_the_bit(
    pipe: DualAnoDiffPipeline, pasted: list[Pasted], side_px: int | None
) -> None:
    pairs = list(guided_pairs(pipe, pasted, side_px=side_px, num_inference_steps=5, margin_cells=1))
    for start, pair in zip(pasted, pairs, strict=True):
        assert pair.image.shape == pair.anomaly.shape == start.normal.shape
        assert pair.mask.shape == start.mask.shape
        changed = (pair.image != start.normal).any(-1)
        assert changed.any()
        # A cell of its own and one as margin, each as large as it is in the picture.
        reach = 2 * 8 * (max(pair.windows[0].width, pair.windows[0].height) / 64)
        assert ndimage.distance_transform_edt(~start.mask)[changed].max() <= np.hypot(reach, reach)
        if (start.normal == start.normal[..., :1]).all():
            assert (pair.image == pair.image[..., :1]).all()
        assert (pair.anomaly[~pair.mask] == 128).all()
        assert 0 <= pair.agreement <= 1


def test_marks_that_lie_apart_get_a_window_each_and_all_change(
    pipe: DualAnoDiffPipeline, pasted: list[Pasted]
) -> None:
    (pair,) = guided_pairs(pipe, pasted[2:], side_px=48, num_inference_steps=5)
    assert len(pair.windows) == 2
    labels, _ = ndimage.label(pasted[2].mask)
    changed = (pair.image != pasted[2].normal).any(-1)
    assert all(changed[labels == number].any() for number in (1, 2))


@pytest.mark.parametrize("side_px", [12, 48, 84])
def test_each_mark_is_whole_in_a_window_however_large_it_is(pasted: list[Pasted], side_px: int) -> None:
    for start in pasted:
        windows = windows_of(start.mask, side_px, 64, seed=0)
        labels, count = ndimage.label(start.mask)
        for number in range(1, count + 1):
            rows, columns = np.nonzero(labels == number)
            assert any(
                w.top <= rows.min()
                and rows.max() < w.bottom
                and w.left <= columns.min()
                and columns.max() < w.right
                for w in windows
            )
        assert all(window.width >= side_px for window in windows)
    assert len(windows_of(pasted[2].mask, None, 64, seed=0)) == 1


def test_a_pair_comes_from_its_start_alone(pipe: DualAnoDiffPipeline, pasted: list[Pasted]) -> None:
    together = list(guided_pairs(pipe, pasted, side_px=48, num_inference_steps=5, batch_size=3))
    one_by_one = list(guided_pairs(pipe, pasted[::-1], side_px=48, num_inference_steps=5, batch_size=1))[::-1]
    for a, b in zip(together, one_by_one, strict=True):
        assert (a.windows, a.strength) == (b.windows, b.strength)
        # A batched product may round to the next grey level.
        assert np.abs(a.image.astype(int) - b.image).max() <= 1
    other = next(guided_pairs(pipe, [replace(pasted[0], seed=9)], side_px=48, num_inference_steps=5))
    assert (other.image != together[0].image).any()


def test_a_killed_drawing_goes_on_and_ends_with_the_same_files(
    adapter: Path, pasted: list[Pasted], tmp_path: Path
) -> None:
    rows = []
    for i, start in enumerate(pasted):
        pictures = {"normal_path": start.normal, "image_path": start.image, "mask_path": start.mask}
        for name, pixels in pictures.items():
            Image.fromarray(pixels).save(tmp_path / f"{name}{i}.png")
        rows.append(
            {"index": i + 4, "seed": start.seed, **{n: str(tmp_path / f"{n}{i}.png") for n in pictures}}
        )
    few = GenerateConfig(num_pairs=3, batch_size=2, num_inference_steps=4)
    out = tmp_path / "out"
    table = redraw_pairs(adapter, pd.DataFrame(rows), few, out, side_px=48, progress=False)
    files = {path: path.read_bytes() for path in out.rglob("*.png")}
    assert len(files) == 9
    kept = (out / "mask/000004.png").stat().st_mtime_ns
    (out / "mask/000005.png").unlink()
    again = redraw_pairs(adapter, pd.DataFrame(rows), few, out, side_px=48, progress=False)
    pd.testing.assert_frame_equal(again, table)
    assert {path: path.read_bytes() for path in out.rglob("*.png")} == files
    assert (out / "mask/000004.png").stat().st_mtime_ns == kept
    assert table["strength"].between(*few.strength).all()
    assert (table[["height", "width"]] == 48).all(axis=None)


def test_what_cannot_be_drawn_is_refused_by_name(
    pipe: DualAnoDiffPipeline, base: Path, pasted: list[Pasted]
) -> None:
    nothing = replace(pasted[0], mask=np.zeros_like(pasted[0].mask))
    with pytest.raises(InputError, match="a mask marks nothing"):
        next(guided_pairs(pipe, [nothing], side_px=48))
    with pytest.raises(AdapterError, match="load_adapter"):
        next(guided_pairs(DualAnoDiffPipeline.from_pretrained(base), pasted, side_px=48))
