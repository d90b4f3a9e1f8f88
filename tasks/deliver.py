"""What leaves a run: its models for the line, its training sets for other tools."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pandas as pd

from downstream.errors import ModelError
from downstream.training_sets import TrainingSetName
from tasks.config import ModelName
from tasks.errors import AnodiffError
from tasks.runs.ended import Run, categories_run, pictures_of, prepared_of, trained_models
from tasks.tables.baselines import BASELINES
from tasks.tables.prepared import read_samples
from tasks.tables.training_rows import Trained, rows_of

if TYPE_CHECKING:
    from downstream.delivery.export import Export
    from downstream.delivery.handover import HandoverFormat

log = logging.getLogger("anodiff")

T = TypeVar("T")

# These decide whether pairs hurt; other metrics move with them.
DECIDING = ("pixel_ap", "image_auroc", "balanced_accuracy")
MADE = ("generated", *BASELINES)  # by the run; other rows are the user's own pictures
NOTE = "README.txt"
NOT_COMPARED = "this run did not compare it with `real`: whether it helps is not known"
OWN_PICTURES = "none: these are the real shots"


@dataclass(frozen=True)
class Exported:
    """One model's files, and how far they are from PyTorch."""

    folder: Path
    max_difference: float
    n_checked: int
    image_threshold: float | None
    pixel_threshold: float | None
    classes: tuple[str, ...]


@dataclass(frozen=True)
class HandedOver:
    """One category's training set as files."""

    folder: Path
    n_train: int
    n_val: int
    n_made: int
    verdicts: tuple[str, ...]


def export_models(
    run: Run,
    out: Path,
    *,
    category: str | None = None,
    model: str | None = None,
    training_set: str | None = None,
    seed: int | None = None,
    openvino: bool = False,
) -> list[Exported]:
    """Write a run's trained models to CATEGORY/MODEL/TRAINING_SET/seed-N in the new folder `out`.

    Each is compared with PyTorch on normals and shots of the training side: test pictures are for figures alone.
    Raises: AnodiffError if there is no such model, or several training sets and none was chosen; ModelError if a
    file differs from PyTorch.
    """
    check_new(out)
    categories = categories_run(run, category)
    compare = run.config.compare
    models = _chosen(run, "--model", model, compare.models)
    seeds = _chosen(run, "--seed", seed, compare.seeds)
    _chosen(run, "--training-set", training_set, compare.training_sets)
    found = {each: trained_models(run, each, models, seeds) for each in categories}
    names = sorted({one.training_set for of_category in found.values() for one in of_category})
    if training_set is None and len(names) > 1:
        raise AnodiffError(f"run {run.name}: has models of several training sets; {_choose(names)}")
    found = {
        each: [one for one in of_category if training_set in (None, one.training_set)]
        for each, of_category in found.items()
    }
    absent = absent_models(run, categories, models, training_set)
    if not any(found.values()):
        raise AnodiffError(f"run {run.name}: no such model; {'; '.join(absent) or 'none was trained'}")
    for reason in absent:
        log.warning("%-9s %s", "export", reason)

    from downstream.delivery.export import write_export

    def write(folder: Path) -> list[Exported]:
        done = []
        for each, of_category in found.items():
            pictures = check_pictures(run, each) if of_category else []
            for one in of_category:
                place = Path(each, one.model, one.training_set, f"seed-{one.seed}")
                try:
                    export = export_model(one, folder / place, pictures, openvino=openvino)
                    of_run = {
                        "run": run.name,
                        "category": each,
                        "training_set": one.training_set,
                        "seed": one.seed,
                    }
                    write_export(export.model_copy(update=of_run), folder / place)
                except ModelError as error:
                    what = str(error).replace(str(folder), str(out))
                    raise AnodiffError(f"{place.as_posix()}: {what} (--model leaves it out)") from error
                log.info("%-9s %s: done", "export", place.as_posix())
                done.append(_exported(out / place, export))
        return done

    return write_whole(out, write)


