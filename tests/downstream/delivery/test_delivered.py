"""Pictures are handed over as they were read: no tag turns them, no pair stays a square beside wide pictures."""

from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from downstream.delivery.delivered import pair_size, pictures, scaled, without_tags
from downstream.delivery.handover import HandoverFormat, hand_over
from downstream.images import read_facts, read_mask

GREY = np.random.default_rng(0).integers(0, 255, (24, 40), dtype=np.uint8)
MASK = np.zeros((24, 40), bool)
MASK[4:12, 6:20] = True


def _tagged(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GREY).convert("RGB").save(path, exif=exif)


def _clear(path: Path) -> None:
    alpha = Image.fromarray(MASK * np.uint8(255))
    picture = Image.fromarray(GREY).convert("RGB")
    picture.putalpha(alpha)
    picture.save(path)


ODD: dict[str, Any] = {
    "turned.jpg": _tagged,
    "turned.png": _tagged,
    "turned.tif": _tagged,
    "clear.png": _clear,
    "big_endian.tif": lambda path: Image.frombytes(
        "I;16B", (40, 24), (GREY.astype(">u2") * 257).astype(">u2").tobytes()
    ).save(path),
    "pages.tif": lambda path: Image.fromarray(GREY).save(
        path, save_all=True, append_images=[Image.fromarray(255 - GREY)]
    ),
    "jpeg.png": lambda path: Image.fromarray(GREY).save(path, format="JPEG"),
    "cmyk.jpg": lambda path: Image.fromarray(GREY).convert("CMYK").save(path),
}


def _rows(tmp_path: Path, size: tuple[int, int] = (24, 40)) -> pd.DataFrame:
    """Every odd picture as a defect, and a generated square."""
    Image.fromarray(MASK * np.uint8(255)).save(tmp_path / "m.png")
    for name, write in ODD.items():
        write(tmp_path / name)
    rows = pd.DataFrame({"image_path": [str(tmp_path / name) for name in ODD]})
    return rows.assign(mask_path=str(tmp_path / "m.png"), label="hole", label_index=1, source="real")


def _as_viewers_show(content: bytes) -> NDArray[np.uint8]:
    return np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(content))).convert("RGB"))


@pytest.mark.parametrize("format", get_args(HandoverFormat))
def test_what_is_read_is_what_is_handed_over(format: HandoverFormat, tmp_path: Path) -> None:
    rows = _rows(tmp_path)
    hand_over(rows, tmp_path / "out", format)
    if format == "huggingface":
        table = pd.read_parquet(tmp_path / "out" / "data")
        contents = [image["bytes"] for image in table["image"]]
    else:
        place = {"mvtec": "test/hole", "coco": "images/train", "yolo": "images/train"}[format]
        contents = [path.read_bytes() for path in sorted((tmp_path / "out" / place).iterdir())]
    for path, content in zip(rows["image_path"], contents, strict=True):
        shown = _as_viewers_show(content)
        np.testing.assert_array_equal(shown, read_facts(path)[0], err_msg=path)
        assert shown.shape[:2] == MASK.shape


def test_a_jpeg_keeps_its_pixels_and_loses_its_tags(tmp_path: Path) -> None:
    _tagged(tmp_path / "p.jpg")
    content = (tmp_path / "p.jpg").read_bytes()
    bare = without_tags(content)
    assert bare is not None
    assert len(bare) < len(content)
    assert dict(Image.open(BytesIO(bare)).getexif()) == {}
    np.testing.assert_array_equal(
        np.asarray(Image.open(BytesIO(bare))), np.asarray(Image.open(tmp_path / "p.jpg"))
    )
    assert without_tags(b"no jpeg") is None
    assert without_tags(content[:30]) is None


def test_square_pairs_come_in_the_size_of_the_pictures(tmp_path: Path) -> None:
    rows = _rows(tmp_path)
    Image.new("RGB", (16, 16), (9, 8, 7)).save(tmp_path / "pair.png")
    disc = np.hypot(*np.mgrid[-8:8, -8:8]) < 5
    Image.fromarray(disc * np.uint8(255)).save(tmp_path / "pair_mask.png")
    pair = rows.iloc[:1].assign(
        image_path=str(tmp_path / "pair.png"), mask_path=str(tmp_path / "pair_mask.png"), source="generated"
    )
    rows = pd.concat([rows, pair], ignore_index=True)
    assert pair_size(rows) == (24, 40)
    *_, last = pictures(rows)
    assert last.size == (24, 40)
    assert last.mask is not None
    assert last.mask.mean() == pytest.approx(disc.mean(), rel=0.1), "its share of the picture stays"
    assert pair_size(pair) is None, "nothing of the user's own to go by"
    assert pair_size(rows.iloc[:-1]) is None
    square = rows.iloc[:1].assign(image_path=str(tmp_path / "pair.png"), mask_path="", label_index=0)
    assert pair_size(pd.concat([rows, square])) is None, "squares are among the pictures"


def test_a_point_survives_scaling_down() -> None:
    mask = np.zeros((40, 40), bool)
    mask[7, 31] = True
    _, small = scaled(np.zeros((40, 40, 3), np.uint8), mask, (9, 5))
    assert small is not None
    assert small.any()


def test_masks_are_handed_over_as_they_are_read(tmp_path: Path) -> None:
    rows = _rows(tmp_path)
    hand_over(rows, tmp_path / "out", "mvtec")
    for path in (tmp_path / "out/ground_truth/hole").iterdir():
        np.testing.assert_array_equal(read_mask(path), MASK)
