"""Textures: they fill the picture, follow their shape parameters, and repeat with their seed."""

import pytest
import torch

from dual_anodiff.procedural.noise import cell_noise, noise_at
from dual_anodiff.procedural.surface import Canvas, Surface
from dual_anodiff.procedural.textures import CLOTHS, SHEETS, TEXTURES

SIZE_PX = 64


def axes(b: int) -> tuple[torch.Tensor, torch.Tensor]:
    axis = (torch.arange(SIZE_PX) + 0.5) / SIZE_PX * 2 - 1
    gy, gx = torch.meshgrid(axis, axis, indexing="ij")
    return gx.repeat(b, 1, 1), gy.repeat(b, 1, 1)


def surface(kind: str, seed: int = 0, shape: dict[int, float] | None = None) -> Surface:
    """A block of three, each picture of its own colours; `shape` sets parameters apart from one half."""
    x, y = axes(3)
    u = torch.full((3, 6), 0.5)
    for i, number in (shape or {}).items():
        u[:, i] = number
    colours = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(7))
    return TEXTURES[kind](Canvas(x, y, u, colours[0], colours[1], torch.Generator().manual_seed(seed)))


def difference(a: Surface, b: Surface) -> float:
    """In units of the relief's and the shade's own spread."""
    relief = (a.height - b.height).abs().mean() / a.height.std()
    shade = (a.albedo - b.albedo).abs().mean() / a.albedo.std((2, 3)).mean()
    return float(relief + shade)


def test_there_are_textures_enough_and_the_lists_name_some_of_them() -> None:
    assert len(TEXTURES) >= 15
    assert {"tile", "leather"} <= set(TEXTURES)
    assert set(CLOTHS) <= set(TEXTURES)
    assert set(SHEETS) <= set(TEXTURES)


@pytest.mark.parametrize("kind", TEXTURES)
def test_every_texture_fills_the_picture_with_finite_values(kind: str) -> None:
    s = surface(kind)
    assert s.albedo.shape == (3, 3, SIZE_PX, SIZE_PX)
    assert s.height.shape == s.inside.shape == s.gloss.shape == (3, SIZE_PX, SIZE_PX)
    assert torch.equal(s.inside, torch.ones_like(s.inside))
    assert s.height.isfinite().all()
    assert s.albedo.min() >= 0
    assert s.albedo.max() <= 1


@pytest.mark.parametrize("kind", TEXTURES)
@pytest.mark.parametrize("i", [0, 1])
def test_the_first_two_shape_parameters_show_in_relief_or_shade(kind: str, i: int) -> None:
    assert difference(surface(kind, shape={i: 0.35}), surface(kind, shape={i: 0.9})) > 0.1


@pytest.mark.parametrize("kind", TEXTURES)
def test_no_texture_is_flat_and_no_two_pictures_of_a_block_are_alike(kind: str) -> None:
    s = surface(kind)
    assert s.height.std((1, 2)).min() > 5e-4
    assert s.albedo.mean(1).std((1, 2)).min() > 0.005
    assert (s.albedo[0] - s.albedo[1]).abs().mean() > 0.005


@pytest.mark.parametrize("kind", TEXTURES)
def test_same_seed_same_surface(kind: str) -> None:
    assert torch.equal(surface(kind).height, surface(kind).height)
    assert torch.equal(surface(kind).albedo, surface(kind).albedo)
    assert not torch.equal(surface(kind).albedo, surface(kind, seed=1).albedo)


def test_cell_noise_orders_its_distances_and_numbers_its_cells_evenly() -> None:
    x, y = axes(8)
    nearest, second, number = cell_noise(10 * x, 10 * y, torch.Generator().manual_seed(0))
    assert nearest.min() >= 0
    assert (nearest <= second).all()
    assert nearest.max() < 2**0.5
    assert number.min() >= 0
    assert number.max() < 1
    assert float(number.mean()) == pytest.approx(0.5, abs=0.05)


def test_cell_noise_without_jitter_is_the_distance_to_the_lattice() -> None:
    x, y = axes(1)
    nearest, _, _ = cell_noise(4 * x, 4 * y, torch.Generator().manual_seed(0), jitter=0.0)
    fx, fy = (4 * t - (4 * t).floor() - 0.5 for t in (x, y))
    assert torch.allclose(nearest, torch.hypot(fx, fy), atol=1e-5)


def test_the_nearest_distance_of_cell_noise_has_no_seams_up_to_jitter_0_4() -> None:
    """A distance has slope one at most, so neighbouring pixels cannot differ by more than the step between them."""
    x, y = axes(8)
    nearest, _, _ = cell_noise(5 * x, 5 * y, torch.Generator().manual_seed(0), jitter=0.4)
    step = 5 * 2 / SIZE_PX
    assert nearest.diff(dim=2).abs().max() <= step + 1e-4
    assert nearest.diff(dim=1).abs().max() <= step + 1e-4


def test_noise_at_has_about_unit_variance_and_turns_with_its_coordinates() -> None:
    x, y = axes(8)
    upright = noise_at(x, y, (20, 20), torch.Generator().manual_seed(0))
    turned = noise_at(y, -x, (20, 20), torch.Generator().manual_seed(0))
    assert float(upright.std()) == pytest.approx(1.0, abs=0.25)
    assert torch.allclose(turned, upright.rot90(-1, (1, 2)), atol=1e-4)


def test_noise_at_of_unequal_cells_is_grain_along_the_fewer() -> None:
    x, y = axes(8)
    grain = noise_at(x, y, (40, 3), torch.Generator().manual_seed(0))
    assert grain.diff(dim=1).abs().mean() > 4 * grain.diff(dim=2).abs().mean()
