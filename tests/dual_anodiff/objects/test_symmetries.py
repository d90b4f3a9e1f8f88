"""What categories bear: a texture anything, an aligned part what brings it onto itself and nothing else."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dual_anodiff.demo_data import draw_demo
from dual_anodiff.images import to_pil
from dual_anodiff.objects.symmetries import (
    MAX_NORMALS,
    PX,
    Symmetries,
    find_symmetries,
    load_normals,
    rotated,
)
from dual_anodiff.quality.features import Features


@pytest.fixture(scope="module")
def features() -> Features:
    torch.set_num_threads(1)
    return Features()


def found(features: Features, images: Tensor) -> Symmetries:
    large = torch.nn.functional.interpolate(images, (PX, PX), mode="bilinear")
    return find_symmetries(features, large)


def drawn(name: str, count: int = 32) -> Tensor:
    return draw_demo(name, None, count, torch.Generator().manual_seed(0)).image


def test_an_aligned_part_bears_what_brings_it_onto_itself(features: Features) -> None:
    """A plate with holes lies along the picture: it may be mirrored, but neither stand on end nor lie askew."""
    plate = found(features, drawn("plate"))
    assert (plate.horizontal_flip, plate.vertical_flip, plate.rotate90, plate.rotation) == (
        True,
        True,
        False,
        5,
    )
    assert plate.ratios["rotate90"] > 2 * max(plate.ratios["horizontal_flip"], plate.ratios["vertical_flip"])


def test_a_texture_without_direction_bears_everything(features: Features) -> None:
    leather = found(features, drawn("leather"))
    assert (leather.horizontal_flip, leather.vertical_flip, leather.rotate90, leather.rotation) == (
        True,
        True,
        True,
        180,
    )


def test_a_part_with_a_mark_on_one_side_is_not_mirrored(features: Features) -> None:
    """Refused across the mark's axis only."""
    parts = drawn("bottle_rim", 16)
    parts[:, :, 50:78, 8:30] = torch.tensor([0.9, -0.6, -0.6])[:, None, None]
    marked = found(features, parts)
    assert not marked.horizontal_flip
    assert marked.vertical_flip
    assert not marked.rotate90


def test_too_few_normals_bear_a_few_degrees_only(features: Features) -> None:
    assert found(features, drawn("leather", 3)) == Symmetries(False, False, False, 5.0, {})


def test_copies_of_one_picture_are_told_from_their_mirror_image(features: Features) -> None:
    tile = drawn("tile", 1).expand(6, -1, -1, -1)
    same = found(features, tile)
    assert not same.vertical_flip
    assert not same.rotate90


def test_a_rotation_leaves_no_black_corner_and_comes_back() -> None:
    white = torch.ones(2, 3, 32, 32)
    torch.testing.assert_close(rotated(white, 30), white)
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    torch.testing.assert_close(rotated(ramp, 90), ramp.rot90(1, (2, 3)), rtol=0, atol=0.04)
    back = rotated(rotated(ramp, 20), -20)[..., 16:48, 16:48]
    torch.testing.assert_close(back, ramp[..., 16:48, 16:48], rtol=0, atol=0.02)


def test_normals_are_taken_evenly(tmp_path: Path) -> None:
    paths = []
    for i in range(MAX_NORMALS + 2):
        paths.append(tmp_path / f"{i:03}.png")
        to_pil(torch.full((3, 8, 8), i / 128)).save(paths[-1])
    normals = load_normals(paths[::-1])
    assert normals.shape == (33, 3, PX, PX)
    assert normals[1].mean() == pytest.approx(2 / 128, abs=0.01)
