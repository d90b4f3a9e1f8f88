"""One reader: every mode gives the same pixels and the same mask to every library, or is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from downstream import images as downstream
from downstream.errors import PictureError
from dual_anodiff import images as generator
from dual_anodiff.errors import InputError, UnreadableError
from dual_anodiff.pictures import examine_picture, picture_size, read_mask, read_picture
from tasks.data import pictures as tasks
from tasks.errors import DataError

DEFECT = np.zeros((24, 40), bool)
DEFECT[5:12, 8:20] = True
DEFECT[18, 2:30] = True  # a scratch of one pixel
ONCE = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def palette(
    mask: NDArray[np.bool_], background: tuple[int, int, int], defect: tuple[int, int, int], first: bool
) -> Image.Image:
    """An indexed picture; `first`: the defect has index 0."""
    image = Image.fromarray((mask != first).astype(np.uint8), "P")
    image.putpalette([*defect, *background] if first else [*background, *defect])
    return image


def alpha(mask: NDArray[np.bool_], under: int) -> Image.Image:
    """White where it is defect and opaque, `under` where it is transparent."""
    grey = np.where(mask, 255, under).astype(np.uint8)
    return Image.fromarray(np.stack([grey, grey, grey, mask * np.uint8(255)], -1))


MASKS: dict[str, Callable[[NDArray[np.bool_]], Image.Image]] = {
    "0 and 255": lambda m: Image.fromarray(m * np.uint8(255)),
    "0 and 1": lambda m: Image.fromarray(m * np.uint8(1)),
    "0 and 248, as LOCO has them": lambda m: Image.fromarray(m * np.uint8(248)),
    "bits": lambda m: Image.fromarray(m),
    "16 bits that hold 255": lambda m: Image.fromarray(m * np.uint16(255)),
    "16 bits": lambda m: Image.fromarray(m * np.uint16(65535)),
    "palette, black first": lambda m: palette(m, (0, 0, 0), (255, 255, 255), False),
    "palette, white first": lambda m: palette(m, (0, 0, 0), (255, 255, 255), True),
    "palette of VOC": lambda m: palette(m, (0, 0, 0), (128, 0, 0), False),
    "RGB": lambda m: Image.fromarray(m * np.uint8(255)).convert("RGB"),
    "one colour on black": lambda m: Image.fromarray(m[..., None] * np.array([255, 40, 0], np.uint8)),
    "opaque alpha": lambda m: Image.fromarray(m * np.uint8(255)).convert("RGBA"),
    "grey and opaque alpha": lambda m: Image.fromarray(m * np.uint8(255)).convert("LA"),
    "transparent black": lambda m: alpha(m, 0),
}


def every_mask(path: Path) -> list[NDArray[np.bool_]]:
    """What each library reads."""
    return [
        read_mask(path),
        generator.load_mask(path)[0].numpy() > 0.5,
        downstream.read_mask(path),
        tasks.load_mask(path) > 127,
    ]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("kind", MASKS)
def test_every_library_reads_the_same_mask(kind: str, suffix: str, tmp_path: Path) -> None:
    MASKS[kind](DEFECT).save(tmp_path / f"m.{suffix}")
    for read in every_mask(tmp_path / f"m.{suffix}"):
        np.testing.assert_array_equal(read, DEFECT)


@ONCE
@given(
    mask=arrays(bool, st.tuples(st.integers(2, 20), st.integers(2, 20))), kind=st.sampled_from(sorted(MASKS))
)
def test_any_drawn_mask_reads_as_drawn_whatever_its_mode(
    mask: NDArray[np.bool_], kind: str, tmp_path: Path
) -> None:
    mask[0, 0], mask[-1, -1] = True, False  # nothing but one value is another matter
    MASKS[kind](mask).save(tmp_path / "m.png")
    for read in every_mask(tmp_path / "m.png"):
        np.testing.assert_array_equal(read, mask)


def test_smoothed_edges_are_cut_at_half(tmp_path: Path) -> None:
    large = Image.fromarray(DEFECT * np.uint8(255)).resize((400, 240), Image.Resampling.BICUBIC)
    truth = np.asarray(large) > 127
    for name, file in (
        ("soft.png", large),
        ("jpeg.jpg", large),
        ("red.jpg", Image.merge("RGB", (large, *[large.point(lambda _: 0)] * 2))),
    ):
        file.save(tmp_path / name)
        first, *others = every_mask(tmp_path / name)
        assert (first != truth).mean() < 0.01, name
        assert all((other == first).all() for other in others)
    small = large.resize((60, 36), Image.Resampling.BOX)
    small.save(tmp_path / "small.png")
    np.testing.assert_array_equal(
        read_mask(tmp_path / "small.png"), np.asarray(small) > np.asarray(small).max() / 2
    )


def of_greys(background: int, *greys: int) -> Image.Image:
    """Areas of each grey side by side."""
    pixels = np.full((24, 40), background, np.uint8)
    for i, grey in enumerate(greys):
        pixels[6:16, 4 + 12 * i : 14 + 12 * i] = grey
    return Image.fromarray(pixels)


def with_pages(tmp_path: Path) -> Image.Image:
    """A picture that reads two pages."""
    page = Image.fromarray(DEFECT * np.uint8(255))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    return Image.open(tmp_path / "pages.tif")


UNCLEAR: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "two greys, no black": (lambda: of_greys(100, 200), "nothing black"),
    "one grey alone": (lambda: of_greys(100), "only 100 and nothing black"),
    "two greys on black": (lambda: of_greys(0, 128, 255), "areas of 2 kinds"),
    "numbered areas": (lambda: of_greys(0, 1, 2, 3), "areas of 3 kinds"),
    "two colours": (
        lambda: Image.merge("RGB", (of_greys(0, 255, 0), of_greys(0, 0, 255), of_greys(0))),
        "areas of 2 kinds",
    ),
    "white paper": (lambda: palette(DEFECT, (255, 255, 255), (255, 0, 0), False), "nothing black"),
    "white all over, drawn in alpha": (lambda: alpha(DEFECT, 255), "without what is transparent"),
    "black drawn on transparent": (
        lambda: Image.fromarray(np.stack([np.zeros_like(DEFECT, np.uint8)] * 3 + [DEFECT * np.uint8(255)], -1)),
        "its colours mark 0 px",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNCLEAR)
def test_what_can_be_read_in_two_ways_is_refused_everywhere(kind: str, tmp_path: Path) -> None:
    make, what = UNCLEAR[kind]
    path = tmp_path / "m.png"
    make().save(path)
    for read, error in (
        (read_mask, UnreadableError),
        (generator.load_mask, InputError),
        (downstream.read_mask, PictureError),
        (tasks.load_mask, DataError),
    ):
        with pytest.raises(error, match=rf"m\.png: .*{what}.*; save it"):
            read(path)


def test_a_mask_of_several_pages_and_one_that_marks_all_or_nothing(tmp_path: Path) -> None:
    with_pages(tmp_path)
    with pytest.raises(UnreadableError, match="2 pages"):
        read_mask(tmp_path / "pages.tif")
    for value, marked in ((0, False), (255, True)):
        Image.new("L", (5, 4), value).save(tmp_path / "flat.png")
        assert (read_mask(tmp_path / "flat.png") == marked).all()
    Image.fromarray(np.full((4, 5), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(UnreadableError, match="none at all"):
        read_mask(tmp_path / "nan.tif")


RAMP = np.linspace(0, 255, 24 * 40).astype(np.uint8).reshape(24, 40)
PICTURES: dict[str, Callable[[], Image.Image]] = {
    "grey": lambda: Image.fromarray(RAMP),
    "RGB": lambda: Image.fromarray(RAMP).convert("RGB"),
    "palette": lambda: Image.fromarray(RAMP).convert("P"),
    "opaque": lambda: Image.fromarray(RAMP).convert("RGBA"),
    "grey and alpha": lambda: Image.fromarray(RAMP).convert("LA"),
    "16 bits": lambda: Image.fromarray(RAMP * np.uint16(257)),
    "CMYK": lambda: Image.fromarray(RAMP).convert("RGB").convert("CMYK"),
}


def every_picture(path: Path) -> list[NDArray[np.uint8]]:
    """What each library reads, as 8-bit RGB."""
    tensor = generator.load_image(path).permute(1, 2, 0)
    return [
        read_picture(path),
        ((tensor + 1) * 127.5).round().to(torch.uint8).numpy(),
        downstream.read_facts(path)[0],
        np.rint(downstream.read_image(path) * 255).astype(np.uint8),
        np.asarray(tasks.load_image(path)),
    ]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("kind", PICTURES)
def test_every_library_reads_the_same_picture(kind: str, suffix: str, tmp_path: Path) -> None:
    picture = PICTURES[kind]()
    if picture.mode == "CMYK" and suffix == "png":
        pytest.skip("PNG has no CMYK")
    picture.save(tmp_path / f"p.{suffix}")
    for read in every_picture(tmp_path / f"p.{suffix}"):
        np.testing.assert_array_equal(read, np.repeat(RAMP[..., None], 3, 2))


def test_big_endian_16_bits(tmp_path: Path) -> None:
    Image.frombytes("I;16B", (40, 24), (RAMP.astype(">u2") * 257).astype(">u2").tobytes()).save(
        tmp_path / "p.tif"
    )
    for read in every_picture(tmp_path / "p.tif"):
        np.testing.assert_array_equal(read[..., 0], RAMP)


@ONCE
@given(pixels=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(4))))
def test_what_is_transparent_is_black_to_all(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "p.png")
    first, *others = every_picture(tmp_path / "p.png")
    assert (first[pixels[..., 3] == 0] == 0).all()
    clear = pixels[..., 3] == 255
    np.testing.assert_array_equal(first[clear], pixels[clear][:, :3])
    for other in others:
        np.testing.assert_array_equal(other, first)
    share = examine_picture(tmp_path / "p.png")[1].transparent_share
    assert share == pytest.approx((pixels[..., 3] < 255).mean())


# Pillow turns TIFFs by itself; plain ones that lie sideways it scrambles where it opens them by name.
@pytest.mark.parametrize(
    ("suffix", "compression"), [("png", None), ("jpg", None), ("tif", "raw"), ("tif", "tiff_lzw")]
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_and_masks_are_read_as_stored_whatever_their_tag(
    orientation: int, suffix: str, compression: str | None, tmp_path: Path
) -> None:
    path, exif = tmp_path / f"p.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"quality": 100} if suffix == "jpg" else {}
    if compression is not None:
        options = {"compression": compression}
    Image.fromarray(DEFECT * np.uint8(255)).save(path, exif=exif, **options)
    pixels, facts = examine_picture(path)
    assert (facts.orientation, picture_size(path), pixels.shape[:2]) == (
        orientation,
        DEFECT.shape,
        DEFECT.shape,
    )
    for read in every_mask(path):
        np.testing.assert_array_equal(read, DEFECT)
    for picture in every_picture(path):
        np.testing.assert_array_equal(picture[..., 0] > 127, DEFECT)


def test_facts_of_pages_bits_and_brightness(tmp_path: Path) -> None:
    with_pages(tmp_path)
    assert examine_picture(tmp_path / "pages.tif")[1].pages == 2
    Image.fromarray(RAMP.astype(np.uint16) * 16).save(tmp_path / "p.png")
    facts = examine_picture(tmp_path / "p.png")[1]
    assert facts.bits == 16
    assert facts.brightest == pytest.approx(16 / 255)


def test_the_largest_picture_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (2000, 1000)).save(tmp_path / "p.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own limit is not asked, and stays as it was
    assert read_picture(tmp_path / "p.png").shape == (1000, 2000, 3)
    assert Image.MAX_IMAGE_PIXELS == 10
    monkeypatch.setenv("ANODIFF_MAX_MEGAPIXELS", "1.5")
    with pytest.raises(
        UnreadableError, match=r"p\.png: has 2 megapixels, more than 1\.5; .*ANODIFF_MAX_MEGAPIXELS"
    ):
        read_picture(tmp_path / "p.png")
    monkeypatch.setenv("ANODIFF_MAX_MEGAPIXELS", "many")
    with pytest.raises(UnreadableError, match="number of megapixels"):
        read_picture(tmp_path / "p.png")


def test_broken_files_are_named_by_every_library(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:120])
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "float.tif")
    for name in ("cut.png", "text.png", "absent.png", "float.tif"):
        for read, error in (
            (read_picture, UnreadableError),
            (generator.load_image, InputError),
            (downstream.read_image, PictureError),
            (tasks.load_image, DataError),
        ):
            with pytest.raises(error, match=name):
                read(tmp_path / name)
