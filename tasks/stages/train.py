"""Stages localize, classify, detect: one model on one training set with one seed, tested once on the test pictures."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from prefect import Task, task

from downstream.config import ClassifyConfig, DetectConfig, LocalizeConfig
from downstream.training_sets import TrainingSet, TrainingSetName
from tasks.config import ModelName, RunConfig
from tasks.data.split import choice_key, choice_label
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.stage import OPTIONS, run_stage
from tasks.store.artifacts import Artifact, Staged
from tasks.tables.chosen_steps import read_steps, with_steps
from tasks.tables.figures import ORACLE
from tasks.tables.symmetries import with_symmetries
from tasks.tables.training_rows import Pictures, baseline_in, model_settings, pictures_read, rows_of
from tasks.tables.weights import encoder_of

if TYPE_CHECKING:
    from downstream.figures.class_predictions import ClassPredictions
    from downstream.figures.predictions import Predictions

TIME_BY = ("train_steps", "batch_size", "size_px", "size_px")
STAGES: dict[str, Stage] = {
    "localize": Stage("localize", version=3, heavy=True, time_by=TIME_BY),
    "classify": Stage("classify", version=2, heavy=True, time_by=TIME_BY),
    "detect": Stage("detect", version=2, heavy=True, time_by=TIME_BY),
}

P = TypeVar("P", "Predictions", "ClassPredictions")


def plan_model(
    config: RunConfig,
    model: ModelName,
    pictures: Pictures,
    name: str,
    seed: int,
    steps: Artifact | None = None,
) -> Call:
    """Name the model of one training set and seed; `steps` chose how many it takes, where that is `auto`.

    Raises: ConfigError if its encoder is not there.
    """
    only_if: dict[str, Any] = choice_key(pictures.choice)
    dose = choice_label(pictures.choice)
    if pictures.max_pairs is not None:
        only_if["max_pairs"] = pictures.max_pairs
        dose += f", {pictures.max_pairs} pairs"
    if steps is not None:
        only_if["steps"] = steps
    if config.compare.oracle and model != "detect":
        only_if["oracle"] = True
    # Every training set is validated on held-back pairs, so all depend on them, `real` too.
    out = STAGES[model].plan(
        config.store,
        pictures.prepared.category,
        label=f"{pictures.prepared.category}/{name}{dose}/seed {seed}",
        training_set=name,
        seed=seed,
        split_seed=config.seed,
        samples=pictures.prepared,
        pairs=pictures.generated,
        num_pairs=config.generate.num_pairs,
        baseline=baseline_in(pictures, name),
        **only_if,
        **model_settings(config, model, pictures.objects),
    )
    read = pictures_read(config, model, pictures, name)
    inputs = {"pictures": read, "training_set_name": name, "seed": seed, "steps": steps}
    return Call(STAGES[model], TRAIN[model], config, out, inputs)


def _train(
    out: Artifact,
    pictures: Pictures,
    training_set_name: TrainingSetName,
    seed: int,
    config: RunConfig,
    steps: Artifact | None = None,
) -> StageResult:
    """Train and test the model that `out` is named after."""

    def make(staged: Staged, device: str) -> None:
        rows, test = rows_of(pictures, training_set_name, config)
        oracle = config.compare.oracle
        settled = config if steps is None else with_steps(config, out.stage, read_steps(steps).chosen)
        settled = with_symmetries(settled, pictures.objects)
        match out.stage:
            case "localize":
                build_localize(
                    rows, test, settled.localize, staged.out, device=device, seed=seed, oracle=oracle
                )
            case "classify":
                defects = sorted(pictures.generated)
                build_classify(
                    rows, test, defects, settled.classify, staged.out, device=device, seed=seed, oracle=oracle
                )
            case "detect":
                build_detect(rows, test, settled.detect, staged.out, device=device, seed=seed)

    return run_stage(STAGES[out.stage], out, config, make)


# One body, a task of its own for each model: they are told apart in Prefect's UI and in keys.
TRAIN: dict[str, Task[Any, StageResult]] = {model: task(name=model, **OPTIONS)(_train) for model in STAGES}


def build_localize(
    rows: TrainingSet,
    test: pd.DataFrame,
    config: LocalizeConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    oracle: bool = False,
) -> None:
    """Train, then read the test pictures once; write all to `out`. `oracle`: then once more for each checkpoint."""
    from downstream.figures.predictions import read_predictions, write_predictions
    from downstream.localization import train_localization
    from downstream.prediction import evaluate_localization

    def evaluate(model: Path, to: Path) -> pd.DataFrame:
        return evaluate_localization(model, test, to, device=device)

    with watching(out, evaluate, "pixel_ap" if oracle else None) as on_look:
        train_localization(
            rows.train,
            rows.val,
            config,
            out,
            encoder=encoder_of(config.encoder),
            device=device,
            seed=seed,
            on_look=on_look,
        )
        evaluate(out, out)
    name_portably(out, read_predictions, write_predictions)


def build_classify(
    rows: TrainingSet,
    test: pd.DataFrame,
    defects: list[str],
    config: ClassifyConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    oracle: bool = False,
) -> None:
    """Train on `good` and these defect types, then read the test pictures once; write all to `out`.

    `oracle`: then read them once more for each checkpoint.
    """
    from downstream.classification import evaluate_classifier, train_classifier
    from downstream.figures.class_predictions import read_class_predictions, write_class_predictions

    def evaluate(model: Path, to: Path) -> pd.DataFrame:
        return evaluate_classifier(model, test, to, device=device)

    with watching(out, evaluate, "accuracy" if oracle else None) as on_look:
        train_classifier(
            rows,
            config,
            out,
            classes=defects,
            encoder=encoder_of(config.encoder),
            device=device,
            seed=seed,
            on_look=on_look,
        )
        evaluate(out, out)
    name_portably(out, read_class_predictions, write_class_predictions)


def build_detect(
    rows: TrainingSet,
    test: pd.DataFrame,
    config: DetectConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Train, set thresholds on held-back normals and pairs, read the test pictures once; write all to `out`."""
    from downstream.detectors.training import evaluate_detector, train_detector
    from downstream.figures.predictions import read_predictions, write_predictions

    train_detector(rows, config, out, backbone=encoder_of(config.backbone), device=device, seed=seed)
    evaluate_detector(out, test, out, device=device)
    name_portably(out, read_predictions, write_predictions)


@contextmanager
def watching(
    out: Path, evaluate: Callable[[Path, Path], pd.DataFrame], chosen_by: str | None
) -> Iterator[Callable[[Any], None] | None]:
    """Give what keeps the checkpoints of a training, and write out/oracle.parquet of them when that is done and tested.

    None without `chosen_by`. The checkpoints themselves go: each is as large as the model.
    """
    from downstream.figures.oracle import keep_checkpoints, oracle_table

    if chosen_by is None:
        yield None
        return
    checkpoints = out / "checkpoints"
    yield keep_checkpoints(checkpoints)
    oracle_table(out, checkpoints, evaluate, chosen_by).to_parquet(out / ORACLE, index=False)
    shutil.rmtree(checkpoints)


def name_portably(folder: Path, read: Callable[[Path], P], write: Callable[[P, Path], None]) -> None:
    """Name the predictions' pictures CATEGORY/split/label/name, as in any copy of the data: an artifact holds no path."""
    predictions = read(folder / "predictions.npz")
    names = ["/".join(Path(path).parts[-4:]) for path in predictions.image_path.tolist()]
    write(replace(predictions, image_path=np.array(names)), folder / "predictions.npz")
