"""Every usual picture mode comes out as 8-bit RGB of the right brightness."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.errors import DataError
from tasks.pictures import load_image, load_mask, picture_files

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def _save(image: Image.Image, path: Path) -> Path:
    image.save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "jpg", "jpeg"])
def test_grey_in_every_format(tmp_path: Path, suffix: str) -> None:
    image = load_image(_save(Image.fromarray(RAMP), tmp_path / f"a.{suffix}"))
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image)[..., 1].astype(int) - RAMP).max() <= (4 if "j" in suffix else 0)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    path = _save(Image.fromarray(RAMP.astype(np.uint16) * 257), tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(np.asarray(load_image(path))[..., 0], RAMP)


def test_palette_bilevel_and_grey_alpha(tmp_path: Path) -> None:
    colours = np.stack([RAMP // 64 * 64, 255 - RAMP // 64 * 64, np.full_like(RAMP, 64)], -1)
    palette = _save(Image.fromarray(colours).quantize(16), tmp_path / "p.png")
    assert np.abs(np.asarray(load_image(palette)).astype(int) - colours).max() <= 8
    bilevel = _save(Image.fromarray(RAMP > 127), tmp_path / "1.png")
    np.testing.assert_array_equal(np.asarray(load_image(bilevel))[..., 0], (RAMP > 127) * 255)
    opaque = Image.merge("LA", (Image.fromarray(RAMP), Image.new("L", (16, 16), 255)))
    np.testing.assert_array_equal(np.asarray(load_image(_save(opaque, tmp_path / "la.png")))[..., 2], RAMP)


def test_transparent_pixels_are_black_whatever_colour_lies_under_them(tmp_path: Path) -> None:
    rgba = np.full((16, 16, 4), 200, np.uint8)
    rgba[:8, :, 3], rgba[8:, :, 3] = 0, 255
    picture = np.asarray(load_image(_save(Image.fromarray(rgba), tmp_path / "a.png")))
    assert (picture[:8] == 0).all()
    assert (picture[8:] == 200).all()


def test_broken_or_undefined_pictures_are_named(tmp_path: Path) -> None:
    whole = _save(Image.fromarray(RAMP).resize((64, 64)), tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    _save(Image.fromarray(RAMP.astype(np.float32)), tmp_path / "float.tif")
    for name in ("cut.png", "text.png", "float.tif"):
        with pytest.raises(DataError, match=name):
            load_image(tmp_path / name)


def test_masks_are_read_from_any_mode(tmp_path: Path) -> None:
    values = np.where(RAMP > 200, 255, 0).astype(np.uint8)
    for image in (
        Image.fromarray(values),
        Image.fromarray(values).convert("P"),
        Image.fromarray(values).convert("RGB"),
    ):
        np.testing.assert_array_equal(load_mask(_save(image, tmp_path / "m.png")), values)


def test_only_pictures_are_listed_by_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "._a.jpg", "notes.txt", "c.jpeg"):
        (tmp_path / name).touch()
    assert [path.name for path in picture_files(tmp_path)] == ["a.jpg", "b.PNG", "c.jpeg"]