def absent_models(
    run: Run, categories: Sequence[str], models: Sequence[ModelName], training_set: str | None
) -> list[str]:
    """What the run says of the models that it does not have."""
    return [
        f"{stage.stage} {stage.label}: {stage.status}: {stage.error}"
        for stage in run.stages
        if stage.stage in models
        and stage.artifact is None
        and stage.label.split("/")[0] in categories
        and training_set in (None, *stage.label.split("/")[1:2])
    ]


def export_model(one: Trained, out: Path, pictures: Sequence[str], *, openvino: bool) -> "Export":
    """One trained model as files. Raises: ModelError."""
    from downstream.classifier import load_classifier
    from downstream.delivery.export import export_classifier, export_detector, export_localization

    folder = one.artifact.path
    match one.model:
        case "localize":
            return export_localization(folder, out, pictures=pictures, openvino=openvino)
        case "detect":
            return export_detector(folder, out, pictures=pictures, openvino=openvino)
        case "classify":
            network, described = load_classifier(folder)
            return export_classifier(
                network,
                out,
                classes=described.classes,
                size_px=described.config.size_px,
                mean=described.encoder.mean,
                std=described.encoder.std,
                pictures=pictures,
                openvino=openvino,
            )


def check_pictures(run: Run, category: str) -> list[str]:
    """A category's first two normals and first shot of each defect type, all of the training side."""
    samples = read_samples(prepared_of(run, category), run.config.data)
    side = samples[samples["split"] == "train"]
    normals, shots = side[side["label_index"] == 0], side[side["label_index"] == 1]
    return [*normals["image_path"].head(2), *shots.groupby("label")["image_path"].first()]


def hand_over_run(
    run: Run,
    out: Path,
    format: "HandoverFormat",
    *,
    category: str | None = None,
    training_set: str | None = None,
    anyway: bool = False,
) -> list[HandedOver]:
    """Write a run's training set to CATEGORY/ in the new folder `out`, with README.txt in each.

    Raises: AnodiffError if several training sets are there and none was chosen, or its pairs hurt and not `anyway`;
    DownstreamError for rows that the format cannot hold.
    """
    from downstream.delivery.handover import hand_over

    check_new(out)
    categories = categories_run(run, category)
    names = _chosen(run, "--training-set", training_set, run.config.compare.training_sets)
    if len(names) > 1:
        raise AnodiffError(f"run {run.name}: has several training sets; {_choose(names)}")
    name = names[0]
    lifts = {each: deciding_lifts(run, each, name) for each in categories}
    hurting = [text for lift in lifts.values() for text in lift_texts(lift[lift["verdict"] == "hurts"])]
    if hurting and not anyway:
        raise AnodiffError(
            f"run {run.name}: models trained on {name} did worse than on `real`, so it is not handed over:\n  "
            + "\n  ".join(hurting)
            + "\nTake another training set or category, or --anyway, which writes this down beside the pictures."
        )

    def write(folder: Path) -> list[HandedOver]:
        done = []
        for category in categories:
            rows = handover_rows(run, category, name)
            hand_over(rows, folder / category, format)
            verdicts = tuple(lift_texts(lifts[category])) or (
                OWN_PICTURES if name == "real" else NOT_COMPARED,
            )
            note = handover_note(run, category, name, format, rows, verdicts)
            (folder / category / NOTE).write_text(note, encoding="utf-8")
            log.info("%-9s %s: done", "handover", category)
            val, made = rows["split"] == "val", rows["source"].isin(MADE)
            done.append(
                HandedOver(out / category, int((~val).sum()), int(val.sum()), int(made.sum()), verdicts)
            )
        return done

    return write_whole(out, write)


def handover_rows(run: Run, category: str, name: TrainingSetName) -> pd.DataFrame:
    """A training set's rows and the validation rows that thresholds are set on, with split and run."""
    rows, _ = rows_of(pictures_of(run, category), name, run.config)
    joined = pd.concat([rows.train.assign(split="train"), rows.val.assign(split="val")], ignore_index=True)
    return joined.assign(run=joined["source"].map(dict.fromkeys(MADE, run.name)))


