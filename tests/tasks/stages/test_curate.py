"""The stage curate: pairs judged without a look at test pictures, and read wherever the store lies."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dual_anodiff.config import CurateConfig
from dual_anodiff.demo_data import write_demo_data
from tasks.config import RunConfig, load_config
from tasks.errors import DataError
from tasks.stages.curate import build_curate, curate, drawn_pairs, more_to_draw, plan_curate
from tasks.stages.prepare import build_prepare, plan_prepare
from tasks.store.artifacts import Artifact, Staged, plan, publish, verified
from tasks.tables.pairs import PATHS, THRESHOLDS, as_seen, read_pairs
from tasks.tables.prepared import read_samples

# Without those that send every shot through the encoder many times.
RULES = ("empty", "too_large", "unrelated", "unseen", "copy_of_shot", "copy_of_pair")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("curate")
    write_demo_data(root / "data", categories=["tile"], num_train=14, num_test_good=2, num_defects=9)
    (root / "own.yaml").write_text(
        "split: {shots: 3}\nfinetune: {size_px: 128}\ngenerate: {num_pairs: 4, mask: {threshold: 0.2}}\n"
        f"curate: {{rules: [{', '.join(RULES)}]}}\nreport: {{sheet_size_px: 64}}\n"
    )
    return load_config(root / "own.yaml", data=root / "data", store=root / "store")


@pytest.fixture(scope="module")
def prepared(config: RunConfig) -> Artifact:
    artifact = plan_prepare(config, "tile").out
    publish(artifact, lambda staged: build_prepare(config, "tile", staged), device="cpu")
    return artifact


def drawn(config: RunConfig, pictures: pd.DataFrame, first: int, empty: bool = False) -> Artifact:
    """What generate would have drawn, if it drew these pictures; the last one without a mask if `empty`."""

    def make(staged: Staged) -> None:
        rows = []
        for position, row in enumerate(pictures.to_dict("records")):
            names = {
                f"{kind}_path": f"{kind}/{position + first:06}.png" for kind in ("image", "anomaly", "mask")
            }
            image, mask = (
                Image.open(row["image_path"]).convert("RGB"),
                Image.open(row["mask_path"]).convert("L"),
            )
            if empty and position == len(pictures) - 1:
                mask = Image.new("L", mask.size)
            part = Image.composite(image, Image.new("RGB", image.size, (128, 128, 128)), mask)
            for kind, picture in (("image", image), ("anomaly", part), ("mask", mask)):
                path = staged.out / names[f"{kind}_path"]
                path.parent.mkdir(exist_ok=True)
                picture.save(path)
            area = mask.histogram()[255]
            numbers = {"index": position + first, "seed": position, "mask_area_px": area}
            rows.append(
                {**numbers, **names, "mask_share": area / (mask.width * mask.height), "background": ""}
            )
        pd.DataFrame(rows).to_parquet(staged.out / "pairs.parquet", index=False)

    artifact = plan(config.store, "generate", 1, "tile", label="tile/hole", adapter="some", first=first)
    publish(artifact, make, device="cpu")
    return artifact


@pytest.fixture(scope="module")
def draws(config: RunConfig, prepared: Artifact) -> list[Artifact]:
    """Three holes that the split holds back, then a shot, one of the three again, and one without a mask."""
    samples = read_samples(prepared, config.data)
    holes = samples[samples["label"] == "hole"]
    fresh, shots = holes[holes["split"] == "test"], holes[holes["split"] == "train"]
    again = pd.concat([shots.head(1), fresh.head(1), fresh.tail(1)])
    return [drawn(config, fresh.head(3), first=0), drawn(config, again, first=3, empty=True)]


@pytest.fixture(scope="module")
def curated(config: RunConfig, prepared: Artifact, draws: list[Artifact]) -> Artifact:
    """Made while no test picture can be read."""
    samples = read_samples(prepared, config.data)
    hidden = [Path(path) for path in samples.loc[samples["split"] == "test", "image_path"]]
    out = plan_curate(config, prepared, draws, "hole").out
    for path in hidden:
        path.rename(path.with_suffix(".hidden"))
    curate.fn(out, prepared, draws, "hole", config)
    for path in hidden:
        path.with_suffix(".hidden").rename(path)
    return out


def test_pairs_of_several_draws_are_judged_together(curated: Artifact, draws: list[Artifact]) -> None:
    assert verified(curated)
    table = pd.read_parquet(curated.path / "pairs.parquet")
    assert table["reasons"].tolist() == [
        "", "", "", "copy of a shot", "copy of an earlier pair", "mask empty",
    ]  # fmt: skip
    generated = pd.read_parquet(draws[0].path / "pairs.parquet")
    assert list(table.columns[: len(generated.columns)]) == list(generated.columns)
    assert set(table["adapter_key"]) == {"some"}
    assert table["earlier_pair"].tolist()[4] == 0
    assert table["index"].tolist() == list(range(6))
    thresholds = pd.read_parquet(curated.path / THRESHOLDS).set_index("rule")
    assert set(thresholds.index) == set(RULES)
    assert thresholds["in_force"].all(), thresholds["why_not"]
    assert thresholds["refused"]["copy_of_pair"] == 1


def test_a_rule_that_the_shots_cannot_settle_is_told(
    config: RunConfig, prepared: Artifact, draws: list[Artifact], tmp_path: Path, said: list[str]
) -> None:
    few = config.model_copy(
        update={
            "store": tmp_path,
            "curate": config.curate.model_copy(update={"rules": ("unseen", "off_object")}),
        }
    )
    out = plan_curate(few, prepared, draws, "hole", choice=1).out
    curate.fn(out, prepared, draws, "hole", few, choice=1)
    (line,) = [each for each in said if "out of force" in each]
    # Of the object nothing is said: a texture has none.
    assert "tile/hole: rules out of force: unseen (" in line
    assert "off_object" not in line


def test_read_anywhere_the_same_pictures(
    config: RunConfig, curated: Artifact, draws: list[Artifact], tmp_path: Path
) -> None:
    read = read_pairs({"hole": curated})
    known = read_pairs({"hole": draws[0]}).columns[:8]
    assert list(read.columns[:8]) == list(known)
    assert read["image_path"].tolist()[:3] == read_pairs({"hole": draws[0]})["image_path"].tolist()
    moved = tmp_path / "elsewhere" / "store"
    shutil.copytree(config.store, moved)
    there = read_pairs({"hole": replace(curated, store=moved)})
    for column in ("image_path", "anomaly_path", "mask_path"):
        assert all(path.startswith(str(moved.resolve())) and Path(path).is_file() for path in there[column])
    assert there["reasons"].tolist() == read["reasons"].tolist()


def test_pairs_that_nothing_judged_have_no_reason_against_them(draws: list[Artifact]) -> None:
    assert read_pairs({"hole": draws[1]})["reasons"].tolist() == ["", "", ""]


def test_two_draws_that_both_begin_with_0_are_numbered_through(draws: list[Artifact]) -> None:
    assert drawn_pairs([draws[0], draws[0]])["index"].tolist() == list(range(6))
    assert drawn_pairs([draws[1]])["index"].tolist() == [3, 4, 5]


def test_more_is_drawn_until_enough_pass_or_the_budget_is_spent(config: RunConfig, curated: Artifact) -> None:
    def more(num_pairs: int, max_draws: float) -> int:
        curation = config.curate.model_copy(update={"max_draws": max_draws})
        generation = config.generate.model_copy(update={"num_pairs": num_pairs})
        return more_to_draw(config.model_copy(update={"curate": curation, "generate": generation}), curated)

    assert more(3, 3) == 0  # three of six pass
    assert more(4, 3) == math.ceil(8 / 4)  # half of them do
    assert more(4, 1.75) == 1  # 7 in all
    assert more(4, 1.5) == 0


def test_the_key_follows_what_is_judged_and_by_what(
    config: RunConfig, prepared: Artifact, draws: list[Artifact]
) -> None:
    def digest(some: list[Artifact] = draws, max_shots: int | None = None, **changed: Any) -> str:
        changed_config = config.model_copy(update=changed)
        return plan_curate(changed_config, prepared, some, "hole", choice=max_shots).out.digest

    def rules(**changed: Any) -> CurateConfig:
        return config.curate.model_copy(update=changed)

    keys = [
        digest(),
        digest(draws[:1]),
        digest(draws[::-1]),
        digest(max_shots=2),
        digest(curate=rules(rules=("empty",))),
        digest(curate=rules(max_mask_share=0.5)),
        digest(finetune=config.finetune.model_copy(update={"vertical_flip": False})),
    ]
    assert len(set(keys)) == len(keys)
    assert digest(curate=rules(max_draws=9), seed=3, device="cpu") == keys[0]
    with pytest.raises(DataError, match="no pairs were drawn"):
        digest([])


def test_no_pairs_no_shots_and_no_normals_are_errors(
    config: RunConfig, prepared: Artifact, draws: list[Artifact], tmp_path: Path
) -> None:
    samples = read_samples(prepared, config.data)
    pairs = drawn_pairs(draws).assign(label="hole")
    with pytest.raises(DataError, match="no pairs to judge"):
        build_curate(samples, pairs.head(0), config, tmp_path)
    with pytest.raises(DataError, match="no picture of 'dent' to train on"):
        build_curate(samples, pairs.assign(label="dent"), config, tmp_path)
    with pytest.raises(DataError, match="no picture of 'good' to train on"):
        build_curate(samples[samples["label"] != "good"], pairs, config, tmp_path)


def test_a_speck_on_a_large_picture_is_no_empty_mask(tmp_path: Path) -> None:
    large = Image.new("L", (900, 600))
    large.putpixel((400, 300), 255)
    rows = []
    for name, mask in (("speck", large), ("none", Image.new("L", (900, 600)))):
        mask.save(tmp_path / f"{name}.png")
        rows.append(dict.fromkeys(PATHS, str(tmp_path / f"{name}.png")))
    assert as_seen(pd.DataFrame(rows), 64).mask.flatten(1).sum(1).tolist() == [1, 0]


def test_a_pair_drawn_into_a_normal_is_judged_in_its_window(tmp_path: Path) -> None:
    """Mirrored where the window reaches beyond the picture, as the model saw it."""
    pixels = np.arange(60 * 90, dtype=np.uint32).reshape(60, 90) % 251
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
    window = {"top": -2, "left": 70, "height": 32, "width": 32}
    (image,) = as_seen(pd.DataFrame([dict.fromkeys(PATHS, str(tmp_path / "a.png")) | window]), 32).image
    assert (image[0, 2:, :20].numpy() == pixels[:30, 70:]).all()
    assert (image[0, 1].numpy() == image[0, 2].numpy()).all()
    assert (image[0, :, 19].numpy() == image[0, :, 20].numpy()).all()


def test_rules_that_mean_nothing_are_out_where_pairs_are_made_from_the_shots_defects(
    config: RunConfig, prepared: Artifact, draws: list[Artifact]
) -> None:
    """By how the pairs were drawn: a type on crops has no background in its configuration, though its run has."""
    everything = config.model_copy(update={"curate": CurateConfig()})

    def rules(drawn: list[Artifact]) -> set[str]:
        return set(plan_curate(everything, prepared, drawn, "hole").out.inputs["rules"])

    redrawn = replace(draws[0], inputs={**draws[0].inputs, "start": {"version": 1}})
    assert rules(draws) - rules([redrawn]) == {"copy_of_shot", "copy_of_pair", "unrelated"}
    assert "masks_disagree" in rules([redrawn])
