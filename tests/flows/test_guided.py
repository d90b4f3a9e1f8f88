"""generate.start: shot in a run: pairs drawn into the real normals, at their own size."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dual_anodiff.config import NativeConfig
from tasks.config import RunConfig
from tasks.report.run_folder import RunSummary
from tasks.store.artifacts import Artifact
from tasks.tables.pairs import read_pairs
from tests.flows.running import only, run


def pairs_of(config: RunConfig, summary: RunSummary, label: str) -> pd.DataFrame:
    (found,) = [each.artifact for each in summary.stages if (each.stage, each.label) == ("curate", label)]
    assert found is not None
    stage, category, digest = found.split("/")
    return read_pairs({"dent": Artifact(config.store, stage, category, digest, label, {})})


@pytest.mark.parametrize("native", [False, True])
def test_pairs_that_start_from_shots_keep_the_normals_own_pixels(config: RunConfig, native: bool) -> None:
    crops = NativeConfig(enabled=native, crop_px=32, crops_per_shot=2, normal_crops=6)
    generate = config.generate.model_copy(update={"start": "shot", "num_inference_steps": 4})
    compare = config.compare.model_copy(
        update={"training_sets": ("real", "generated+real", "generated+copy-paste+real")}
    )
    localize = config.localize.model_copy(update={"train_steps": "auto", "auto_steps": (2, 3)})
    guided = config.model_copy(
        update={
            "native": crops,
            "generate": generate,
            "compare": compare,
            "localize": localize,
            "defects": ("dent",),
            "split": config.split.model_copy(update={"shots": 2}),
        }
    )
    summary = run(guided)
    assert summary.state == "completed", [s for s in summary.stages if s.error]
    assert not [stage for stage in summary.stages if stage.stage == "blend"]
    assert set(summary.metrics["training_set"]) == set(compare.training_sets)

    normals = {path.name: np.asarray(Image.open(path).convert("RGB")) for path in normal_files(guided)}
    everything = pairs_of(guided, summary, "bolt/dent")
    of_fold = pairs_of(guided, summary, "bolt/dent, fold 1 of 2")
    for row in everything.to_dict("records"):
        normal = normals[row["normal"].rsplit("/", 1)[1]]
        image = np.asarray(Image.open(row["image_path"]))
        assert image.shape == normal.shape
        same = (image == normal).all(-1)
        assert same.any(), "far from the defect nothing changes"
        assert not same.all()
        assert row["height"] == (32 if native else normal.shape[0])
    # A fold's pairs come from the shots that it leaves in.
    assert set(of_fold["shot"]) < set(everything["shot"])
    assert only(run(guided), "ran") == set()


def normal_files(config: RunConfig) -> list[Path]:
    return sorted((config.data / "bolt" / "train" / "good").glob("*.png"))
