"""Small defects are warned of; their shots go through crops, and the pairs come back in whole pictures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from dual_anodiff.config import NativeConfig
from tasks.config import RunConfig, load_config
from tasks.data.samples import COLUMNS, read_dataset
from tasks.data.small_defects import small_defects, works_on_crops
from tasks.data.split import SplitConfig, read_split, split_samples
from tasks.errors import DataError
from tasks.stages.adapt import build_adapt
from tasks.stages.crop_blend import (
    blend,
    build_blend,
    build_crop,
    crop,
    plan_blend,
    plan_crop,
    side_of_crops,
    warn_of_small_defects,
)
from tasks.stages.curate import curate, plan_curate
from tasks.stages.finetune import build_finetune
from tasks.stages.generate import build_generate, plan_generate
from tasks.stages.prepare import build_prepare, plan_prepare
from tasks.store.artifacts import Artifact, Staged, plan, publish, verified
from tasks.tables.crops import CROPS
from tasks.tables.pairs import read_pairs
from tasks.tables.prepared import read_samples
from tests.tasks.data_folders import real_data, save
from tests.tiny_base import tiny_base

PX = 240  # at 64 px a latent cell is 30 px of these pictures


def spotted(folder: Path, name: str, seed: int, *spots: tuple[int, int, int, int]) -> None:
    """A textured picture of its own with dark spots (top, left, height, width), and their mask."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(PX, PX)), 2)
    pixels, mask = 130 + 60 * noise / np.abs(noise).max(), np.zeros((PX, PX))
    for top, left, height, width in spots:
        pixels[top : top + height, left : left + width] = 30
        mask[top : top + height, left : left + width] = 255
    save(folder / ("test/pit" if spots else "train/good") / f"{name}.png", pixels)
    if spots:
        save(folder / "ground_truth/pit" / f"{name}_mask.png", mask)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category whose pits are some 12 px of 240."""
    folder = tmp_path_factory.mktemp("data") / "bolt"
    for index in range(6):
        spotted(folder, f"{index:03}", index)
    for index in range(5):
        spotted(folder, f"{index:03}", 100 + index, (40 + 30 * index, 60 + 20 * index, 12, 10 + index))
    spotted(folder, "009", 109, (30, 30, 12, 12), (30, 80, 12, 12), (180, 200, 12, 12))
    save(folder / "test/good/000.png", np.random.default_rng(0).uniform(0, 255, (PX, PX)))
    return folder


@pytest.fixture
def config(data: Path, tmp_path: Path) -> RunConfig:
    (tmp_path / "own.yaml").write_text(f"""
split: {{shots: 3}}
finetune:
  base: {tiny_base(tmp_path / "base")}
  size_px: 64
  adapter: {{lora_rank: 2, saim_rank: 2, text_encoder_lora_rank: 0}}
  normals: {{train_steps: 1, batch_size: 1, lora_rank: 2}}
  train_steps: 1
  batch_size: 1
