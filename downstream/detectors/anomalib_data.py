"""Rows of pictures as anomalib's Engine wants them: train and validation, and no test set at all.

anomalib's own datamodules take the validation set from the test set unless told otherwise; this one never
hears of a test picture.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from downstream.batches import draw_batches
from downstream.config import DetectConfig, learns_from_defects
from downstream.errors import TrainingSetError
from downstream.images import load_rows
from downstream.training_sets import TrainingSet, refuse_one_sided

# Parts into which a training is cut for Lightning, to which SuperSimpleNet ties its learning rate (× 0.4 at 80 % and 90 %).
ROUNDS = 10

# SuperSimpleNet trains on batches drawn by share; the others read the normals from the first to the last.
DRAWN = ("supersimplenet", "supersimplenet-unsupervised")


class Pictures(Dataset[dict[str, Any]]):
    """Pictures and masks of rows, read once, at training size, by our reader (grey and 16 bits included).

    Shape: image (3, s, s) float32 in 0..1, gt_mask (s, s) bool, gt_label 0 normal, 1 anomalous.
    """

    def __init__(self, rows: pd.DataFrame, size_px: int) -> None:
        self.image_path: list[str] = rows["image_path"].tolist()
        self.images, self.masks = load_rows(rows, size_px)
        self.labels = torch.tensor(rows["label_index"].tolist(), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.image_path)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": self.images[index].float() / 255,
            "gt_mask": self.masks[index, 0],
            "gt_label": self.labels[index],
            "image_path": self.image_path[index],
        }


class Rounds:
    """A batch sampler that goes on where it stopped: each epoch is the next `length` batches of an endless draw."""

    def __init__(self, batches: Iterator[NDArray[np.int64]], length: int) -> None:
        self.batches, self.length = batches, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.length):
            yield next(self.batches).tolist()


def rows_datamodule(training: TrainingSet, config: DetectConfig, seed: int) -> Any:
    """A LightningDataModule over training.train (the normals alone, unless the model learns from defects) and training.val.

    Raises: TrainingSetError if a part lacks normals, or validation defects; PictureError.
    """
    from lightning.pytorch import LightningDataModule

    rows = training.train
    if not learns_from_defects(config.model):
        rows = rows[rows["label_index"] == 0].reset_index(drop=True)
    refuse_one_sided(training.val)
    if not (rows["label_index"] == 0).any():
        raise TrainingSetError(
            f"training set {training.name!r} holds no normal picture, and {config.model} learns from normals."
        )
    batch_size = 1 if config.model == "efficientad" else config.batch_size

    class RowsDataModule(LightningDataModule):
        """What Engine and EfficientAD ask of anomalib's datamodules, and nothing that could reach a test picture."""

        name, category = "rows", ""
        train_batch_size = batch_size

        def __init__(self) -> None:
            super().__init__()
            self.train_data = Pictures(rows, config.size_px)
            self.val_data = Pictures(training.val, config.size_px)
            self.rounds = _rounds(rows, config, seed) if config.model in DRAWN else None
            self.order = torch.Generator().manual_seed(seed)

        def train_dataloader(self) -> DataLoader[Any]:
            if self.rounds is not None:
                return DataLoader(self.train_data, batch_sampler=self.rounds, collate_fn=image_batch)
            # one order for PaDiM and PatchCore, which read all at once: a seed then means the model's own draws
            shuffle = config.model not in ("padim", "patchcore")
            return DataLoader(
                self.train_data, batch_size, shuffle=shuffle, generator=self.order, collate_fn=image_batch
            )

        def val_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.val_data, config.batch_size, collate_fn=image_batch)

        def test_dataloader(self) -> DataLoader[Any]:
            raise TrainingSetError("training has no test set: pass the test rows to evaluate_detector.")

    return RowsDataModule()


def image_batch(items: Sequence[dict[str, Any]]) -> Any:
    """anomalib's batch of our items."""
    from anomalib.data import ImageBatch

    def stack(name: str) -> Tensor:
        return torch.stack([item[name] for item in items])

    return ImageBatch(
        image=stack("image"),
        gt_mask=stack("gt_mask"),
        gt_label=stack("gt_label"),
        image_path=[item["image_path"] for item in items],
    )


def _rounds(rows: pd.DataFrame, config: DetectConfig, seed: int) -> Rounds:
    """SuperSimpleNet's batches, in as many rounds as its schedule needs."""
    length = -(-config.fixed_steps() // ROUNDS)
    if not learns_from_defects(config.model):
        return Rounds(_normal_batches(len(rows), config.batch_size, seed), length)
    return Rounds(draw_batches(rows["source"].tolist(), config, seed), length)


def _normal_batches(n_rows: int, batch_size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Full batches of rows in random order, every row once before any comes twice."""
    generator = np.random.default_rng(seed)
    waiting = np.empty(0, dtype=np.int64)
    for _ in count():
        while len(waiting) < batch_size:
            waiting = np.concatenate([waiting, generator.permutation(n_rows)])
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]
