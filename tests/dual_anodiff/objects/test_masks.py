"""Drawn objects are found, textures said to have no background, defects and stains do not move the mask."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from scipy import ndimage
from torch import Tensor

from dual_anodiff.config import ObjectsConfig
from dual_anodiff.demo_data import draw_demo
from dual_anodiff.errors import InputError
from dual_anodiff.images import mask_to_pil, to_pil
from dual_anodiff.masks import iou
from dual_anodiff.objects.masks import Objects, find_objects, load_objects, object_mask, save_objects
from dual_anodiff.procedural import draw, parts

AUTO = ObjectsConfig()


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def write(images: Tensor, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03}.png" for i in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        to_pil(image).save(path)
    return paths


def truth(drawn: draw.Drawn) -> Tensor:
    """The drawn part's own mask, its bores filled. Shape: (n, h, w) bool."""
    inside = (drawn.sound.inside > 0.5).numpy()
    return torch.from_numpy(np.stack([ndimage.binary_fill_holes(mask) for mask in inside]))


def demo(name: str, defect: str | None, count: int, seed: int) -> draw.Drawn:
    return draw_demo(name, defect, count, torch.Generator().manual_seed(seed))


def found_in(name: str, folder: Path) -> Objects:
    return find_objects(write(demo(name, None, 10, 1).image, folder / name), AUTO, size_px=128, seed=0)


