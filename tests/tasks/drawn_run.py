"""A finished run of drawn pictures, pairs and predictions: real tables and artifacts in a second, nothing trained."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from downstream.figures.class_predictions import (
    ClassPredictions,
    class_metrics_table,
    write_class_predictions,
)
from downstream.figures.predictions import Predictions
from downstream.prediction import write_evaluation
from tasks.config import ModelName, RunConfig
from tasks.report.run_folder import RunSummary, write_run
from tasks.runtime.stage import StageOutcome
from tasks.stages.prepare import build_prepare, plan_prepare
from tasks.stages.report import plan_report, report
from tasks.store.artifacts import Artifact, Staged, plan, publish
from tasks.tables.figures import FIGURES
from tasks.tables.prepared import read_samples
from tasks.tables.training_rows import Trained
from tests.tasks.data_folders import square_mask, texture

MAP_PX = 16
# How far defects stand out in the maps of a model: more is better.
STRENGTH = {"real": 0.2, "generated": 0.05, "generated+real": 0.5}


def drawn_predictions(samples: pd.DataFrame, strength: float, seed: int = 0) -> Predictions:
    """Noise, brighter by `strength` where the truth is; the image score is the map's maximum."""
    test = samples[samples["split"] == "test"]
    generator = np.random.default_rng(seed)
    defective = test["label_index"].to_numpy().astype(bool)
    masks = np.zeros((len(test), MAP_PX, MAP_PX), dtype=bool)
    masks[defective, 2:7, 2:7] = True
    maps = (0.4 * generator.random(masks.shape) + strength * masks).astype(np.float16).astype(np.float32)
    return Predictions(
        image_path=np.array(["/".join(Path(path).parts[-4:]) for path in test["image_path"]]),
        label=test["label"].to_numpy(dtype=np.str_),
        label_index=test["label_index"].to_numpy(dtype=np.int64),
        anomaly_map=maps,
        gt_mask=masks,
        pred_score=maps.max((1, 2)),
        pixel_threshold=0.45,
        image_threshold=0.42,
    )


def drawn_classes(samples: pd.DataFrame, strength: float, seed: int = 0) -> ClassPredictions:
    """Probabilities that lean to the truth by `strength`."""
    test = samples[samples["split"] == "test"]
    classes = np.array(sorted(set(test["label"])))
    truth = test["label"].to_numpy(dtype=np.str_)
    odds = np.random.default_rng(seed).random((len(test), len(classes))) + strength * (
        truth[:, None] == classes
    )
    return ClassPredictions(
        image_path=np.array(["/".join(Path(path).parts[-4:]) for path in test["image_path"]]),
        label=truth,
        classes=classes,
        probability=(odds / odds.sum(1, keepdims=True)).astype(np.float32),
    )


def drawn_pairs(staged: Staged, reasons: list[str]) -> None:
    """Pairs refused for these reasons, or none, with their pictures."""
    rows = []
    for index, reason in enumerate(reasons):
        name = f"{index:06}.png"
        pictures = {"image": texture(5000 + index), "anomaly": texture(6000 + index), "mask": square_mask()}
        for kind, pixels in pictures.items():
            (staged.out / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(staged.out / kind / name)
        paths = {f"{kind}_path": f"{kind}/{name}" for kind in pictures}
        rows.append({"index": index, "seed": index, "mask_share": 0.06, "reasons": reason, **paths})
    pd.DataFrame(rows).to_parquet(staged.out / "pairs.parquet", index=False)


def drawn_report(
    config: RunConfig, category: str, strength: dict[str, float] | None = None
) -> tuple[Artifact, list[StageOutcome]]:
    """A category's report by the real stage, and the outcomes of all that it is of."""
    prepared = plan_prepare(config, category).out
    publish(prepared, lambda staged: build_prepare(config, category, staged), device="cpu")
    samples = read_samples(prepared, config.data)
    generated, measured = {}, {}
    for defect in sorted(set(samples["label"]) - {"good"}):
        label = f"{category}/{defect}"
        pairs = plan(config.store, "curate", 1, category, label=label, defect=defect, adapter="some")
        publish(pairs, lambda staged: drawn_pairs(staged, ["", "mask empty", "", ""]), device="cpu")
        figures = plan(config.store, "quality", 1, category, label=label, pairs=pairs)
        publish(figures, lambda staged, of=defect: drawn_quality(staged, category, of), device="cpu")  # type: ignore[misc]
        generated[defect], measured[defect] = pairs, figures
    trained = drawn_models(config, category, samples, strength or STRENGTH)
    out = plan_report(config, prepared, generated, measured, trained).out
    report.fn(out, prepared, generated, measured, trained, [], config)
    made = [prepared, *generated.values(), *measured.values(), *(each.artifact for each in trained), out]
    return out, [StageOutcome(each.stage, each.label, each.ref, "ran", 1.0) for each in made]


def drawn_quality(staged: Staged, category: str, defect: str) -> None:
    row = {"category": category, "defect": defect, "std": 0.1, "n": 3, "n_reference": 2, "note": ""}
    values = {"coverage": 0.75, "mask_alignment": 0.5}
    rows = [
        {**row, "metric": metric, "value": value, "pairs": pairs}
        for pairs in ("drawn", "accepted")
        for metric, value in values.items()
    ]
    pd.DataFrame(rows).to_parquet(staged.out / FIGURES, index=False)


def drawn_models(
    config: RunConfig, category: str, samples: pd.DataFrame, strength: dict[str, float]
) -> list[Trained]:
    """Every model of the config on every training set with every seed, as its stage would leave it."""
    trained = []
    for model in config.compare.models:
        for name in config.compare.training_sets:
            for seed in config.compare.seeds:
                label = f"{category}/{name}/seed {seed}"
                artifact = plan(
                    config.store, model, 1, category, label=label, name=name, seed=seed, by=strength[name]
                )
                by = strength[name]

                def make(staged: Staged, model: ModelName = model, by: float = by, seed: int = seed) -> None:
                    if model == "classify":
                        classes = drawn_classes(samples, by, seed)
                        write_class_predictions(classes, staged.out / "predictions.npz")
                        class_metrics_table(classes).to_parquet(staged.out / "metrics.parquet", index=False)
                    else:
                        test = samples[samples["split"] == "test"]
                        write_evaluation(model, drawn_predictions(samples, by, seed), test, staged.out)

                publish(artifact, make, device="cpu")
                trained.append(Trained(model, name, seed, artifact))
    return trained


def drawn_run(config: RunConfig, categories: list[str], *more: StageOutcome) -> RunSummary:
    """The run of these categories, `more` stages besides."""
    reports, stages = {}, []
    for category in categories:
        reports[category], outcomes = drawn_report(config, category)
        stages += outcomes
    return write_run(config, [*stages, *more], reports, started=datetime(2026, 1, 1, tzinfo=UTC))
