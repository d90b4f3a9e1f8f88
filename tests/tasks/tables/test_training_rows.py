"""What a model learns from: refused pairs are in no training set, doses take the first of each type."""

from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from downstream.encoder import build_unet
from dual_anodiff.image_encoder import SHA256
from tasks.config import ModelName, RunConfig, load_config
from tasks.errors import DataError
from tasks.stages.prepare import build_prepare, plan_prepare
from tasks.stages.train import plan_model
from tasks.store.artifacts import Artifact, Staged, plan, publish
from tasks.tables.training_rows import Pictures, defects_without_pairs, dose_of_pairs, rows_of, why_not
from tasks.tables.weights import encoder_digest, encoder_of
from tests.tasks.data_folders import healthy_category


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    healthy_category(tmp_path / "data" / "bolt")
    (tmp_path / "own.yaml").write_text("split: {shots: 3}\ngenerate: {num_pairs: 10}\n")
    return load_config(tmp_path / "own.yaml", data=tmp_path / "data", store=tmp_path / "store")


def pictures_with(config: RunConfig, reasons: dict[str, list[str]]) -> Pictures:
    """A split category, and pairs refused for these reasons, or none; their files are never opened."""

    def write_pairs(staged: Staged, of_type: list[str]) -> None:
        names = [f"{index:06}.png" for index in range(len(of_type))]
        table = pd.DataFrame({"index": range(len(of_type)), "seed": 0, "mask_share": 0.1, "reasons": of_type})
        for column in ("image", "anomaly", "mask"):
            table[f"{column}_path"] = [f"{column}/{name}" for name in names]
        table.to_parquet(staged.out / "pairs.parquet", index=False)

    prepared = plan_prepare(config, "bolt").out
    publish(prepared, lambda staged: build_prepare(config, "bolt", staged), device="cpu")
    generated: dict[str, Artifact] = {}
    for defect, of_type in reasons.items():
        generated[defect] = plan(
            config.store,
            "generate",
            1,
            "bolt",
            label=f"bolt/{defect}",
            defect=defect,
            reasons=of_type,
            adapter="some",
        )
        publish(generated[defect], lambda staged, each=of_type: write_pairs(staged, each), device="cpu")  # type: ignore[misc]
    return Pictures(prepared, generated)


EMPTY, LARGE, COPY = "mask empty", "mask too large", "near copy of a shot"


def test_refused_pairs_are_in_no_training_set_and_counted_by_reason(
    config: RunConfig, said: list[str]
) -> None:
    dent = [EMPTY, LARGE, "", "", "", f"{LARGE}; {COPY}"]
    pictures = pictures_with(config, {"dent": dent, "stain": [EMPTY, LARGE]})
    rows, test = rows_of(pictures, "generated", config)
    pairs = pd.concat([rows.train, rows.val]).query("source == 'generated'")
    assert sorted(pairs["image_path"].str[-10:]) == ["000002.png", "000003.png", "000004.png"]
    assert set(pairs["label"]) == {"dent"}
    assert set(test["label"]) == {"good", "dent", "stain"}, "a type without pairs is tested all the same"

    said.clear()
    assert defects_without_pairs(pictures) == ["stain"]
    dents, stains = said
    assert dents == f"bolt/dent: 3 of 6 pairs refused: 2 {LARGE}, 1 {EMPTY}, 1 {COPY}"
    assert "no model learns from this type's pairs" in stains
    reason = why_not(config, "classify", "generated", ["dent", "stain"], ["stain"])
    assert reason is not None
    assert "every pair of stain is refused" in reason
    assert why_not(config, "localize", "generated", ["dent", "stain"], ["stain"]) is None


def test_if_every_pair_is_refused_the_error_says_what_to_do(config: RunConfig) -> None:
    pictures = pictures_with(config, {"dent": [EMPTY, LARGE], "stain": [LARGE]})
    with pytest.raises(DataError, match=r"every one of 3 generated pairs is refused: 2 mask too large"):
        rows_of(pictures, "generated+real", config)
    rows, _ = rows_of(pictures, "real", config)
    assert set(rows.val["source"]) == {"normal", "real"}, "shots are held back in their stead"
    assert not set(rows.train["image_path"]) & set(rows.val["image_path"])


def test_models_learn_from_as_many_pairs_as_were_asked_for_the_first_that_pass(config: RunConfig) -> None:
    pictures = pictures_with(config, {"dent": ["", COPY] * 8})
    four = config.model_copy(update={"generate": config.generate.model_copy(update={"num_pairs": 4})})
    rows, _ = rows_of(pictures, "generated", four)
    pairs = pd.concat([rows.train, rows.val]).query("source == 'generated'")
    assert sorted(pairs["index"]) == [0, 2, 4, 6]
    assert (
        plan_model(four, "localize", pictures, "real", 0).out
        != plan_model(config, "localize", pictures, "real", 0).out
    )


def test_a_dose_takes_the_first_pairs_and_shots_of_each_type_and_leaves_the_rest(config: RunConfig) -> None:
    full = pictures_with(config, {"dent": [""] * 10, "stain": [""] * 10})
    all_of, test = rows_of(full, "generated+real", config)
    two = dose_of_pairs(full, 2, config)
    rows, same_test = rows_of(two.pictures, two.training_set, config)
    pd.testing.assert_frame_equal(rows.val, all_of.val)
    pd.testing.assert_frame_equal(same_test, test)
    for defect in ("dent", "stain"):
        of_dose, of_all = (
            each.train.query(f"source == 'generated' and label == '{defect}'")["image_path"].tolist()
            for each in (rows, all_of)
        )
        assert of_dose == of_all[:2]
        assert len(of_all) == 8
    others, all_others = (each.train.query("source != 'generated'") for each in (rows, all_of))
    pd.testing.assert_frame_equal(others.reset_index(drop=True), all_others.reset_index(drop=True))

    one, _ = rows_of(Pictures(full.prepared, full.generated, choice=1), "real", config)
    assert one.train.query("source == 'real'").groupby("label").size().to_dict() == {"dent": 1, "stain": 1}


def test_a_dose_that_limits_nothing_is_the_model_that_is_there_already(config: RunConfig) -> None:
    full = pictures_with(config, {"dent": [""] * 10, "stain": [""] * 10})
    assert (dose_of_pairs(full, 0, config).training_set, dose_of_pairs(full, 0, config).pictures) == (
        "real",
        full,
    )
    assert dose_of_pairs(full, 8, config).pictures == full
    planned = {
        plan_model(config, "localize", dose.pictures, dose.training_set, 0).out.ref
        for dose in (dose_of_pairs(full, count, config) for count in (0, 1, 2, 8))
    }
    assert len(planned) == 4
    assert plan_model(config, "localize", full, "generated+real", 0).out.ref in planned


def test_the_imagenet_encoders_key_needs_no_weights_and_its_name_is_a_folder_that_models_take(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANODIFF_CACHE", str(tmp_path / "cache"))
    assert {encoder_digest(config, model) for model in get_args(ModelName)} == {f"imagenet:{SHA256}"}
    assert not (tmp_path / "cache").exists()
    assert encoder_of("resnet34") == "resnet34"
    network, spec = build_unet(encoder_of("imagenet"))
    assert spec.architecture == "tf_efficientnet_lite0"
    own, given = network.state_dict(), load_file(Path(encoder_of("imagenet")) / "model.safetensors")
    assert torch.equal(own["encoder.model.conv_stem.weight"], given["conv_stem.weight"])
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 64, 64)
