"""Objects: they lie on a table, have shapes that a category can own, and follow their seed."""

import math

import pytest
import torch

from dual_anodiff.procedural import parts
from dual_anodiff.procedural.hardware import BLACK_OXIDE, BRASS, COPPER, STEEL, ZINC, plating
from dual_anodiff.procedural.objects import OBJECTS, imprint
from dual_anodiff.procedural.surface import Canvas, Surface

SIZE_PX = 64
REACH = 0.92  # so that the camera's zoom and shift leave the outline in the picture


def canvas(u: torch.Tensor, seed: int = 0, turn: float = 0.0) -> Canvas:
    b = u.shape[0]
    g = torch.Generator().manual_seed(seed)
    colour, accent = torch.rand(b, 3, generator=g), torch.rand(b, 3, generator=g)
    axis = ((torch.arange(SIZE_PX) + 0.5) / SIZE_PX * 2 - 1).expand(b, 1, SIZE_PX)
    x, y = axis.expand(b, SIZE_PX, SIZE_PX), axis.mT.expand(b, SIZE_PX, SIZE_PX)
    cos, sin = math.cos(turn), math.sin(turn)
    return Canvas(x * cos + y * sin, y * cos - x * sin, u, colour, accent, g)


def shapes(b: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(b, parts.NUM_PARAMETERS, generator=torch.Generator().manual_seed(seed))


def silhouette(s: Surface) -> torch.Tensor:
    return (s.height * s.inside).flatten(1)


def test_there_are_at_least_15_objects_and_the_demos_are_among_them() -> None:
    assert len(OBJECTS) >= 15
    assert {"nut", "plate", "bottle rim"} <= OBJECTS.keys()


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("turn", [0.0, 0.8])
def test_every_object_leaves_a_table_around_it_under_any_rotation(kind: str, turn: float) -> None:
    """Also at the ends of the ranges: all parameters 0, all 1."""
    u = torch.cat([shapes(6), torch.zeros(1, 6), torch.ones(1, 6)])
    c = canvas(u, turn=turn)
    inside = OBJECTS[kind](c).inside
    assert inside[torch.hypot(c.x, c.y) > REACH].max() < 0.1
    assert inside.flatten(1).mean(1).min() > 0.1


@pytest.mark.parametrize("kind", OBJECTS)
def test_surfaces_are_finite_and_colours_stay_colours(kind: str) -> None:
    s = OBJECTS[kind](canvas(shapes(8)))
    assert s.albedo.shape == (8, 3, SIZE_PX, SIZE_PX)
    assert s.height.shape == s.inside.shape == s.gloss.shape == (8, SIZE_PX, SIZE_PX)
    assert s.height.isfinite().all()
    assert s.height.abs().max() < 0.6
    for share in (s.albedo, s.inside, s.gloss):
        assert share.min() >= 0
        assert share.max() <= 1


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("parameter", [0, 1])
def test_the_first_two_parameters_change_the_shape(kind: str, parameter: int) -> None:
    """More than the seed does, and further apart the further the parameter goes: a category is not its grain."""
    u = torch.full((3, 6), 0.4)
    u[:, parameter] = torch.tensor([0.1, 0.5, 0.9])
    s = silhouette(OBJECTS[kind](canvas(u)))
    near, far = (s[1] - s[0]).abs().mean(), (s[2] - s[0]).abs().mean()
    assert near > 0.02 * s.abs().mean()
    assert far > near


@pytest.mark.parametrize("kind", OBJECTS)
def test_same_seed_same_surface(kind: str) -> None:
    u = shapes(2)
    one, again, other = (OBJECTS[kind](canvas(u, seed)) for seed in (0, 0, 1))
    assert torch.equal(one.albedo, again.albedo)
    assert torch.equal(one.height, again.height)
    assert not torch.equal(one.albedo, other.albedo)


@pytest.mark.parametrize("kind", ["nut", "washer", "bearing"])
def test_the_table_shows_through_the_hole(kind: str) -> None:
    inside = OBJECTS[kind](canvas(shapes(8))).inside
    middle = SIZE_PX // 2
    assert inside[:, middle - 1 : middle + 1, middle - 1 : middle + 1].max() < 0.01


def test_any_colour_becomes_a_metal_and_no_mixture_outshines_them() -> None:
    metals = torch.tensor([STEEL, ZINC, BRASS, COPPER, BLACK_OXIDE])
    plated = plating(torch.rand(200, 3, generator=torch.Generator().manual_seed(0)))
    spread = plated.amax(1) - plated.amin(1)
    assert spread.max() <= 1.2 * (metals.amax(1) - metals.amin(1)).max()
    assert plating(torch.tensor([[0.05, 0.05, 0.05]])).max() < 0.25 < plating(torch.full((1, 3), 0.6)).min()


def test_categories_get_different_characters() -> None:
    u = torch.zeros(2, 6)
    u[1, 4:] = 0.5
    c = canvas(u)
    first, second = imprint(c, c.x, c.y, torch.full((2, 1, 1), 0.5))
    assert 0.02 < first.mean() < 0.5
    assert (first - second).abs().mean() > 0.02
