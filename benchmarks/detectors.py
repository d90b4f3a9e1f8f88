"""What anomalib's detectors find with the ImageNet encoder, and their time: `python -m benchmarks.detectors FOLDER`.

FOLDER is a category in MVTec AD layout, split as a run does. All detectors train on the same normals; supervised
SuperSimpleNet gets the shots too, alone and with copy-paste. Validation, which sets thresholds only, is the normals of
split "val" and copy-paste pairs of the shots. The test pictures are read once for each row of the table; no figure in
it depends on a threshold. Seconds are processor time on one core; those of a test picture include reading it.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from downstream.config import READ_BY, DetectConfig, DetectorName, learns_from_defects
from downstream.detectors.training import predict_detector, quiet, train_detector
from downstream.figures.metrics import image_metrics, pixel_metrics
from downstream.synthesis import copy_paste_pairs
from downstream.training_sets import TrainingSet, training_set
from dual_anodiff.image_encoder import imagenet_encoder
from tasks.data.samples import read_dataset
from tasks.data.split import SplitConfig, split_samples

MODELS: tuple[DetectorName, ...] = ("padim", "patchcore", "supersimplenet-unsupervised", "supersimplenet")
METRICS = ("image_auroc", "pixel_ap", "aupro")
NUM_PAIRS = 240  # of copy-paste, a fifth of them for validation


def thinned(samples: pd.DataFrame, most: int) -> pd.DataFrame:
    """The samples with at most so many training normals, evenly spaced by name."""
    normals = samples[(samples["split"] == "train") & (samples["label_index"] == 0)].sort_values("image_path")
    kept = (
        {round(i * len(normals) / most) for i in range(most)} if len(normals) > most else range(len(normals))
    )
    return samples.drop(normals.index.delete(sorted(kept)))


def training_sets(
    model: DetectorName, samples: pd.DataFrame, pasted: pd.DataFrame, seed: int
) -> dict[str, TrainingSet]:
    """What to train on, by name; all have the same normals and the same validation rows."""
    real = training_set("real", samples, pasted, seed=seed)
    if not learns_from_defects(model):
        return {"normals": real}
    return {"shots": real, "copy-paste + shots": training_set("generated+real", samples, pasted, seed=seed)}


def configs(
    model: DetectorName, layers: Sequence[str], train_steps: Sequence[int], batch_size: int, size_px: int
) -> Iterator[DetectConfig]:
    """One for each choice of layers and, for a model that takes steps, of steps."""
    for names in layers:
        base = DetectConfig(
            model=model,
            size_px=size_px,
            batch_size=batch_size,
            layers=None if names == "default" else tuple(names.split(",")),
        )
        if model not in READ_BY["train_steps"]:
            yield base
            continue
        for steps in train_steps:
            yield base.model_copy(update={"train_steps": steps})


def measure(config: DetectConfig, chosen: TrainingSet, test: pd.DataFrame, seed: int) -> dict[str, object]:
    """Train, then predict the test pictures once: seconds and figures."""
    with TemporaryDirectory() as scratch:
        start = time.process_time()
        trained = train_detector(chosen, config, Path(scratch), backbone=imagenet_encoder(), seed=seed)
        after = time.process_time()
        found = predict_detector(Path(scratch), test)
        end = time.process_time()
    values = pixel_metrics(found.anomaly_map, found.gt_mask)
    values |= image_metrics(found.pred_score, found.label_index)
    return {
        "layers": ",".join(trained.backbone.layers) if trained.backbone else "",
        "train_s": round(after - start, 1),
        "s_a_picture": round((end - after) / len(test), 4),
    } | {metric: round(100 * values[metric], 1) for metric in METRICS}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("category", type=Path, metavar="FOLDER")
    parser.add_argument("--shots", type=int, default=5, help="of each defect type")
    parser.add_argument("--size-px", type=int, default=128)
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL", help=f"of {MODELS}"
    )
    parser.add_argument(
        "--layers", nargs="+", default=["default"], help="choices of feature maps, as blocks.1,blocks.2"
    )
    parser.add_argument(
        "--train-steps", type=int, nargs="+", default=[80], help="choices, for SuperSimpleNet"
    )
    parser.add_argument("--batch-size", type=int, default=4, help="as in the preset cpu, like the steps")
    parser.add_argument("--max-normals", type=int, default=400, help="train on so many, evenly by name")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with quiet():
        import anomalib.models  # noqa: F401  # takes seconds, which would count for the first detector
    samples = split_samples(read_dataset(args.category), SplitConfig(shots=args.shots))
    samples = thinned(samples, args.max_normals)
    print(samples.groupby(["split", "label"]).size().to_string(), flush=True)
    rows: list[dict[str, object]] = []
    with TemporaryDirectory() as scratch:
        pasted = copy_paste_pairs(samples, Path(scratch), NUM_PAIRS, seed=args.seed)
        for model in args.models:
            for config in configs(model, args.layers, args.train_steps, args.batch_size, args.size_px):
                for name, chosen in training_sets(model, samples, pasted, args.seed).items():
                    steps = config.train_steps if model in READ_BY["train_steps"] else ""
                    row: dict[str, object] = {"model": model, "trained on": name, "steps": steps}
                    rows.append(row | measure(config, chosen, samples[samples["split"] == "test"], args.seed))
                    print(rows[-1], flush=True)
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
