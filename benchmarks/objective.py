"""The U-Net's loss and first bias, chosen without a test picture: `python -m benchmarks.objective CATEGORY_FOLDER`.

Only a run's shots and normals are read. Of each defect type one shot in turn is held out, with the normals of its part;
the U-Net trains on the others, alone and as copy-paste, and is scored on the held-out shots beside the normals of
validation. One setting at a time departs from the present one. The rule, made before the first run: the present setting
stays unless another is better in pixel AP by more than one standard error over folds and training sets.
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from downstream import encoder
from downstream.config import LocalizeConfig
from downstream.figures.metrics import image_metrics, pixel_metrics
from downstream.localization import train_localization
from downstream.prediction import predict
from downstream.synthesis import copy_paste_pairs
from downstream.training_sets import TrainingSetName, training_set
from dual_anodiff.image_encoder import imagenet_encoder
from tasks.data.samples import read_dataset
from tasks.data.split import SplitConfig, split_samples

PRESENT = (10.0, 0.01)
# focal weight, probability of defect that the head starts with (0.5: no bias)
SETTINGS = (PRESENT, (1.0, 0.01), (100.0, 0.01), (10.0, 0.5))
SETS: tuple[TrainingSetName, ...] = ("real", "copy-paste")
METRICS = ("pixel_ap", "aupro", "image_auroc")


def folds(folder: Path, num_shots: int) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Samples to train on, and rows to score on: one shot of each type, and normals of validation."""
    samples = split_samples(read_dataset(folder), SplitConfig(shots=num_shots))
    samples = samples[samples["split"].isin(["train", "val"])]
    shots = samples[samples["label_index"] == 1].sort_values("image_path")
    turn = shots.groupby("label").cumcount()
    good = samples[(samples["split"] == "val") & (samples["label_index"] == 0)]
    for fold in range(num_shots):
        held = shots[turn == fold]
        of_its_part = samples["group"].isin(held["group"]) & (samples["split"] == "train")
        yield samples[~of_its_part], pd.concat([held, good], ignore_index=True)


def score(samples: pd.DataFrame, scored: pd.DataFrame, fold: int, steps: int) -> list[dict[str, object]]:
    """A row of figures for each setting and training set."""
    rows: list[dict[str, object]] = []
    with TemporaryDirectory() as scratch:
        pasted = copy_paste_pairs(samples, Path(scratch) / "pasted", 240, seed=fold)
        for name in SETS:
            chosen = training_set(name, samples, pasted, baselines={"copy-paste": pasted}, seed=fold)
            for focal_weight, prior in SETTINGS:
                encoder.PRIOR = prior
                config = LocalizeConfig(
                    size_px=128, train_steps=steps, evaluate_every_steps=steps, focal_weight=focal_weight
                )
                out = Path(scratch) / f"{name} {focal_weight} {prior}"
                train_localization(
                    chosen.train, chosen.val, config, out, encoder=imagenet_encoder(), seed=fold
                )
                found = predict(out, scored)
                values = pixel_metrics(found.anomaly_map, found.gt_mask)
                values |= image_metrics(found.pred_score, found.label_index)
                row: dict[str, object] = {
                    "focal_weight": focal_weight,
                    "prior": prior,
                    "set": name,
                    "fold": fold,
                }
                rows.append(row | {metric: 100 * values[metric] for metric in METRICS})
                print(rows[-1], flush=True)
    return rows


def print_table(rows: pd.DataFrame) -> None:
    """Means over folds and sets; the difference in pixel AP to the present setting, and its standard error."""
    by = ["focal_weight", "prior"]
    wide = rows.pivot(index=["set", "fold"], columns=by, values="pixel_ap")
    lift = wide.sub(wide[PRESENT], axis=0)
    table = rows.groupby(by)[list(METRICS)].mean().assign(lift=lift.mean(), error=lift.sem())
    print(table.round(1).to_string())
    print(rows.groupby([*by, "set"])[list(METRICS)].mean().round(1).to_string())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("category", type=Path, metavar="CATEGORY_FOLDER")
    parser.add_argument("--shots", type=int, default=5, help="of each defect type")
    parser.add_argument(
        "--folds", type=int, default=3, help="held-out shots of each defect type, one at a time"
    )
    parser.add_argument("--steps", type=int, default=150, help="of each training, as in the preset cpu")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [
        row
        for fold, (samples, scored) in enumerate(islice(folds(args.category, args.shots), args.folds))
        for row in score(samples, scored, fold, args.steps)
    ]
    print_table(pd.DataFrame(rows))


if __name__ == "__main__":
    main()
