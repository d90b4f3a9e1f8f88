"""Which settings of a detector make it another model."""

from pathlib import Path
from typing import Any, get_args

import pytest

from downstream.config import DetectorName
from tasks.config import RunConfig
from tasks.stages.train import plan_model
from tasks.store.artifacts import Artifact
from tasks.tables.training_rows import Pictures

NEEDS: dict[str, dict[str, Any]] = {
    "dinomaly": {"backbone": "vit_small_patch14_reg4_dinov2", "size_px": 280},
    "draem": {"texture_folder": "pictures"},
    "efficientad": {"picture_folder": "pictures"},
}
READ = {
    "padim": "n_features backbone layers",
    "patchcore": "coreset_share num_neighbors backbone layers",
    "supersimplenet": "train_steps normal_share real_share backbone layers",
    "supersimplenet-unsupervised": "train_steps normal_share backbone layers",
    "efficientad": "train_steps picture_folder backbone_weights",
    "draem": "train_steps texture_folder",
    "dinomaly": "train_steps backbone backbone_weights",
}


@pytest.mark.parametrize("model", get_args(DetectorName))
def test_a_detector_is_trained_again_for_what_it_reads_and_nothing_else(model: str, tmp_path: Path) -> None:
    for name in ("pictures", "more pictures"):
        (tmp_path / name / "class").mkdir(parents=True)
        (tmp_path / name / "class" / "a.png").write_text(name)
    (tmp_path / "weights.pth").write_text("weights")

    def key(**changes: Any) -> str:
        values = {"model": model, "backbone_weights": "random"} | NEEDS.get(model, {}) | changes
        for option in ("texture_folder", "picture_folder"):
            if option in values:
                values[option] = tmp_path / values[option]
        config = RunConfig.model_validate(
            {
                "data": tmp_path,
                "store": tmp_path / "store",
                "detect": values,
                "compare": {"models": ["detect"]},
            }
        )
        prepared = Artifact(config.store, "prepare", "bolt", "0" * 20, "bolt", inputs={})
        return plan_model(config, "detect", Pictures(prepared, {"dent": prepared}), "real", 0).out.digest

    others = {
        "n_features": 7,
        "coreset_share": 0.2,
        "num_neighbors": 3,
        "train_steps": 77,
        "normal_share": 0.25,
        "real_share": 0.25,
        "layers": ("layer1",),
        "texture_folder": "more pictures",
        "picture_folder": "more pictures",
        "backbone": "resnet18" if model != "dinomaly" else "vit_base_patch14_reg4_dinov2",
        "backbone_weights": tmp_path / "weights.pth",
    }
    changed = {name for name, value in others.items() if key(**{name: value}) != key()}
    assert changed == set(READ[model].split())
