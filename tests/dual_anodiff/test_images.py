"""Thin masks survive resizing, and an empty one is named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dual_anodiff.errors import InputError
from dual_anodiff.images import Shot, load_mask, load_shot, to_pil


def test_a_one_pixel_line_survives_eightfold_shrinking(tmp_path: Path) -> None:
    mask = np.zeros((512, 512), dtype=np.uint8)
    mask[:, 200] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    Image.new("RGB", (512, 512)).save(tmp_path / "i.png")
    _, small = load_shot(Shot(tmp_path / "i.png", tmp_path / "m.png"), 64)
    assert small[0].any(dim=1).all()
    assert small.sum() == 64


def test_a_mask_that_marks_nothing_is_named(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=r"m\.png: marks no pixel"):
        load_mask(tmp_path / "m.png")


def test_pil_and_tensor_agree() -> None:
    image = torch.rand(3, 5, 7) * 2 - 1
    back = torch.from_numpy(np.asarray(to_pil(image)).copy()).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(back, image, atol=1 / 255 + 1e-4, rtol=0)
