"""Twins are found under every disguise; aligned parts that only look alike are left apart."""

import io
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tasks.data.near_duplicates import Thumbnail, near_duplicate_groups, thumbnail, with_groups
from tasks.data.samples import read_dataset
from tests.tasks.data_folders import aligned_part, exposed, real_data, texture

Draw = Callable[[int, int], NDArray[np.float64]]


def _image(pixels: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _thumb(pixels: NDArray[np.float64]) -> Thumbnail:
    return thumbnail(_image(pixels))


def _groups(thumbs: list[Thumbnail]) -> list[int]:
    return near_duplicate_groups(thumbs, [str(index) for index in range(len(thumbs))]).tolist()


def _disguises(pixels: NDArray[np.float64]) -> dict[str, Thumbnail]:
    jpeg = io.BytesIO()
    _image(pixels).save(jpeg, "JPEG", quality=60)
    height, width = pixels.shape
    return {
        "gain": _thumb(exposed(pixels, 0.6, 0, 1)),
        "offset": _thumb(exposed(pixels, 0.8, 20, 1)),
        "darker gamma": _thumb(exposed(pixels, 1, 0, 1.5)),
        "brighter gamma": _thumb(exposed(pixels, 1, 0, 0.65)),
        "recompressed": thumbnail(Image.open(jpeg)),
        "resized": thumbnail(_image(pixels).resize((width * 3 // 4, height * 3 // 4))),
    }


@pytest.mark.parametrize("count", [6, 40])
@pytest.mark.parametrize("draw", [texture, aligned_part])
def test_twins_are_found_and_others_left_apart(draw: Draw, count: int) -> None:
    parts = [draw(seed, 128) for seed in range(count)]
    for name, twin in _disguises(parts[2]).items():
        assert _groups([*map(_thumb, parts), twin]) == [*range(count), 2], name


@pytest.mark.parametrize("count", [6, 40])
def test_a_twin_may_be_cropped_otherwise(count: int) -> None:
    # Of textures only: an aligned part cropped otherwise differs more from itself than from its neighbours.
    parts = [texture(seed, 128) for seed in range(count)]
    assert _groups([*map(_thumb, parts), _thumb(parts[2][4:-1, 1:-3])]) == [*range(count), 2]


def test_aligned_parts_alone_make_no_group() -> None:
    assert _groups([_thumb(aligned_part(seed)) for seed in range(80)]) == list(range(80))


def test_many_copies_of_few_parts() -> None:
    exposures = [(1, 0, 1), (0.7, 0, 1), (0.8, 30, 1), (1, 0, 1.4), (1, 0, 0.7), (0.6, 10, 1.2)]
    thumbs = [
        _thumb(exposed(texture(part, px=128), *exposure)) for part in range(4) for exposure in exposures
    ]
    assert _groups(thumbs) == [part for part in range(4) for _ in exposures]


def test_pictures_of_different_shape_or_without_detail_are_no_twins() -> None:
    part = texture(1, px=128)
    others = [_thumb(texture(seed, px=128)) for seed in range(2, 8)]
    assert len(set(_groups([_thumb(part), _thumb(part[:90]), *others]))) == 8
    flat = [_thumb(np.full((32, 32), grey)) for grey in (0.0, 100.0, 200.0)]
    assert _groups([*flat, *others]) == list(range(9))


def test_the_same_file_is_always_one_group() -> None:
    flat = _thumb(np.zeros((32, 32)))
    assert near_duplicate_groups([flat, flat, flat], ["a", "b", "a"]).tolist() == [0, 1, 0]
    assert near_duplicate_groups([flat], ["a"]).tolist() == [0]
    assert near_duplicate_groups([], []).tolist() == []


def test_hazelnuts_are_all_different() -> None:
    assert with_groups(read_dataset(real_data("hazelnut_toy")))["group"].is_unique


@pytest.mark.slow
def test_magnetic_tile_falls_into_its_tiles() -> None:
    folder = real_data("magnetic_tile").resolve()  # may be a link
    table = with_groups(read_dataset(folder))
    group_of = {
        path.removeprefix(f"{folder}/"): group
        for path, group in zip(table.image_path, table.group, strict=True)
    }
    one_tile = (  # the README of the data names these as one tile
        "test/fray/000 train/good/129 train/good/261 test/blowhole/057 train/good/525 test/good/131 test/fray/031"
    )
    assert len({group_of[f"{name}.jpg"] for name in one_tile.split()}) == 1
    sizes = Counter(Counter(table["group"]).values())
    assert sizes[6] >= 170  # six exposures of a tile: 182 such groups measured
    assert max(sizes) <= 20