def masks_of(objects: Objects, images: Tensor, defects: Tensor | None = None) -> Tensor:
    if defects is None:
        return torch.stack([object_mask(objects, image) for image in images])
    return torch.stack([object_mask(objects, *pair) for pair in zip(images, defects, strict=True)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def plate(folder: Path) -> Objects:
    return found_in("plate", folder)


@pytest.fixture(scope="module")
def nut(folder: Path) -> Objects:
    return found_in("nut", folder)


def test_objects_are_found_in_pictures_that_were_not_learnt_from(plate: Objects, nut: Objects) -> None:
    for objects, name in ((plate, "plate"), (nut, "nut")):
        drawn = demo(name, None, 6, 2)
        assert objects.kind == "placed", objects.reason
        assert float(iou(masks_of(objects, drawn.image), truth(drawn)).mean()) > 0.88, name


@pytest.mark.parametrize("name", ["tile", "leather"])
def test_a_surface_that_fills_the_picture_has_no_background(name: str, tmp_path: Path) -> None:
    objects = found_in(name, tmp_path)
    assert objects.kind == "texture"
    assert f"{objects.figures['border_ratio']:.2f} times" in objects.reason
    assert object_mask(objects, torch.zeros(3, 20, 30)).all()


def test_a_vignette_is_no_object(tmp_path: Path) -> None:
    images = demo("leather", None, 10, 1).image
    y, x = torch.meshgrid(torch.linspace(-1, 1, 128), torch.linspace(-1, 1, 128), indexing="ij")
    darkened = (images + 1) * (1 - 0.3 * (x.square() + y.square())) - 1
    assert find_objects(write(darkened, tmp_path), AUTO, size_px=128, seed=0).kind == "texture"


@pytest.mark.parametrize("defect", ["scratch", "dent", "contamination"])
def test_a_defect_makes_no_hole(plate: Objects, defect: str) -> None:
    drawn = demo("plate", defect, 6, 3)
    defects = drawn.mask[:, 0]
    found, told = masks_of(plate, drawn.image), masks_of(plate, drawn.image, defects)
    assert float(iou(found, truth(drawn)).mean()) > 0.88
    kept, kept_if_told = ((masks & defects & truth(drawn)).sum() / defects.sum() for masks in (found, told))
    assert float(kept) > 0.75  # a black stain that reaches a black table's edge looks like a piece missing
    assert float(kept_if_told) > 0.98
    assert float((told & ~found & ~defects).sum() / found.sum()) < 0.01


def test_a_stain_on_the_table_is_no_object(plate: Objects) -> None:
    image = demo("plate", None, 1, 4).image[0]
    stained = image.clone()
    stained[:, 4:20, 6:22] = torch.tensor([0.7, -0.2, -0.6])[:, None, None]
    clean, found = object_mask(plate, image), object_mask(plate, stained)
    assert not found[:24, :26].any()
    assert float(iou(clean, found)) > 0.95


def test_a_part_that_never_moves_gets_one_mask(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    one = draw.random_look(1, generator, parts.DEMO_RANGE)
    look = draw.Look(*(field.expand(10, -1) for field in (one.u, one.colour, one.accent, one.table)))
    drawn = draw.draw("plate", None, look, generator, max_turn=0, zoom_range=(1, 1), max_shift=0)
    objects = find_objects(write(drawn.image, tmp_path), AUTO, size_px=128, seed=0)
    assert objects.kind == "aligned", objects.reason
    found = object_mask(objects, drawn.image[0])
    assert torch.equal(object_mask(objects, -drawn.image[1]), found)
    assert float(iou(found, truth(drawn)[0])) > 0.92


def test_of_a_known_defect_only_what_touches_the_object_joins_it(plate: Objects) -> None:
    image = demo("plate", None, 1, 4).image[0]
    found = object_mask(plate, image)
    apart = torch.zeros_like(found)
    apart[2:6, 2:6] = True
    assert torch.equal(object_mask(plate, image, apart), found)


def test_masks_come_in_the_pictures_own_size(plate: Objects) -> None:
    image = demo("plate", None, 1, 6).image[0]
    wide = torch.nn.functional.interpolate(image[None], (96, 256), mode="bilinear")[0]
    found = object_mask(plate, wide)
    assert found.shape == (96, 256)
    small = torch.nn.functional.interpolate(found[None, None].float(), (128, 128), mode="area")[0, 0] > 0.5
    assert float(iou(small, object_mask(plate, image))) > 0.93


def test_saved_is_loaded_and_found_again_the_same(plate: Objects, folder: Path, tmp_path: Path) -> None:
    save_objects(plate, tmp_path)
    loaded = load_objects(tmp_path)
    images = demo("plate", "dent", 3, 7).image
    assert torch.equal(masks_of(loaded, images), masks_of(plate, images))
    assert (loaded.kind, loaded.reason, loaded.figures) == (plate.kind, plate.reason, plate.figures)
    again = find_objects(list((folder / "plate").iterdir()), AUTO, size_px=128, seed=0)
    assert torch.equal(masks_of(again, images), masks_of(plate, images))
    (tmp_path / "objects.npz").write_bytes(b"cut")
    with pytest.raises(InputError, match=str(tmp_path)):
        load_objects(tmp_path)


def test_what_is_said_by_hand_counts(folder: Path, plate: Objects) -> None:
    paths = sorted((folder / "plate").iterdir())[:4]
    for kind in ("texture", "aligned", "placed"):
        objects = find_objects(paths, ObjectsConfig(kind=kind), size_px=64, seed=0)
        assert (objects.kind, "by hand" in objects.reason) == (kind, True)
    with pytest.raises(ValidationError, match="either masks or a kind"):
        ObjectsConfig(kind="placed", masks=folder)


def test_too_little_to_learn_from_is_said_to_be_so(folder: Path, plate: Objects, tmp_path: Path) -> None:
    few = find_objects(sorted((folder / "plate").iterdir())[:2], AUTO, size_px=64, seed=0)
    assert few.kind == "texture"
    assert "2 normal pictures are too few" in few.reason
    blank = find_objects(write(torch.zeros(5, 3, 64, 64), tmp_path), AUTO, size_px=64, seed=0)
    assert blank.kind == "texture"
    with pytest.raises(InputError, match="train/good"):
        find_objects([], AUTO, size_px=64, seed=0)


def test_given_masks_are_learnt_from_and_missing_or_wrong_ones_named(tmp_path: Path) -> None:
    drawn = demo("nut", None, 5, 8)
    pictures = write(drawn.image, tmp_path / "train/good")
    masks = tmp_path / "own"
    masks.mkdir()
    for picture, mask in zip(pictures, truth(drawn), strict=True):
        mask_to_pil(mask).save(masks / f"{picture.stem}_mask.png")
    config = ObjectsConfig(masks=masks)
    objects = find_objects(pictures, config, size_px=128, seed=0)
    assert objects.kind == "given"
    unseen = demo("nut", "paint", 4, 9)
    assert float(iou(masks_of(objects, unseen.image), truth(unseen)).mean()) > 0.85

    Image.new("L", (64, 64)).save(masks / "002_mask.png")
    with pytest.raises(InputError, match=r"002_mask\.png: is 64x64 px, its picture .*002\.png is 128x128"):
        find_objects(pictures, config, size_px=128, seed=0)
    (masks / "002_mask.png").unlink()
    with pytest.raises(InputError, match=r"002\.png has no mask; looked for 002\.png and 002_mask\.png"):
        find_objects(pictures, config, size_px=128, seed=0)