def deciding_lifts(run: Run, category: str, name: str) -> pd.DataFrame:
    """The rows of a run's lift table that decide on one training set: each model's main figures against `real`."""
    lift = pd.read_parquet(run.folder / "lift.parquet")
    if lift.empty:  # without columns, too
        return pd.DataFrame(columns=["model", "verdict"])
    asked = (lift["category"] == category) & (lift["training_set"] == name) & (lift["against"] == "real")
    return lift[asked & lift["metric"].isin(DECIDING)]


def lift_texts(lift: pd.DataFrame) -> list[str]:
    """Each row in words: `tile: localize, pixel_ap −9.2 [−13.4, −5.3] points: hurts (1 seed)`."""
    return [
        f"{row['category']}: {row['model']}, {row['metric']} {100 * row['difference']:+.1f} "
        f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}] points: {row['verdict']} "
        f"({row['n_seeds']} seed{'s' if row['n_seeds'] > 1 else ''})"
        for row in lift.to_dict("records")
    ]


def handover_note(
    run: Run, category: str, name: str, format: str, rows: pd.DataFrame, verdicts: Sequence[str]
) -> str:
    """README.txt: what lies here, where it is from, whether it helped."""
    counts = rows.groupby(["split", "source", "label"]).size().reset_index(name="pictures")
    hurts = any(": hurts" in text for text in verdicts)
    return "\n".join(
        [
            f"{category}, training set {name}, format {format}, of anodiff run {run.name}",
            "",
            counts.to_string(index=False),
            "",
            'Split "val" are held-back normals and pairs, for thresholds and the choice of a checkpoint. The run\'s',
            "test pictures are not here.",
            "",
            *squeezed_note(rows),
            "Difference to training on the real shots alone, with its 95 % interval:",
            *(f"  {text}" for text in verdicts),
            *(["NOT RECOMMENDED: handed over by --anyway although it hurts."] if hurts else []),
            "",
            "Of each picture: source, run, adapter_key (STORE/artifacts/ADAPTER_KEY), seed and index of the pair,",
            "original (its file in the run's data or store).",
            "",
        ]
    )


def squeezed_note(rows: pd.DataFrame) -> list[str]:
    """What was done to pairs that were drawn as squares of pictures that are none; nothing where nothing was."""
    from downstream.delivery.delivered import pair_size

    size = pair_size(rows)
    if size is None:
        return []
    return [
        "Pairs were drawn as squares, of pictures squeezed into them, and are stretched here to the pictures' size,",
        f"{size[1]}x{size[0]} px: they show no finer detail than was drawn.",
        "",
    ]


def check_new(out: Path) -> None:
    """Raises: AnodiffError if `out` is a file or a folder that holds something."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise AnodiffError(f"{out}: is not empty; name a new folder")


def write_whole(out: Path, write: Callable[[Path], T]) -> T:
    """Have `write` fill a folder beside `out`, then rename it: what lies at `out` is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / "out"  # made by mkdir, so with the user's usual rights
        folder.mkdir()
        done = write(folder)
        folder.rename(out)
    return done


def _exported(folder: Path, export: "Export") -> Exported:
    return Exported(
        folder=folder,
        max_difference=max(value for one in export.max_abs_difference.values() for value in one.values()),
        n_checked=export.n_checked,
        image_threshold=export.image_threshold,
        pixel_threshold=export.pixel_threshold,
        classes=tuple(export.classes or ()),
    )


def _chosen(run: Run, option: str, value: object, of_run: Sequence[T]) -> Sequence[T]:
    """What an option leaves of all that a run has. Raises: AnodiffError if the run has no such."""
    if value is None:
        return of_run
    chosen = [each for each in of_run if each == value]
    if not chosen:
        raise AnodiffError(
            f"{option} {value}: not in run {run.name}; it has {', '.join(str(each) for each in of_run)}"
        )
    return chosen


def _choose(names: Sequence[str]) -> str:
    return f"choose one with --training-set: {', '.join(names)}"
