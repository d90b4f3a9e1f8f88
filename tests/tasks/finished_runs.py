"""Runs that ended, made in a second: no training, but real files of predictions, and what is computed from them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from downstream.figures.class_predictions import (
    ClassPredictions,
    class_metrics_table,
    confusion_table,
    write_class_predictions,
)
from downstream.figures.metrics import metrics_table
from downstream.figures.predictions import Predictions, write_predictions
from tasks.config import RunConfig, load_config
from tasks.report.run_folder import RunSummary, write_run
from tasks.runtime.stage import StageOutcome
from tasks.stages.report import build_figures
from tasks.store.artifacts import Artifact, Staged, plan, publish
from tasks.tables.figures import PAIRS, QUALITY, SHEETS
from tasks.tables.training_rows import Trained

SIZE = 16
DATA = "d" * 64


@dataclass(frozen=True)
class Pictures:
    """A category's test pictures: their names, what they show, the digests of their content."""

    name: list[str]
    label: list[str]
    sha256: list[str]

    def but(self, *lost: int) -> "Pictures":
        """Without some of them."""
        kept = [i for i in range(len(self.name)) if i not in lost]
        return Pictures(*([column[i] for i in kept] for column in (self.name, self.label, self.sha256)))


def pictures_to_test(defects: Sequence[str] = ("crack",), per_kind: int = 12) -> Pictures:
    labels = [each for each in ("good", *defects) for _ in range(per_kind)]
    names = [f"test/{label}/{i % per_kind:03}.png" for i, label in enumerate(labels)]
    return Pictures(names, labels, [f"{i:064x}" for i in range(len(labels))])


def config_of(store: Path, *changes: str) -> RunConfig:
    asked = ["compare.training_sets=[real, generated]", "report.bootstrap_samples=100", *changes]
    return load_config("demo", asked, data=store.parent / "data", store=store)


def finished_run(
    config: RunConfig,
    pictures: Pictures | None = None,
    *,
    categories: Sequence[str] = ("bolt",),
    day: int = 1,
    contrast: float = 0.3,
    data: str = DATA,
    mask_px: int = 4,
    failed: bool = False,
) -> RunSummary:
    """A run whose models see the defects by `contrast`, on pictures in the order given."""
    pictures = pictures or pictures_to_test()
    stages: list[StageOutcome] = []
    reports = {}
    for category in categories:
        split = config.split.model_dump(exclude={"naive"})
        prepared = _published(
            plan(config.store, "prepare", 1, category, data=data, split=split),
            lambda staged: _split_of(pictures).to_csv(staged.out / "split.csv", index=False),
        )
        tuned = _published(
            plan(config.store, "finetune", 1, category, label=f"{category}/crack", samples=prepared, day=day),
            lambda staged: pd.DataFrame({"step": range(1, 301), "loss": np.linspace(1, 0, 300)}).to_csv(
                staged.out / "training.csv", index=False
            ),
        )
        trained = [
            _model(config, category, model, name, seed, prepared, pictures, contrast, mask_px)
            for model in config.compare.models
            for name in config.compare.training_sets
            for seed in config.compare.seeds
        ]

        def make(staged: Staged, category: str = category, trained: list[Trained] = trained) -> None:
            build_figures(category, trained, config.report, staged.out)
            _pairs_of(category).to_parquet(staged.out / PAIRS, index=False)
            _quality_of(category).to_parquet(staged.out / QUALITY, index=False)
            (staged.out / SHEETS).mkdir()
            (staged.out / SHEETS / "crack.png").write_bytes(b"a picture")

        models = {f"{each.model}/{each.training_set}/{each.seed}": each.artifact for each in trained}
        reports[category] = _published(
            plan(config.store, "report", 1, category, models=models, day=day), make
        )
        made = [prepared, tuned, *(each.artifact for each in trained), reports[category]]
        stages += [StageOutcome(each.stage, each.label, each.ref, "ran", 1.0) for each in made]
    if failed:
        stages.append(StageOutcome("finetune", "bolt/stain", None, "failed", error="no memory"))
    return write_run(config, stages, reports, started=datetime(2026, 1, day, tzinfo=UTC))


def _published(artifact: Artifact, make: object) -> Artifact:
    publish(artifact, make, device="cpu")  # type: ignore[arg-type]  # what the functions return is not looked at
    return artifact


