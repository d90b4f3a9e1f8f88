"""Every kind of picture file becomes RGB of the same meaning, and thin masks survive resizing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dual_anodiff.errors import InputError
from dual_anodiff.images import Shot, load_image, load_mask, load_shot, to_pil


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "I;16"])
def test_any_mode_reads_as_rgb_of_the_same_brightness(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "white.png"
    if mode == "I;16":
        Image.fromarray(np.full((6, 8), 65535, dtype=np.uint16)).save(path)
    else:
        Image.new("L", (8, 6), 255).convert(mode).save(path)
    image = load_image(path)
    assert image.shape == (3, 6, 8)
    torch.testing.assert_close(image, torch.ones(3, 6, 8))


def test_sixteen_bit_grey_keeps_its_scale(tmp_path: Path) -> None:
    path = tmp_path / "dark.png"
    Image.fromarray(np.full((4, 4), 6554, dtype=np.uint16)).save(path)
    torch.testing.assert_close(load_image(path), torch.full((3, 4, 4), -0.8), atol=1e-3, rtol=0)


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    path = tmp_path / "clear.png"
    Image.new("RGBA", (4, 4), (255, 255, 255, 0)).save(path)
    torch.testing.assert_close(load_image(path), -torch.ones(3, 4, 4))


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    for read in (load_image, load_mask):
        with pytest.raises(InputError, match=r"notes\.png"):
            read(path)


def test_a_one_pixel_line_survives_eightfold_shrinking(tmp_path: Path) -> None:
    mask = np.zeros((512, 512), dtype=np.uint8)
    mask[:, 200] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    Image.new("RGB", (512, 512)).save(tmp_path / "i.png")
    _, small = load_shot(Shot(tmp_path / "i.png", tmp_path / "m.png"), 64)
    assert small[0].any(dim=1).all()
    assert small.sum() == 64


def test_pil_and_tensor_agree() -> None:
    image = torch.rand(3, 5, 7) * 2 - 1
    back = torch.from_numpy(np.asarray(to_pil(image)).copy()).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(back, image, atol=1 / 255 + 1e-4, rtol=0)
