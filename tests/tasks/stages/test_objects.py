"""The stage objects: a mask of each normal and shot of the training side, traced back by its place; the key."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dual_anodiff.demo_data import write_demo_data
from dual_anodiff.errors import InputError
from tasks.config import RunConfig, load_config
from tasks.data.pictures import load_mask
from tasks.errors import DataError
from tasks.stages.objects import objects, plan_objects
from tasks.stages.prepare import build_prepare, plan_prepare
from tasks.store.artifacts import Artifact, publish, verified
from tasks.tables.object_masks import ObjectMasks, read_object_masks, without_texture
from tasks.tables.prepared import read_samples
from tasks.tables.symmetries import read_symmetries


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("objects")
    write_demo_data(root / "data", categories=["plate"], num_train=10, num_test_good=2, num_defects=4)
    (root / "own.yaml").write_text("split: {shots: 2}\nfinetune: {size_px: 96}\n")
    return load_config(root / "own.yaml", data=root / "data", store=root / "store")


@pytest.fixture(scope="module")
def prepared(config: RunConfig) -> Artifact:
    artifact = plan_prepare(config, "plate").out
    publish(artifact, lambda staged: build_prepare(config, "plate", staged), device="cpu")
    return artifact


@pytest.fixture(scope="module")
def found(config: RunConfig, prepared: Artifact) -> Artifact:
    """Made while no test picture can be read."""
    samples = read_samples(prepared, config.data)
    hidden = [Path(path) for path in samples.loc[samples["split"] == "test", "image_path"]]
    out = plan_objects(config, prepared).out
    for path in hidden:
        path.rename(path.with_suffix(".hidden"))
    objects.fn(out, prepared, config)
    for path in hidden:
        path.with_suffix(".hidden").rename(path)
    return out


def test_each_training_picture_has_its_mask(config: RunConfig, prepared: Artifact, found: Artifact) -> None:
    assert verified(found)
    masks = read_object_masks(found)
    assert (masks.kind, masks.has_background) == ("placed", True), masks.reason
    train = read_samples(prepared, config.data).query("split == 'train'")
    assert set(train["label"]) == {"good", "scratch", "dent", "contamination"}
    written = sorted((found.path / "masks").rglob("*.png"))
    assert written == sorted(masks.of(path) for path in train["image_path"])
    for path in written:
        mask = load_mask(path)
        assert mask.shape == (96, 96)
        assert 0.2 < (mask > 127).mean() < 0.6, path
    with Image.open(found.path / "objects.png") as sheet:
        assert sheet.width > 6 * 160
    borne = read_symmetries(found)  # of a plate that lies along the picture, no test picture seen
    assert (borne["rotate90"], borne["rotation"]) == (False, 5)


def test_the_key_follows_what_the_masks_depend_on(
    config: RunConfig, prepared: Artifact, tmp_path: Path
) -> None:
    def digest(**changes: object) -> str:
        return plan_objects(config.model_copy(update=changes), prepared).out.digest

    def with_objects(**changes: object) -> str:
        return digest(objects=config.objects.model_copy(update=changes))

    mask = Image.fromarray(np.full((4, 4), 255, np.uint8))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        mask.save(tmp_path / name / "000.png")
    keys = [
        digest(),
        digest(seed=1),
        digest(finetune=config.finetune.model_copy(update={"size_px": 128})),
        with_objects(kind="texture"),
        with_objects(masks=tmp_path / "a"),
    ]
    assert len(set(keys)) == len(keys)
    assert with_objects(masks=tmp_path / "b") == keys[-1]  # the masks count, not where they lie
    assert digest(device="cpu", generate=config.generate.model_copy(update={"num_pairs": 3})) == keys[0]
    with pytest.raises(DataError, match=r"nowhere is no folder"):
        with_objects(masks=tmp_path / "nowhere")


def test_given_masks_are_taken_as_they_are_or_refused(
    config: RunConfig, prepared: Artifact, tmp_path: Path
) -> None:
    given = config.model_copy(
        update={"objects": config.objects.model_copy(update={"masks": tmp_path / "{category}"})}
    )
    samples = read_samples(prepared, config.data).query("split == 'train'")
    folder = tmp_path / "plate"
    for row in samples.itertuples():
        picture = Path(str(row.image_path))
        pixels = np.zeros((128, 128), np.uint8)
        pixels[32:96, 32 : 64 + int(picture.stem)] = 255
        path = folder / picture.parent.name / f"{picture.stem}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    out = plan_objects(given, prepared).out
    objects.fn(out, prepared, given)
    masks = read_object_masks(out)
    assert masks.kind == "given"
    shot = Path(samples[samples["label"] == "dent"]["image_path"].iloc[0])
    mask = load_mask(masks.of(shot)) > 127
    assert mask[24:72, 24:48].all()
    assert mask.sum() == pytest.approx((32 + int(shot.stem)) * 64 * (96 / 128) ** 2, rel=0.05)

    shutil.move(folder / "dent" / f"{shot.stem}_mask.png", folder / "lost.png")
    with pytest.raises(InputError, match=rf"{shot.stem}\.png has no mask"):
        objects.fn(plan_objects(given, prepared).out, prepared, given)
    for path in [*folder.glob("good/*"), *folder.glob("*/*")]:
        if path.exists():
            path.rename(folder / path.name)
    with pytest.raises(DataError, match=r"would serve .* sub-folders"):
        objects.fn(plan_objects(given, prepared).out, prepared, given)


def test_a_texture_has_no_background_to_compensate_and_that_is_said(
    config: RunConfig, said: list[str], tmp_path: Path
) -> None:
    adapter = config.finetune.adapter.model_copy(update={"background": "convex"})
    on = config.model_copy(update={"finetune": config.finetune.model_copy(update={"adapter": adapter})})
    placed = ObjectMasks("placed", "", tmp_path)
    texture = ObjectMasks("texture", "the whole picture varies alike", tmp_path)
    assert without_texture(on, "plate", placed) is on
    assert not said
    assert without_texture(on, "leather", texture).finetune.adapter.background == "off"
    (line,) = said
    assert "leather: no background compensation" in line
    assert "the whole picture varies alike" in line
    assert without_texture(config, "leather", texture) is config
    assert len(said) == 1


def test_normals_may_lie_in_a_folder_at_the_disks_root(tmp_path: Path) -> None:
    masks = ObjectMasks("aligned", "", tmp_path)
    assert masks.of("/normals/000.png") == tmp_path / "masks/normals/000.png"