def _split_of(pictures: Pictures) -> pd.DataFrame:
    return pd.DataFrame(
        {"image_path": pictures.name, "label": pictures.label, "split": "test", "sha256": pictures.sha256}
    )


def _model(
    config: RunConfig,
    category: str,
    model: str,
    name: str,
    seed: int,
    prepared: Artifact,
    pictures: Pictures,
    contrast: float,
    mask_px: int,
) -> Trained:
    label = f"{category}/{name}/seed {seed}"
    asked = {"training_set": name, "seed": seed, "contrast": contrast, "mask_px": mask_px}
    artifact = plan(
        config.store, model, 1, category, label=label, samples=prepared, n=len(pictures.name), **asked
    )
    paths = [f"{category}/{each}" for each in pictures.name]

    def make(staged: Staged) -> None:
        if model == "classify":
            classes = classified(paths, pictures, contrast, seed)
            write_class_predictions(classes, staged.out / "predictions.npz")
            confusion_table(classes).to_parquet(staged.out / "confusion.parquet", index=False)
            table = class_metrics_table(classes)
        else:
            maps = mapped(paths, pictures, contrast + 0.2 * (name == "generated"), seed, mask_px)
            write_predictions(maps, staged.out / "predictions.npz")
            table = metrics_table(maps)
        table.insert(0, "model", model)
        table.to_parquet(staged.out / "metrics.parquet", index=False)

    publish(artifact, make, device="cpu")
    return Trained(model, name, seed, artifact)  # type: ignore[arg-type]  # a model's name


def mapped(paths: list[str], pictures: Pictures, contrast: float, seed: int, mask_px: int) -> Predictions:
    """Noise that hangs on a picture's content and the seed, brighter by `contrast` where the defect is."""
    defect = np.array([each != "good" for each in pictures.label])
    mask = np.zeros((len(paths), SIZE, SIZE), dtype=bool)
    mask[defect, 4 : 4 + mask_px, 4 : 4 + mask_px] = True
    noise = [
        np.random.default_rng([seed, int(sha, 16)]).random((SIZE, SIZE), dtype=np.float32)
        for sha in pictures.sha256
    ]
    maps = ((0.5 * np.array(noise) + contrast * mask).astype(np.float16)).astype(np.float32)
    return Predictions(
        image_path=np.array(paths),
        label=np.array(pictures.label),
        label_index=defect.astype(np.int64),
        anomaly_map=maps,
        gt_mask=mask,
        pred_score=maps.reshape(len(paths), -1).mean(1),
        pixel_threshold=0.5,
        image_threshold=0.26,
    )


def classified(paths: list[str], pictures: Pictures, contrast: float, seed: int) -> ClassPredictions:
    classes = sorted(set(pictures.label))
    chances = np.array(
        [np.random.default_rng([seed, int(sha, 16)]).random(len(classes)) for sha in pictures.sha256]
    )
    chances[np.arange(len(paths)), [classes.index(label) for label in pictures.label]] += contrast
    return ClassPredictions(
        image_path=np.array(paths),
        label=np.array(pictures.label),
        classes=np.array(classes),
        probability=(chances / chances.sum(1, keepdims=True)).astype(np.float32),
    )


def _pairs_of(category: str) -> pd.DataFrame:
    reasons = ["", "", "", "mask empty"]
    return pd.DataFrame(
        {"category": category, "label": "crack", "index": range(4), "seed": 0, "reasons": reasons}
    )


def _quality_of(category: str) -> pd.DataFrame:
    row = {
        "category": category,
        "defect": "crack",
        "metric": "coverage",
        "std": np.nan,
        "n": 4,
        "n_reference": 8,
    }
    return pd.DataFrame(
        [{**row, "value": 0.5, "note": "", "pairs": pairs} for pairs in ("drawn", "accepted")]
    )


def shuffled(pictures: Pictures, names: str) -> Pictures:
    """The same content in another order under other names."""
    order = np.random.default_rng(0).permutation(len(pictures.name)).tolist()
    named = [f"test/{pictures.label[i]}/{names}{place}.png" for place, i in enumerate(order)]
    return replace(
        pictures,
        name=named,
        label=[pictures.label[i] for i in order],
        sha256=[pictures.sha256[i] for i in order],
    )
