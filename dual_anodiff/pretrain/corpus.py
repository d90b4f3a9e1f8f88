"""Drawn pictures on disk: drawn once, so that every stage reads the same ones."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dual_anodiff.procedural import draw, parts
from dual_anodiff.procedural.defects import DEFECTS

KIND_NAMES = tuple(parts.KINDS)
DEFECT_NAMES = ("good", *DEFECTS)
BLOCK = 16  # pictures drawn at once: one kind and one defect a block


@dataclass(frozen=True)
class Corpus:
    """Shape: images (n, 3, h, w) uint8; masks (n, h, w) bool; kinds, defects (n,) indices, defect 0 is `good`."""

    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    kinds: NDArray[np.int64]
    defects: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.kinds)

    def batch(self, index: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Pictures in [-1, 1] and their masks. Shape: (b, 3, h, w) and (b, 1, h, w)."""
        image = torch.from_numpy(self.images[index]).float() / 127.5 - 1
        return image, torch.from_numpy(self.masks[index])[:, None].float()

    def caption(self, i: int) -> str:
        return image_caption(int(self.kinds[i]), int(self.defects[i]))


def image_caption(kind: int, defect: int) -> str:
    """The whole picture's caption contains the anomaly's, as DualAnoDiff's nested prompts do."""
    if defect == 0:
        return f"a photo of a {KIND_NAMES[kind]}"
    return f"a photo of a {KIND_NAMES[kind]} with {DEFECT_NAMES[defect]}"


def anomaly_caption(defect: int) -> str:
    """Caption of the anomaly part alone, on mid-grey."""
    return DEFECT_NAMES[defect]


def write_corpus(folder: Path, num_pictures: int, size_px: int, seed: int) -> None:
    """Draw `num_pictures` into `folder`, one third of them good. Continues an interrupted drawing."""
    folder.mkdir(parents=True, exist_ok=True)
    done_file = folder / "corpus.json"
    wanted = {"num_pictures": num_pictures, "size_px": size_px, "seed": seed}
    if done_file.is_file() and json.loads(done_file.read_text()) == wanted:
        return
    shape = (num_pictures, 3, size_px, size_px)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    masks = np.lib.format.open_memmap(
        folder / "masks.npy", mode="w+", dtype=np.bool_, shape=(num_pictures, size_px, size_px)
    )
    choice = np.random.default_rng(seed)
    blocks = (num_pictures + BLOCK - 1) // BLOCK
    kinds = np.repeat(choice.permutation(np.arange(blocks) % len(KIND_NAMES)), BLOCK)[:num_pictures]
    drawn = np.where(choice.random(blocks) < 1 / 3, 0, choice.integers(1, len(DEFECT_NAMES), blocks))
    defects = np.repeat(drawn, BLOCK)[:num_pictures]
    for start in tqdm(range(0, num_pictures, BLOCK), desc="draw", unit="block", mininterval=10):
        n = min(BLOCK, num_pictures - start)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
        look = draw.random_look(n, generator, parts.PRETRAIN_RANGE)
        defect = None if defects[start] == 0 else DEFECT_NAMES[defects[start]]
        picture = draw.draw(KIND_NAMES[kinds[start]], defect, look, generator, size_px=size_px)
        images[start : start + n] = ((picture.image + 1) * 127.5).round().byte().numpy()
        masks[start : start + n] = picture.mask[:, 0].numpy()
    images.flush()
    masks.flush()
    np.save(folder / "kinds.npy", kinds)
    np.save(folder / "defects.npy", defects)
    done_file.write_text(json.dumps(wanted))  # last: its existence means that the rest is whole


def read_corpus(folder: Path) -> Corpus:
    """Load what `write_corpus` wrote: 65 KB a picture."""
    return Corpus(
        np.load(folder / "images.npy"),
        np.load(folder / "masks.npy"),
        np.load(folder / "kinds.npy"),
        np.load(folder / "defects.npy"),
    )
