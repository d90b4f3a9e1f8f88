"""Baselines as pairs on disk: seeded, resumable at the exact pair, masks that say exactly what was changed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import ndimage

from downstream.errors import PictureError, TrainingSetError
from downstream.images import read_image, read_mask, resize_image
from downstream.synthesis import copy_paste_pairs, perlin_anomaly, perlin_pairs

from .conftest import Squares, draw_square

SIZE_PX = 48  # not that of the files: pictures are resized
REAL = Path(__file__).parents[3] / "shared" / "data" / "magnetic_tile"
Maker = Callable[..., pd.DataFrame]
MAKERS: dict[str, Maker] = {"copy-paste": copy_paste_pairs, "perlin": partial(perlin_pairs, size_px=SIZE_PX)}


@pytest.fixture(scope="module")
def samples(squares: Squares, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The toy category with a second defect type among its shots."""
    folder = tmp_path_factory.mktemp("dots") / "toy" / "test" / "dot"
    paths = [draw_square(folder, f"{i:03}", np.random.default_rng(i), True) for i in range(2)]
    dots = [("toy", *each, "dot", 1, "train") for each in paths]
    columns = ["category", "image_path", "mask_path", "label", "label_index", "split"]
    return pd.concat([squares.samples, pd.DataFrame(dots, columns=columns)], ignore_index=True)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.p*"))}


@pytest.mark.parametrize("source", sorted(MAKERS))
def test_pairs_are_whole_and_the_mask_lies_on_what_was_changed(
    source: str, samples: pd.DataFrame, tmp_path: Path
) -> None:
    table = MAKERS[source](samples, tmp_path, 12, seed=3)
    assert len(table) == 12
    assert set(table["source"]) == {source}
    normal_of = {"/".join(Path(path).parts[-4:]): path for path in samples["image_path"]}
    for row in table.to_dict("records"):
        image, mask = read_image(row["image_path"]), np.asarray(Image.open(row["mask_path"])) > 0
        assert row["mask_area_px"] == mask.sum() > 0
        assert row["mask_share"] == pytest.approx(mask.mean())
        normal = read_image(normal_of[row["normal"]])
        if source == "perlin":
            normal = (resize_image(normal, SIZE_PX).permute(1, 2, 0).numpy() / 255).astype(np.float32)
            allowed = mask
        else:
            allowed = ndimage.binary_dilation(mask, iterations=6)  # it fades out beyond its edge
        assert image.shape == normal.shape
        changed = (np.abs(image - normal) > 1 / 300).any(-1)
        assert not (changed & ~allowed).any(), "pixels clear of the mask were changed"
        assert changed[mask].mean() > 0.8
    used = samples.set_index(samples["image_path"].map(lambda p: "/".join(Path(p).parts[-4:])))
    assert set(used.loc[table["normal"], "split"]) == {"train"}
    assert set(used.loc[table["normal"], "label"]) == {"good"}


@pytest.mark.parametrize("source", sorted(MAKERS))
def test_resumed_equals_uninterrupted_and_a_pair_depends_on_its_number_alone(
    source: str, samples: pd.DataFrame, tmp_path: Path
) -> None:
    make = MAKERS[source]
    make(samples, tmp_path / "whole", 6, seed=1)
    np.random.seed(5)  # what ran before must not matter, nor is torch's generator left changed
    torch.manual_seed(5)
    before = torch.get_rng_state()
    make(samples, tmp_path / "more", 8, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    whole = files(tmp_path / "whole")
    more = files(tmp_path / "more")
    assert all(more[name] == whole[name] for name in whole if name.endswith(".png"))

    # As after a kill: one pair without its mask, one half-written, the table not there.
    (tmp_path / "whole/mask/000002.png").unlink()
    (tmp_path / "whole/image/000002.png").write_bytes(b"half")
    (tmp_path / "whole/image/000004.part").write_bytes(b"half")
    (tmp_path / "whole/pairs.parquet").unlink()
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "whole/mask").iterdir()}
    make(samples, tmp_path / "whole", 6, seed=1)
    (tmp_path / "whole/image/000004.part").unlink()
    assert files(tmp_path / "whole") == whole
    assert all(path.stat().st_mtime_ns == time for path, time in times.items()), "finished pairs were redrawn"

    make(samples, tmp_path / "other", 6, seed=2)
    other = files(tmp_path / "other")
    assert sum(other[name] != whole[name] for name in whole if name.startswith("image/")) >= 5


def test_copied_defects_take_turns_and_perlin_has_no_type(samples: pd.DataFrame, tmp_path: Path) -> None:
    copied = copy_paste_pairs(samples, tmp_path / "c", 12, seed=0)
    assert copied["label"].value_counts().to_dict() == {"dot": 6, "spot": 6}
    assert copied.groupby("label")["shot"].nunique().to_dict() == {"dot": 2, "spot": 3}
    train = samples[(samples["split"] == "train") & (samples["label_index"] == 1)]
    assert set(copied["shot"]) == {"/".join(Path(path).parts[-4:]) for path in train["image_path"]}
    perlin = perlin_pairs(samples, tmp_path / "p", 3, size_px=32, seed=0)
    assert set(perlin["label"]) == {"perlin"}
    # The file can move with its folder; the returned table can be read from anywhere.
    stored = pd.read_parquet(tmp_path / "c" / "pairs.parquet")
    assert stored["image_path"].tolist() == [f"image/{i:06}.png" for i in range(12)]
    assert all(Path(path).is_absolute() for path in copied["image_path"])


