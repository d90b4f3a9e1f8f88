"""Small defects: measured by latent cells, cropped whole, and put into normal pictures without a seam."""

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from dual_anodiff.config import NativeConfig
from dual_anodiff.crops.blend import GREY, blend, blend_pairs, misfit, scaled
from dual_anodiff.crops.native import (
    Box,
    Place,
    below_one_cell,
    crop_side_px,
    cut,
    draw_spots,
    find_defects,
    frame_of,
    normal_window,
    place_of,
    shot_window,
    thickness_px,
    working_size,
)
from dual_anodiff.errors import InputError


def marked(shape: tuple[int, int], *boxes: Box) -> NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=bool)
    for box in boxes:
        mask[box.top : box.bottom, box.left : box.right] = True
    return mask


def surface(seed: int, shape: tuple[int, int], mean: float = 120.0) -> NDArray[np.uint8]:
    """A lit, grainy surface: brightness falls off to one side, in colours that are not quite grey."""
    rng = np.random.default_rng(seed)
    grain = ndimage.gaussian_filter(rng.normal(size=shape), 0.8) * mean / 12
    light = np.linspace(0.85, 1.15, shape[1])[None]
    pixels = (mean * light + grain)[..., None] * np.array([1.0, 0.97, 0.9])
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


def drawn_defect(
    seed: int, side: int = 64, mean: float = 120.0
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A crop with a dark oval off its centre, its edge a little soft, and its mask."""
    y, x = np.mgrid[:side, :side]
    oval = ((y - 0.45 * side) / (0.14 * side)) ** 2 + ((x - 0.55 * side) / (0.1 * side)) ** 2
    dark = 1 - 0.6 * np.clip(1.6 - oval, 0, 1)
    crop = surface(seed, (side, side), mean) * dark[..., None]
    return np.rint(crop).astype(np.uint8), oval < 1.1


# --- how large


def test_a_defect_is_below_a_cell_only_if_it_is_so_in_both_directions() -> None:
    shape = (400, 200)  # at 128 px: 0.32 px per px down, 0.64 across
    assert below_one_cell(*working_size(Box(0, 0, 24, 12), shape, 128))
    assert not below_one_cell(*working_size(Box(0, 0, 26, 2), shape, 128))
    assert not below_one_cell(*working_size(Box(0, 0, 2, 13), shape, 128))


def test_marks_within_a_cell_of_each_other_are_one_defect() -> None:
    # A picture of 256 px at 128: a cell is 16 px of the picture, a half-cell 8.
    near = marked((256, 256), Box(32, 32, 4, 4), Box(32, 42, 4, 4))
    far = marked((256, 256), Box(32, 32, 4, 4), Box(32, 60, 4, 4))
    assert find_defects(near, 128) == [Box(32, 32, 4, 14)]
    assert find_defects(far, 128) == [Box(32, 32, 4, 4), Box(32, 60, 4, 4)]
    assert find_defects(marked((256, 256)), 128) == []


@pytest.mark.parametrize(("height", "width", "expected"), [(1, 90, 0.5), (90, 3, 1.5), (9, 9, 4.5)])
def test_thickness_is_that_of_the_stroke(height: int, width: int, expected: float) -> None:
    box = Box(0, 20, height, width)  # at the picture's border: beyond it is no defect
    assert thickness_px(marked((256, 256), box), box, 128) == pytest.approx(expected)


def test_the_middle_defect_spans_the_cells_asked_for_and_the_largest_fits() -> None:
    config = NativeConfig(defect_cells=4, max_enlargement=2)
    assert (
        crop_side_px([40, 50, 60], 1000, 128, config) == 181
    )  # 50 px on 4 of 16 cells: 200 px, in steps of √2
    assert crop_side_px([10, 12, 14], 1000, 128, config) == 64, "enlarged at most twice"
    assert crop_side_px([40, 50, 225], 1000, 128, config) == 256, "room for the largest and its context"
    assert crop_side_px([40, 50, 900], 1000, 128, config) == 362, "but not at any price"
    assert crop_side_px([40, 50, 60], 150, 128, config) == 150
    assert crop_side_px([40, 50, 60], 150, 128, NativeConfig(crop_px=96)) == 96


# --- crops


def test_windows_hold_the_whole_defect_with_context_and_lie_in_the_picture() -> None:
    generator = np.random.default_rng(0)
    shape, defect = (200, 120), Box(90, 50, 12, 20)
    windows = [shot_window(defect, [], shape, 64, generator) for _ in range(50)]
    for w in windows:
        assert w.top >= 0
        assert w.bottom <= shape[0]
        assert w.left >= 0
        assert w.right <= shape[1]
        assert w.top + 8 <= defect.top
        assert w.bottom - 8 >= defect.bottom
        assert w.left + 8 <= defect.left
        assert w.right - 8 >= defect.right
    assert len({(w.top, w.left) for w in windows}) > 40, "jittered"


@pytest.mark.parametrize("corner", [Box(0, 0, 9, 9), Box(191, 111, 9, 9), Box(0, 60, 60, 2)])
def test_a_defect_at_the_border_or_as_large_as_the_crop_is_not_cut(corner: Box) -> None:
    mask = marked((200, 120), corner)
    for seed in range(20):
        window = shot_window(corner, [], mask.shape, 64, np.random.default_rng(seed))
        assert cut(mask, window).sum() == mask.sum()


def test_a_neighbour_is_not_cut_where_that_can_be_avoided() -> None:
    defect, neighbour = Box(100, 100, 8, 8), Box(100, 138, 8, 8)
    for seed in range(30):
        window = shot_window(defect, [neighbour], (300, 300), 64, np.random.default_rng(seed))
        seen = cut(marked((300, 300), neighbour), window).sum()
        assert seen in (0, 64)


def test_a_picture_smaller_than_the_crop_is_mirrored_around_it() -> None:
    pixels = np.arange(30, dtype=np.uint8).reshape(5, 6)
    window = shot_window(Box(1, 1, 2, 2), [], (5, 6), 9, np.random.default_rng(0))
    assert window == Box(-2, -2, 9, 9)
    shown = cut(pixels, window)
    assert shown.shape == (9, 9)
    assert np.array_equal(shown[2:7, 2:8], pixels)
    assert np.array_equal(shown[1, 2:8], pixels[0])
    assert normal_window((5, 6), 9, np.random.default_rng(0)) == window


def test_normal_crops_are_anywhere_and_with_an_object_on_it() -> None:
    generator = np.random.default_rng(0)
    part = marked((300, 300), Box(200, 40, 60, 60))
    for _ in range(30):
        w = normal_window((300, 300), 40, generator, part)
        assert part[w.top + 20, w.left + 20]
    tops = [normal_window((300, 300), 40, generator).top for _ in range(100)]
    assert min(tops) == 0
    assert max(tops) == 260


# --- places


def test_spots_are_near_the_shots_places_mirrored_only_if_allowed() -> None:
    place, size = Place(0.2, 0.3), (10, 10)

    def centres(horizontal: bool) -> NDArray[np.float64]:
        spots = draw_spots(
            size, (1000, 2000), [place], np.random.default_rng(0), count=200, horizontal=horizontal
        )
        return (np.array(spots) + 5) / (1000, 2000)

    plain = centres(False)
    assert np.abs(plain - (0.2, 0.3)).max() <= 0.1 + 1e-3
    assert np.ptp(plain, axis=0) == pytest.approx([0.2, 0.2], abs=0.02), "jittered"
    mirrored = centres(True)
    left = mirrored[:, 1] < 0.5
    assert 60 < left.sum() < 140
    assert np.abs(mirrored[~left] - (0.2, 0.7)).max() <= 0.1 + 1e-3


def test_places_are_relative_to_the_object_and_spots_wholly_on_it() -> None:
    part = marked((200, 300), Box(50, 100, 100, 50))
    assert frame_of(part.shape, part) == Box(50, 100, 100, 50)
    assert frame_of(part.shape, None) == Box(0, 0, 200, 300)
    assert place_of(Box(60, 120, 10, 10), frame_of(part.shape, part)) == Place(0.15, 0.5)
    round_part = np.hypot(*(np.mgrid[:200, :300] - np.array([100, 150])[:, None, None])) < 60
    for places in ([Place(0.02, 0.02), Place(0.9, 0.5)], []):
        spots = draw_spots(
            (12, 7), round_part.shape, places, np.random.default_rng(0), count=50, object_mask=round_part
        )
        assert len(spots) == 50
        assert all(round_part[t : t + 12, x : x + 7].all() for t, x in spots)
    generator = np.random.default_rng(0)
    assert draw_spots((130, 7), round_part.shape, [], generator, count=3, object_mask=round_part) == []
    assert draw_spots((201, 7), (200, 300), [], generator, count=3) == []


# --- blending


def edge_strength(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """Gradient of the new picture across the border of what changed, relative to the old picture's gradients."""
    changed = (before != after).any(-1)
    border = ndimage.binary_dilation(changed, iterations=2) & ~ndimage.binary_erosion(changed, iterations=2)
    size = [np.hypot(*np.gradient(picture.mean(-1))) for picture in (before, after)]
    return float(size[1][border].mean() / size[0].mean())


@pytest.mark.parametrize("mean", [60.0, 120.0, 200.0])
def test_no_seam_shows_whatever_the_crops_brightness(mean: float) -> None:
    normal = surface(0, (160, 200))
    crop, mask = drawn_defect(1, mean=mean)
    image, _ = blend(normal, crop, mask, 50, 60)
    assert edge_strength(normal, image) < 1.25
    hard = normal.copy()
    hard[50:114, 60:124] = crop
    if mean != 120:
        assert edge_strength(normal, hard) > 2, "the figure sees a seam where there is one"
    cut_out = normal.copy()
    cut_out[50:114, 60:124][mask] = crop[mask]
    assert edge_strength(normal, cut_out) > 1.5


@pytest.mark.parametrize("mean", [60.0, 120.0, 200.0])
def test_the_mask_is_where_the_picture_changed_and_the_rest_is_bit_for_bit_the_normal(mean: float) -> None:
    normal = surface(0, (160, 200))
    crop, mask = drawn_defect(1, mean=mean)
    image, full_mask = blend(normal, crop, mask, 50, 60)
    assert image.dtype == np.uint8
    assert full_mask.sum() == mask.sum()
    assert np.array_equal(full_mask[50:114, 60:124], mask)
    near = ndimage.distance_transform_edt(~full_mask) <= 10
    assert np.array_equal(image[~near], normal[~near])
    darker = normal.mean(-1) - image.mean(-1) > 30
    assert (darker & full_mask).sum() / (darker | full_mask).sum() > 0.8


def test_a_defect_keeps_its_contrast_in_proportion_to_the_light() -> None:
    crop, mask = drawn_defect(1, mean=150)
    for mean in (40.0, 90.0, 150.0):
        normal = surface(0, (160, 200), mean)
        image, full_mask = blend(normal, crop, mask, 50, 60)
        core = ndimage.binary_erosion(full_mask, iterations=4)
        assert image[core].mean() / normal[core].mean() == pytest.approx(0.4, abs=0.06)


def test_a_window_may_reach_beyond_the_picture_and_a_defect_at_the_crops_border_fades() -> None:
    normal = surface(0, (160, 200))
    crop, mask = drawn_defect(1)
    image, full_mask = blend(normal, crop, mask, -15, 150)
    assert np.array_equal(full_mask[:49, 150:200], mask[15:, :50])
    assert (image[full_mask] != normal[full_mask]).any()
    cut_off = marked((64, 64), Box(20, 0, 20, 30))
    crop = surface(2, (64, 64))
    crop[cut_off] = 30
    image, full_mask = blend(normal, crop, cut_off, 50, 60)
    across = np.abs(np.diff(image[75:85].astype(float).mean((0, 2))))[58:66]
    assert across.max() < 40, "four pixels for a step of 90"
    assert not full_mask[:, :61].any()


def test_of_two_spots_the_one_that_continues_the_crops_edge_fits_better() -> None:
    normal = surface(0, (160, 200))
    normal[:, 100:] //= 3
    crop = surface(1, (64, 64))
    crop[:, 32:] //= 3
    mask = marked((64, 64), Box(24, 24, 16, 16))
    crop[mask] = 10
    at_edge = misfit(normal, crop, mask, 40, 68)
    assert at_edge < misfit(normal, crop, mask, 40, 10)
    assert at_edge < misfit(normal, crop, mask, 40, 136)


@pytest.mark.parametrize("side_px", [40, 128, 200])
def test_a_crop_is_scaled_with_its_mask_and_a_hairline_stays(side_px: int) -> None:
    mask = marked((128, 128), Box(20, 30, 60, 50))
    line = marked((128, 128), Box(64, 10, 1, 100))
    picture = Image.fromarray(surface(0, (128, 128)))
    for drawn in (mask, line):
        pixels, small = scaled(picture, Image.fromarray(drawn.astype(np.uint8) * 255), side_px)
        assert pixels.shape == (side_px, side_px, 3)
        assert small.shape == (side_px, side_px)
        assert small.any()
    _, small = scaled(picture, Image.fromarray(mask.astype(np.uint8) * 255), side_px)
    assert small.mean() == pytest.approx(mask.mean(), rel=0.1)
    _, none = scaled(picture, Image.new("L", (128, 128)), side_px)
    assert not none.any()


# --- a folder of pairs


@pytest.fixture
def normals(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "bolt/train/good"
    folder.mkdir(parents=True)
    for i, shape in enumerate([(160, 200), (120, 140), (300, 90)]):
        Image.fromarray(surface(i, shape)).save(folder / f"{i:03}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def crops(tmp_path: Path) -> pd.DataFrame:
    """Four generated crops of 128 px; the third's mask is empty, the fourth's covers all."""
    rows = []
    for index in range(4):
        crop, mask = drawn_defect(10 + index, side=128)
        mask = mask if index < 2 else np.full_like(mask, index == 3)
        files = [tmp_path / f"crop{index}{kind}.png" for kind in ("", "_mask")]
        Image.fromarray(crop).save(files[0])
        Image.fromarray(mask.astype(np.uint8) * 255).save(files[1])
        rows.append(
            {"index": index, "seed": 7 + index, "image_path": str(files[0]), "mask_path": str(files[1])}
        )
    return pd.DataFrame(rows)


def blended(
    crops: pd.DataFrame, normals: list[Path], out: Path, side_px: int = 64, seed: int = 0
) -> pd.DataFrame:
    return blend_pairs(crops, normals, [Place(0.5, 0.5)], side_px, out, seed=seed, progress=False)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


def test_pairs_are_whole_pictures_with_a_table_that_says_where(
    crops: pd.DataFrame, normals: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    table = blended(crops, normals, out)
    assert pd.read_parquet(out / "pairs.parquet").equals(table)
    assert list(table.columns[:7]) == [
        "index", "seed", "image_path", "anomaly_path", "mask_path", "mask_area_px", "mask_share",
    ]  # fmt: skip
    assert table["seed"].tolist() == [7, 8, 9, 10]
    assert (table["scale"] == 0.5).all()
    for row in table[:2].to_dict("records"):
        normal = np.asarray(Image.open(tmp_path / row["normal"]))
        image, part, mask = (
            np.asarray(Image.open(out / str(path)))
            for path in (row["image_path"], row["anomaly_path"], row["mask_path"])
        )
        assert image.shape == part.shape == normal.shape
        assert set(np.unique(mask)) == {0, 255}
        assert (mask > 0).sum() == row["mask_area_px"] > 0
        assert (part[mask == 0] == GREY).all()
        assert np.array_equal(part[mask > 0], image[mask > 0])
        elsewhere = np.ones(mask.shape, dtype=bool)
        elsewhere[max(0, row["y"]) : row["y"] + 64, max(0, row["x"]) : row["x"] + 64] = False
        assert np.array_equal(image[elsewhere], normal[elsewhere])


def test_a_crop_without_a_usable_mask_leaves_the_normal_untouched(
    crops: pd.DataFrame, normals: list[Path], tmp_path: Path
) -> None:
    table = blended(crops, normals, tmp_path / "out")
    assert table["crop_mask_share"].tolist()[2:] == [0, 1]
    for row in table[2:].itertuples():
        assert row.mask_area_px == 0
        assert row.x is pd.NA
        image = np.asarray(Image.open(tmp_path / "out" / str(row.image_path)))
        assert np.array_equal(image, np.asarray(Image.open(tmp_path / str(row.normal))))


def test_a_killed_run_goes_on_at_the_missing_pair_with_the_same_pixels(
    crops: pd.DataFrame, normals: list[Path], tmp_path: Path
) -> None:
    whole = blended(crops, normals, tmp_path / "whole")
    alone = blended(crops[1:2], normals, tmp_path / "alone")
    assert files_of(tmp_path / "alone").items() <= files_of(tmp_path / "whole").items(), "on (seed, i) alone"
    assert alone.iloc[0].equals(whole.iloc[1])

    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "whole", killed)
    (killed / "pairs.parquet").unlink()
    (killed / "mask/000001.png").rename(killed / "mask/000001.part")
    kept = (killed / "mask/000000.png").stat().st_mtime_ns
    assert blended(crops, normals, killed).equals(whole)
    assert files_of(killed) == files_of(tmp_path / "whole")
    assert not list(killed.rglob("*.part"))
    assert (killed / "mask/000000.png").stat().st_mtime_ns == kept
    other = blended(crops, normals, tmp_path / "other", seed=1)
    assert not other[["normal", "x", "y"]].equals(whole[["normal", "x", "y"]])


def test_memory_does_not_grow_with_the_number_of_pairs(
    crops: pd.DataFrame, normals: list[Path], tmp_path: Path
) -> None:
    blended(crops, normals, tmp_path / "warm")

    def peak(count: int) -> int:
        many = pd.concat([crops[:2]] * (count // 2), ignore_index=True).assign(index=range(count))
        tracemalloc.start()
        blended(many, normals[:1], tmp_path / f"{count}")
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    assert peak(24) - peak(4) < 20 * (160 * 200 * 3) / 10, "a tenth of a picture for each pair more"


def test_an_unreadable_normal_is_named(crops: pd.DataFrame, tmp_path: Path) -> None:
    broken = tmp_path / "bolt/train/good/broken.png"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png: cannot be read"):
        blended(crops, [broken], tmp_path / "out")


def test_a_grey_camera_stays_grey(crops: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "bolt/train/good/grey.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(surface(0, (160, 200))[..., 0]).save(path)
    table = blended(crops[:1], [path], tmp_path / "out")
    image = np.asarray(Image.open(tmp_path / "out" / table["image_path"][0]))
    assert (image == image[..., :1]).all()


def test_normals_too_small_for_the_defect_are_passed_over_then_refused(
    crops: pd.DataFrame, normals: list[Path], tmp_path: Path
) -> None:
    table = blended(
        crops[:2], normals, tmp_path / "out", side_px=400
    )  # the oval is some 115 px high, 85 wide
    assert set(table["normal"]) <= {
        "bolt/train/good/000.png",
        "bolt/train/good/001.png",
        "bolt/train/good/002.png",
    }
    with pytest.raises(InputError, match=r"native\.crop_px: a defect of .* px fits into none of 3 normal"):
        blended(crops[:2], normals, tmp_path / "large", side_px=1000)
    with pytest.raises(InputError, match="no normal pictures"):
        blended(crops, [], tmp_path / "none")


def test_defects_stay_on_the_object(crops: pd.DataFrame, normals: list[Path], tmp_path: Path) -> None:
    def left_half(path: Path) -> NDArray[np.bool_]:
        with Image.open(path) as picture:
            return marked((picture.height, picture.width), Box(0, 0, picture.height, picture.width // 2))

    table = blend_pairs(crops[:2], normals, [], 64, tmp_path / "out", object_mask=left_half, progress=False)
    for row in table.itertuples():
        mask = np.asarray(Image.open(tmp_path / "out" / str(row.mask_path))) > 0
        assert mask.any()
        assert not mask[:, mask.shape[1] // 2 :].any()
