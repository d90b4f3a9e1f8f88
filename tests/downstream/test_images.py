"""Masks keep thin defects, and fit their pictures after resizing; what does not fit is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from downstream.errors import PictureError
from downstream.images import load_pictures, read_image, resize_image, resize_mask


@pytest.mark.parametrize("shape", [(300, 103), (64, 64), (17, 400), (1000, 1000)])
def test_a_thin_mask_survives_the_resize(shape: tuple[int, int]) -> None:
    for column in (0, shape[1] // 3, shape[1] - 1):
        mask = np.zeros(shape, dtype=bool)
        mask[:, column] = True
        cells = resize_mask(mask, 64)[0]
        assert cells.any(dim=1).all(), "the line is unbroken"
        assert int(cells.any(dim=0).sum()) <= max(2, 64 // shape[1] + 2), "and stays thin"
    assert not resize_mask(np.zeros(shape, dtype=bool), 64).any()


def test_image_and_mask_are_resized_onto_each_other() -> None:
    mask = np.zeros((90, 150), dtype=bool)
    mask[20:50, 60:120] = True
    image = np.repeat(mask[:, :, None], 3, axis=2).astype(np.float32)
    small, cells = resize_image(image, 32)[0] > 127, resize_mask(mask, 32)[0]
    assert (small & ~cells).sum() == 0
    assert (cells & ~small).sum() <= 4 * 32 / 3, "at most the rim differs"


def test_faulty_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    Image.fromarray(np.zeros((4, 6), dtype=np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.zeros((4, 6), dtype=np.uint8)).save(tmp_path / "empty.png")
    Image.fromarray(np.full((4, 4), 255, dtype=np.uint8)).save(tmp_path / "small.png")
    image = str(tmp_path / "image.png")
    for path, fault in [("broken.png", "cannot be read"), ("nowhere.png", "cannot be read")]:
        with pytest.raises(PictureError, match=rf"{path}.*{fault}"):
            read_image(tmp_path / path)
    for mask, fault in [
        ("", "has no mask"),
        ("empty.png", "no defect pixel"),
        ("small.png", "is 4×4 px.*6×4 px"),
    ]:
        with pytest.raises(PictureError, match=fault):
            load_pictures([image], [str(tmp_path / mask) if mask else ""], [1], 32)