def test_no_test_picture_is_opened(samples: pd.DataFrame, tmp_path: Path) -> None:
    gone = samples.copy()
    gone.loc[gone["split"] != "train", ["image_path", "mask_path"]] = "/gone"
    for source, make in MAKERS.items():
        make(gone, tmp_path / source, 3, seed=0)


def test_perlin_takes_textures_in_an_order_of_its_own(samples: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "textures"
    (folder / "deep").mkdir(parents=True)
    Image.new("RGB", (20, 20), (255, 0, 0)).save(folder / "a.JPG")
    Image.new("L", (20, 20), 9).save(folder / "deep" / "b.png")
    table = perlin_pairs(samples, tmp_path / "p", 4, size_px=32, seed=0, texture_folder=folder)
    assert (table["mask_area_px"] > 0).all()
    with_noise = perlin_pairs(samples, tmp_path / "n", 4, size_px=32, seed=0)
    assert all(
        Path(a).read_bytes() != Path(b).read_bytes()
        for a, b in zip(table["image_path"], with_noise["image_path"], strict=True)
    )
    with pytest.raises(TrainingSetError, match=r"texture_folder: .*holds no \.jpg or \.png"):
        perlin_pairs(samples, tmp_path / "e", 1, size_px=32, seed=0, texture_folder=tmp_path / "p" / "none")


def test_perlin_is_anomalibs_own_formula() -> None:
    """Inside the mask a blend between normal and noise, outside the normal itself."""
    normal = torch.full((3, 64, 64), 100, dtype=torch.uint8)
    image, mask = perlin_anomaly(normal, [], np.random.default_rng(1))
    assert image.dtype == torch.uint8
    assert mask.dtype == torch.bool
    assert 0 < mask.float().mean() < 0.9
    assert (image[:, ~mask[0]] == 100).all()


def test_sixteen_bit_and_grey_pictures_are_taken(tmp_path: Path) -> None:
    rows = []
    for name, label, dtype, scale in (
        ("n", "good", np.uint16, 257),
        ("g", "good", np.uint8, 1),
        ("d", "spot", np.uint16, 257),
    ):
        grey = np.full((30, 40), 80)
        grey[10:20, 10:20] = 80 if label == "good" else 200
        Image.fromarray((grey * scale).astype(dtype)).save(tmp_path / f"{name}.png")
        rows.append(("toy", str(tmp_path / f"{name}.png"), "", label, int(label != "good"), "train"))
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[10:20, 10:20] = 1
    Image.fromarray(mask).save(tmp_path / "d_mask.png")
    rows[2] = (*rows[2][:2], str(tmp_path / "d_mask.png"), *rows[2][3:])
    columns = ["category", "image_path", "mask_path", "label", "label_index", "split"]
    samples = pd.DataFrame(rows, columns=columns)
    table = copy_paste_pairs(samples, tmp_path / "c", 6, seed=0)
    for image_path, mask_path in zip(table["image_path"], table["mask_path"], strict=True):
        image, cells = read_image(image_path) * 255, read_mask(mask_path)
        far = image[ndimage.distance_transform_edt(~cells) > 5]
        assert far.min() >= 79
        assert far.max() <= 81
        assert image[cells].max() == pytest.approx(200, abs=2)
    assert (perlin_pairs(samples, tmp_path / "p", 2, size_px=40, seed=0)["mask_area_px"] > 0).all()


def test_missing_parts_are_said_plainly(samples: pd.DataFrame, tmp_path: Path) -> None:
    normal = samples["label_index"] == 0
    with pytest.raises(TrainingSetError, match='no defect picture with split "train"'):
        copy_paste_pairs(samples[normal], tmp_path, 1, seed=0)
    with pytest.raises(TrainingSetError, match='no normal picture with split "train"'):
        perlin_pairs(samples[~normal], tmp_path, 1, size_px=32, seed=0)
    with pytest.raises(PictureError, match="has no mask"):
        copy_paste_pairs(samples.assign(mask_path=""), tmp_path, 1, seed=0)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real pictures are not at {REAL}")
def test_real_defects_of_every_size_can_be_pasted(tmp_path: Path) -> None:
    """From blowholes of 40 pixels to uneven tiles that are one quarter defect."""
    rows = [("tile", str(p), "", "good", 0, "train") for p in sorted((REAL / "train/good").iterdir())[:3]]
    for label in ("blowhole", "crack", "fray", "uneven"):
        path = sorted((REAL / "test" / label).iterdir())[3]
        mask = REAL / "ground_truth" / label / f"{path.stem}_mask.png"
        rows.append(("tile", str(path), str(mask), label, 1, "train"))
    columns = ["category", "image_path", "mask_path", "label", "label_index", "split"]
    table = copy_paste_pairs(pd.DataFrame(rows, columns=columns), tmp_path, 16, seed=0)
    area = table.groupby("label")["mask_area_px"].median()
    assert area["blowhole"] < area["fray"]
    assert (table["mask_area_px"] >= 2).all()