generate: {{num_pairs: 2, num_inference_steps: 1, guidance_scale: 1}}
native: {{enabled: auto, crops_per_shot: 3, normal_crops: 4}}
curate: {{rules: [empty]}}
""")
    return load_config(tmp_path / "own.yaml", data=data.parent, store=tmp_path / "store")


def split_of(data: Path, shots: int = 3) -> pd.DataFrame:
    return split_samples(read_dataset(data), SplitConfig(shots=shots))


def mask_of(path: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
    return np.asarray(Image.open(path)) > 127


# --- the warning


def test_defects_below_a_latent_cell_are_warned_of_with_a_size_that_would_do(data: Path) -> None:
    samples = read_dataset(data)
    (fault,) = small_defects(samples, 64)
    assert fault.severity == "warning"
    assert fault.path == data / "ground_truth/pit"
    assert fault.what.startswith("8 of 8 defects are below one latent cell (8×8 px) at finetune.size_px 64")
    assert "the middle one is 3.2×3.2 px" in fault.what
    assert fault.fix == "set native.enabled to auto, or finetune.size_px to 160 or more"
    assert small_defects(samples, 160) == []


def test_a_hairline_is_warned_of_and_a_single_speck_does_not_ask_for_crops(tmp_path: Path) -> None:
    folder = tmp_path / "plate"
    spotted(folder, "000", 0, (20, 100, 120, 2))
    spotted(folder, "001", 1, (20, 100, 120, 3))
    spotted(folder, "002", 2, (20, 100, 120, 40), (180, 20, 8, 8))
    of_cell, of_stroke = small_defects(read_dataset(folder), 64)
    assert of_cell.what.startswith("1 of 4 defects are below one latent cell")
    assert "auto" not in of_cell.fix
    assert of_stroke.what == "2 of 4 defects are thinner than a pixel at finetune.size_px 64"


def test_auto_looks_at_the_shots_alone(data: Path) -> None:
    samples, auto = split_of(data), NativeConfig(enabled="auto")
    assert works_on_crops(samples, "pit", auto, 64)
    assert not works_on_crops(samples, "pit", auto, 256)
    assert not works_on_crops(samples.assign(split="test"), "pit", auto, 64)
    assert works_on_crops(samples, "pit", NativeConfig(enabled=True), 256)
    assert not works_on_crops(samples, "pit", NativeConfig(), 64)


# --- crops


def test_crops_are_a_samples_table_of_the_training_side(data: Path, tmp_path: Path) -> None:
    samples = split_of(data)
    made = build_crop(
        samples, "pit", NativeConfig(crops_per_shot=5, normal_crops=9), tmp_path / "a", side_px=32, size_px=64
    )
    (tmp_path / "a").rename(tmp_path / "moved")
    table = read_split(tmp_path / "moved" / "split.csv", tmp_path / "moved")
    assert list(table.columns) == COLUMNS
    assert table.drop(columns=["image_path", "mask_path"]).equals(
        made.drop(columns=["image_path", "mask_path"])
    )
    assert set(table["split"]) == {"train"}
    shots = samples[(samples["split"] == "train") & (samples["label"] == "pit")]
    crops = table[table["label"] == "pit"]
    assert crops.groupby("group").size().to_dict() == dict.fromkeys(shots["group"], 5)
    assert table["label"].value_counts().to_dict() == {"good": 9, "pit": 15}
    normal_groups = samples[(samples["split"] == "train") & (samples["label"] == "good")]["group"]
    assert set(table[table["label"] == "good"]["group"]) == set(normal_groups)
    assert crops["sha256"].nunique() == 15, "jittered"

    side = json.loads((tmp_path / "moved" / CROPS).read_text())["side_px"]
    assert side == 32, "64 px enlarged twice at most"
    for row in crops.itertuples():
        image, mask = np.asarray(Image.open(str(row.image_path))), mask_of(str(row.mask_path))
        assert image.shape == (side, side, 3)
        assert 12 * 10 <= mask.sum() <= 12 * 14, "the defect is whole"
        assert (image[mask] == 30).all(), "and where its mask is"


def test_crops_are_the_same_each_time_and_others_by_seed(data: Path, tmp_path: Path) -> None:
    samples, config = split_of(data), NativeConfig(crops_per_shot=2, normal_crops=3)
    first, again, other = (
        build_crop(samples, "pit", config, tmp_path / name, side_px=32, size_px=64, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first["sha256"].equals(again["sha256"])
    assert not first["sha256"].equals(other["sha256"])


def test_a_shot_with_several_defects_gives_crops_of_each(data: Path, tmp_path: Path) -> None:
    samples = read_dataset(data)
    samples = samples[samples["image_path"].str.endswith("009.png")].assign(split="train")
    build_crop(samples, "pit", NativeConfig(crops_per_shot=6), tmp_path, side_px=32, size_px=64)
    places = json.loads((tmp_path / CROPS).read_text())["places"]
    assert places == [[0.15, 0.15], [0.15, 86 / 240], [186 / 240, 206 / 240]]
    for path in read_split(tmp_path / "split.csv", tmp_path)["mask_path"]:
        assert mask_of(path).sum() == 144, "one pit, whole, and no piece of a neighbour"


def test_shots_larger_than_the_crops_are_left_out_by_name(
    data: Path, tmp_path: Path, said: list[str]
) -> None:
    folder = tmp_path / "bolt"
    for index, spots in enumerate([(40, 40, 12, 12), (60, 90, 12, 12), (20, 20, 10, 200)]):
        spotted(folder, f"{index:03}", index, spots)
    samples = read_dataset(folder).assign(split="train")
    table = build_crop(
        samples, "pit", NativeConfig(crops_per_shot=2), tmp_path / "out", side_px=64, size_px=64
    )
    assert len(table) == 4
    assert "left out, larger than a crop of 64 px: bolt/test/pit/002.png" in "\n".join(said)
    with pytest.raises(
        DataError, match=r"native\.crop_px: no shot of 'pit' fits into crops of 16 px.*200 px"
    ):
        build_crop(samples[2:], "pit", NativeConfig(), tmp_path / "none", side_px=16, size_px=64)
    with pytest.raises(DataError, match="no shot"):
        build_crop(samples, "scratch", NativeConfig(), tmp_path / "none", side_px=64, size_px=64)


# --- the stages


def made_by_hand(config: RunConfig) -> tuple[Artifact, Artifact, Artifact]:
    """prepare, crop, and on the crops adapt → finetune → generate → curate, as a flow would have them."""
    prepared = plan_prepare(config, "bolt").out
    publish(prepared, lambda staged: build_prepare(config, "bolt", staged), device="cpu")
    side_px = side_of_crops(config, prepared, "pit")
    assert side_px is not None
    cropped = plan_crop(config, prepared, "pit", side_px).out
    assert crop.fn(cropped, prepared, "pit", side_px, config)["made"]

    def adapter(staged: Staged) -> None:
        samples = read_samples(cropped, config.data)
        normals = staged.out.parent / "normals"
        build_adapt(samples, config.finetune, normals)
        build_finetune(samples, "pit", config.finetune, staged.out, normals=normals)

    trained = plan(config.store, "finetune", 1, "bolt", label="bolt/pit", samples=cropped)
    publish(trained, adapter, device="cpu")
    pairs = plan_generate(config, trained).out
    publish(pairs, lambda staged: build_generate(trained.path, config.generate, staged.out), device="cpu")
    curated = plan_curate(config, cropped, [pairs], "pit").out
    assert curate.fn(curated, cropped, [pairs], "pit", config)["made"]
    return prepared, cropped, curated


def test_shots_go_through_crops_and_pairs_come_back_in_whole_pictures(config: RunConfig) -> None:
    prepared, cropped, pairs = made_by_hand(config)
    out = plan_blend(config, prepared, cropped, pairs).out
    assert blend.fn(out, prepared, cropped, pairs, config)["made"]
    assert verified(out)
    assert not blend.fn(out, prepared, cropped, pairs, config)["made"], "a second run does nothing"

    small, whole = read_pairs({"pit": pairs}), read_pairs({"pit": out})
    assert whole[["label", "index", "seed", "adapter_key"]].equals(
        small[["label", "index", "seed", "adapter_key"]]
    )
    for row in whole.itertuples():
        for path in (row.image_path, row.anomaly_path, row.mask_path):
            assert Image.open(str(path)).size == (PX, PX)
    put = pd.read_parquet(out.path / "pairs.parquet")
    samples = read_samples(prepared, config.data)
    train = samples[(samples["split"] == "train") & (samples["label"] == "good")]["image_path"]
    assert {name.rsplit("/", 1)[1] for name in put["normal"]} <= {Path(path).name for path in train}


def test_a_run_warns_of_a_type_below_a_latent_cell_unless_it_goes_through_crops(
    config: RunConfig, said: list[str]
) -> None:
    prepared = plan_prepare(config, "bolt").out
    publish(prepared, lambda staged: build_prepare(config, "bolt", staged), device="cpu")
    said.clear()
    for enabled in (True, False):
        native = config.native.model_copy(update={"enabled": enabled})
        warn_of_small_defects(config.model_copy(update={"native": native}), prepared, ["pit"])
    (warning,) = said
    assert warning.startswith("bolt/pit: ")
    assert "native.enabled" in warning


def test_keys_follow_what_the_stages_read(config: RunConfig) -> None:
    def keys(changed: RunConfig) -> tuple[str, str]:
        prepared = plan_prepare(changed, "bolt").out
        side_px = side_of_crops(changed, prepared, "pit")
        assert side_px is not None
        cropped = plan_crop(changed, prepared, "pit", side_px).out
        pairs = plan_generate(changed, plan(changed.store, "finetune", 1, "bolt", samples=cropped)).out
        return cropped.digest, plan_blend(changed, prepared, cropped, pairs).out.digest

    def with_native(**values: object) -> RunConfig:
        return config.model_copy(update={"native": config.native.model_copy(update=values)})

    prepared = plan_prepare(config, "bolt").out
    publish(prepared, lambda staged: build_prepare(config, "bolt", staged), device="cpu")
    as_is = keys(config)
    assert keys(with_native(enabled=True)) == as_is
    anywhere = keys(with_native(places="anywhere"))
    assert anywhere[0] == as_is[0]
    assert anywhere[1] != as_is[1]
    for field in ({"crop_px": 48}, {"defect_cells": 1}, {"crops_per_shot": 4}, {"normal_crops": 5}):
        assert keys(with_native(**field))[0] != as_is[0]


# --- real pictures


def test_blowholes_are_below_a_cell_and_span_cells_in_their_crops(tmp_path: Path) -> None:
    folder = real_data("magnetic_tile")
    samples = read_dataset(folder)
    shots = samples[samples["label"] == "blowhole"][:8]
    normals = samples[(samples["label"] == "good") & (samples["split"] == "train")][:6]
    samples = pd.concat([shots, normals]).assign(split="train")
    assert works_on_crops(samples, "blowhole", NativeConfig(enabled="auto"), 128)
    config = NativeConfig(crops_per_shot=1, normal_crops=6)
    crops = build_crop(samples, "blowhole", config, tmp_path / "crops", side_px=64, size_px=128)
    side_px = json.loads((tmp_path / "crops" / CROPS).read_text())["side_px"]
    assert side_px == 64
    masks = [mask_of(path) for path in crops.loc[crops["label"] == "blowhole", "mask_path"]]
    spans = [max(np.ptp(np.nonzero(mask), axis=1)) + 1 for mask in masks]
    assert np.median(spans) * 128 / side_px / 8 > 2, "latent cells"

    pairs = crops[crops["label"] == "blowhole"].reset_index(drop=True).assign(index=range(8), seed=range(8))
    pairs = pairs.assign(anomaly_path=pairs["image_path"], reasons=["mask empty", *[""] * 7])
    run = RunConfig(data=folder)
    whole = tmp_path / "whole"
    blended = build_blend(samples, tmp_path / "crops", pairs, run, whole, place=whole)
    refused, table = blended.iloc[:1], blended.iloc[1:]
    assert refused["reasons"].tolist() == ["mask empty"]
    assert (whole / refused["image_path"].iloc[0]).samefile(pairs["image_path"].iloc[0])
    for row in table.itertuples():
        image = np.asarray(Image.open(tmp_path / "whole" / str(row.image_path)))
        normal = np.asarray(Image.open(folder.parent / str(row.normal)).convert("RGB"))
        mask = mask_of(str(tmp_path / "whole" / str(row.mask_path)))
        changed = (image != normal).any(-1)
        assert mask.any()
        assert changed.mean() < 0.05
        assert changed[mask].mean() > 0.8
