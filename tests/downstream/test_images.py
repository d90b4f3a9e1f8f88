"""Pictures of every kind come out as RGB in 0..1, masks keep thin defects, changes hit image and mask alike."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from downstream.errors import PictureError
from downstream.images import load_pictures, read_image, read_mask, resize_image, resize_mask

GREY = np.array([[0, 51, 102], [153, 204, 255]], dtype=np.uint8)


def test_every_picture_mode_reads_alike(tmp_path: Path) -> None:
    rgb = Image.fromarray(np.repeat(GREY[:, :, None], 3, axis=2))
    with_alpha = rgb.copy()
    with_alpha.putalpha(Image.fromarray(255 - GREY))
    pictures = {
        "rgb": rgb,
        "grey": Image.fromarray(GREY),
        "16bit": Image.fromarray(GREY.astype(np.uint16) * 257),
        "palette": Image.fromarray(GREY).convert("P"),
        "alpha": with_alpha,
        "grey_alpha": with_alpha.convert("LA"),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        read = read_image(tmp_path / f"{name}.png")
        assert read.shape == (2, 3, 3), name
        np.testing.assert_allclose(
            read, np.repeat(GREY[:, :, None] / 255, 3, axis=2), atol=1e-3, err_msg=name
        )


def test_every_mask_mode_reads_alike(tmp_path: Path) -> None:
    truth = np.array([[False, True, True], [False, False, True]])
    palette = Image.fromarray(truth.astype(np.uint8))
    palette.putpalette([0, 0, 0, 128, 0, 0])
    masks = {
        "255": Image.fromarray(truth.astype(np.uint8) * 255),
        "1": Image.fromarray(truth.astype(np.uint8)),
        "bits": Image.fromarray(truth),
        "16bit": Image.fromarray(truth.astype(np.uint16) * 65535),
        "palette": palette,
        "rgb": Image.fromarray(np.repeat(truth[:, :, None].astype(np.uint8) * 255, 3, axis=2)),
    }
    for name, mask in masks.items():
        mask.save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png"), truth, err_msg=name)
    Image.fromarray(np.zeros((2, 2), dtype=np.uint8)).save(tmp_path / "empty.png")
    assert not read_mask(tmp_path / "empty.png").any()


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
    Image.fromarray(np.ones((4, 4), dtype=np.uint8)).save(tmp_path / "small.png")
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
