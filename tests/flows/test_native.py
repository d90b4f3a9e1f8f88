"""Defect types that go through crops: their stages in a run, and pairs of the pictures' own size at its end."""

import pandas as pd
from PIL import Image

from dual_anodiff.config import NativeConfig
from tasks.config import RunConfig
from tasks.runs.ended import find_run, pictures_of
from tests.flows.running import run


def test_a_defect_type_on_crops_ends_in_whole_pictures_that_models_learn_from(config: RunConfig) -> None:
    native = NativeConfig(enabled=True, crop_px=32, crops_per_shot=2, normal_crops=6)
    # A random base's masks cover the whole crop, and no crop is put back that is all defect.
    curate = config.curate.model_copy(update={"max_mask_share": 1.0})
    config = config.model_copy(update={"native": native, "curate": curate, "defects": ("dent",)})
    summary = run(config)
    names = [f"{stage.stage} {stage.label}" for stage in summary.stages]
    drawn = [f"{stage} bolt/dent" for stage in ("crop", "finetune", "generate", "blend")]
    assert [name for name in names if name in drawn] == drawn
    assert {stage.status for stage in summary.stages} == {"ran"}

    learnt_from = pictures_of(find_run(config.store, summary.run), "bolt").generated["dent"]
    assert learnt_from.stage == "blend"
    pairs = pd.read_parquet(learnt_from.path / "pairs.parquet")
    with Image.open(learnt_from.path / pairs["image_path"][0]) as image:
        normals = {Image.open(path).size for path in (config.data / "bolt/train/good").iterdir()}
        assert image.size in normals
    assert {stage.status for stage in run(config).stages} == {"cached"}
