"""The stage quality: copies are named, test pictures are left alone, the key follows what the figures depend on."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

from dual_anodiff.demo_data import write_demo_data
from tasks.config import RunConfig, load_config
from tasks.errors import ConfigError, DataError
from tasks.stages.prepare import build_prepare, plan_prepare
from tasks.stages.quality import SHEET, build_quality, plan_quality, quality
from tasks.store.artifacts import Artifact, Staged, plan, publish, verified
from tasks.tables.figures import FIGURES, NEIGHBOURS, read_quality
from tasks.tables.prepared import read_samples


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("quality")
    write_demo_data(root / "data", categories=["tile"], num_train=6, num_test_good=2, num_defects=6)
    (root / "own.yaml").write_text("split: {shots: 3}\nfinetune: {size_px: 128, vertical_flip: false}\n")
    return load_config(root / "own.yaml", data=root / "data", store=root / "store")


@pytest.fixture(scope="module")
def prepared(config: RunConfig) -> Artifact:
    artifact = plan_prepare(config, "tile").out
    publish(artifact, lambda staged: build_prepare(config, "tile", staged), device="cpu")
    return artifact


@pytest.fixture(scope="module")
def generated(config: RunConfig, prepared: Artifact) -> Artifact:
    """Five pairs from number 10: two shots, the first refused, the other mirrored, then three of another defect type."""
    samples = read_samples(prepared, config.data)
    holes = samples[(samples["label"] == "hole") & (samples["split"] == "train")]
    cracks = samples[(samples["label"] == "crack")].head(3)

    def make(staged: Staged) -> None:
        rows = []
        for position, row in enumerate(pd.concat([holes.head(2), cracks]).to_dict("records")):
            names = {
                f"{kind}_path": f"{kind}/{position + 10:06}.png" for kind in ("image", "anomaly", "mask")
            }
            pictures = {
                "image": Image.open(row["image_path"]), "mask": Image.open(row["mask_path"]).convert("L"),
            }  # fmt: skip
            grey = Image.new("RGB", pictures["image"].size, (128, 128, 128))
            pictures["anomaly"] = Image.composite(pictures["image"], grey, pictures["mask"])
            for kind, picture in pictures.items():
                if position == 1:
                    picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                path = staged.out / names[f"{kind}_path"]
                path.parent.mkdir(exist_ok=True)
                picture.save(path)
            refused = "copy of a shot" if position < 1 else ""
            rows.append(
                {"index": position + 10, "seed": position, "mask_share": 0.1, "reasons": refused, **names}
            )
        pd.DataFrame(rows).to_parquet(staged.out / "pairs.parquet", index=False)

    artifact = plan(config.store, "generate", 1, "tile", label="tile/hole", adapter="some")
    publish(artifact, make, device="cpu")
    return artifact


@pytest.fixture(scope="module")
def measured(config: RunConfig, prepared: Artifact, generated: Artifact) -> Artifact:
    """Made while no test picture can be read."""
    samples = read_samples(prepared, config.data)
    hidden = [Path(path) for path in samples.loc[samples["split"] == "test", "image_path"]]
    out = plan_quality(config, prepared, generated, "hole").out
    for path in hidden:
        path.rename(path.with_suffix(".hidden"))
    quality.fn(out, prepared, generated, "hole", config)
    for path in hidden:
        path.with_suffix(".hidden").rename(path)
    return out


def test_copies_are_named_by_their_shot_and_shown(
    config: RunConfig, prepared: Artifact, measured: Artifact
) -> None:
    assert verified(measured)
    samples = read_samples(prepared, config.data)
    shots = samples[(samples["label"] == "hole") & (samples["split"] == "train")]["image_path"].head(2)
    table = pd.read_parquet(measured.path / NEIGHBOURS)
    assert table["pair"].tolist() == [10, 11, 12, 13, 14]
    assert table["copy"].tolist() == [True, True, False, False, False]
    assert table["nearest_shot"].head(2).tolist() == [Path(path).name for path in shots]
    assert table["flip"].head(2).tolist() == ["", "horizontal"]
    assert table["earlier_pair"].tolist()[0] == -1
    assert set(table["earlier_pair"].tolist()[1:]) <= {10, 11, 12, 13}
    assert set(table["category"]) == {"tile"}
    with Image.open(measured.path / SHEET) as sheet:
        assert sheet.height > 5 * 160


def test_figures_of_a_run_are_one_tidy_table(measured: Artifact) -> None:
    table = read_quality({"hole": measured, "again": measured})
    assert list(table.columns) == [
        "category", "defect", "metric", "value", "std", "n", "n_reference", "note", "pairs",
    ]  # fmt: skip
    assert len(table) == 2 * len(pd.read_parquet(measured.path / FIGURES))
    figures = table.drop_duplicates(["pairs", "metric"]).set_index("metric")
    passed = figures[figures["pairs"] == "accepted"]
    assert passed["value"]["near_copies"] == pytest.approx(0.25), "one copy of the four that passed"
    figures = figures[figures["pairs"] == "drawn"]
    assert figures["value"]["near_copies"] == pytest.approx(0.4)
    assert figures["n_reference"]["kid_encoder"] == 3
    assert figures["value"]["mask_alignment"] == pytest.approx(1, abs=0.01)
    assert read_quality({}).empty


def test_no_pairs_and_no_shots_are_refused(config: RunConfig, prepared: Artifact, tmp_path: Path) -> None:
    samples = read_samples(prepared, config.data)
    with pytest.raises(DataError, match="no pairs"):
        build_quality(samples, pd.DataFrame({"label": []}), config, tmp_path)
    with pytest.raises(DataError, match="no picture of 'dent'"):
        build_quality(samples, pd.DataFrame({"label": ["dent"]}), config, tmp_path)


def test_the_key_follows_what_the_figures_depend_on(
    config: RunConfig, prepared: Artifact, generated: Artifact, tmp_path: Path
) -> None:
    def digest(**changed: Any) -> str:
        return plan_quality(config.model_copy(update=changed), prepared, generated, "hole").out.digest

    def weights(name: str, content: str) -> Any:
        (tmp_path / name).write_text(content)
        return config.quality.model_copy(update={"inception_weights": tmp_path / name})

    as_it_is = digest()
    assert digest(device="cpu", seed=5) == as_it_is
    assert digest(finetune=config.finetune.model_copy(update={"train_steps": 7})) == as_it_is
    assert digest(finetune=config.finetune.model_copy(update={"vertical_flip": True})) != as_it_is
    with_weights = digest(quality=weights("a", "one"))
    assert with_weights != as_it_is
    assert digest(quality=weights("elsewhere", "one")) == with_weights
    assert digest(quality=weights("elsewhere", "two")) != with_weights
    with pytest.raises(ConfigError, match=r"quality\.lpips_weights: no file .*nowhere"):
        digest(quality=config.quality.model_copy(update={"lpips_weights": tmp_path / "nowhere"}))
