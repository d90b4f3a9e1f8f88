"""Pictures with defects on disk, drawn ones and photographs: made once, so that every stage reads the same ones."""

import json
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dual_anodiff.pretrain.photographs import SURFACES, Photographs, crops
from dual_anodiff.pretrain.stage import HELD_OUT
from dual_anodiff.procedural import defects, draw, parts, photographs

KIND_NAMES = tuple(parts.KINDS)
NAMES = KIND_NAMES + SURFACES  # of drawn kinds, then of photographs
DEFECT_NAMES = ("good", *defects.DEFECTS)
BLOCK = 16  # pictures drawn at once: one kind and one defect a block
GOOD_SHARE = 0.25
ZOOM, SHIFT = (0.88, 1.08), 0.06


@dataclass(frozen=True)
class Corpus:
    """Shape: images (n, 3, h, w) uint8; masks (n, h, w) bool; kinds, defects (n,) indices, defect 0 is `good`."""

    images: Tensor
    masks: Tensor
    kinds: Tensor
    defects: Tensor

    def __len__(self) -> int:
        return len(self.kinds)

    def to(self, device: str) -> "Corpus":
        return Corpus(*(getattr(self, f.name).to(device) for f in fields(self)))

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures in [-1, 1] and their masks. Shape: (b, 3, h, w) and (b, 1, h, w)."""
        return self.images[index].float() / 127.5 - 1, self.masks[index][:, None].float()

    def with_defect(self) -> "Corpus":
        """Its pictures that show a defect, but for those held out."""
        shown = self.defects > 0
        shown[-HELD_OUT:] = False
        return Corpus(*(getattr(self, f.name)[shown] for f in fields(self)))

    def caption(self, i: int) -> str:
        return image_caption(int(self.kinds[i]), int(self.defects[i]))


def image_caption(kind: int, defect: int) -> str:
    """The whole picture's caption contains the anomaly's, as DualAnoDiff's nested prompts do."""
    if defect == 0:
        return f"a photo of a {NAMES[kind]}"
    return f"a photo of a {NAMES[kind]} with {DEFECT_NAMES[defect]}"


def anomaly_caption(defect: int) -> str:
    """Caption of the anomaly part alone, on mid-grey."""
    return DEFECT_NAMES[defect]


def write_corpus(
    folder: Path,
    num_pictures: int,
    size_px: int,
    seed: int,
    *,
    real: Photographs | None = None,
    real_share: float = 0.5,
) -> None:
    """Draw `num_pictures` into `folder`, a quarter of them good, on all cores; nothing if they are there already.

    `real_share` of them, in [0, 1], are photographs, most with a defect drawn onto them. The held-out pictures at the end
    are of held-out photographs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done_file = folder / "corpus.json"
    wanted = {
        "num_pictures": num_pictures, "size_px": size_px, "seed": seed, "kinds": NAMES, "defects": DEFECT_NAMES,
        "real": None if real is None else real.digest, "real_share": None if real is None else real_share,
    }  # fmt: skip
    text = json.dumps(wanted)
    if done_file.is_file() and done_file.read_text() == text:
        return
    count = (num_pictures + BLOCK - 1) // BLOCK
    rng = np.random.default_rng(seed)
    blocks = _choose_blocks(count, rng)
    if real is not None:
        blocks = [_real_block(real, rng) if rng.random() < real_share else block for block in blocks]
    images = np.empty((num_pictures, 3, size_px, size_px), np.uint8)
    masks = np.empty((num_pictures, size_px, size_px), np.bool_)
    first_held_out = (num_pictures - HELD_OUT) // BLOCK
    work = partial(draw_block, size_px=size_px, seed=seed, real=real, first_held_out=first_held_out)
    # "spawn": a fork of a process whose torch threads have run may hang in the child.
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), initializer=_one_thread) as pool:
        drawn = pool.imap(work, [(i, k, d) for i, (k, d) in enumerate(blocks)], chunksize=4)
        for i, (image, mask) in enumerate(
            tqdm(drawn, total=len(blocks), desc="draw", unit="block", mininterval=10)
        ):
            at = slice(i * BLOCK, min((i + 1) * BLOCK, num_pictures))
            images[at], masks[at] = image[: at.stop - at.start], mask[: at.stop - at.start]
    kinds, found = (np.repeat([b[j] for b in blocks], BLOCK)[:num_pictures] for j in (0, 1))
    for name, array in (("images", images), ("masks", masks), ("kinds", kinds), ("defects", found)):
        np.save(folder / f"{name}.npy", array)
    done_file.write_text(text)  # last: its existence means that the rest is whole


def _choose_blocks(count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Kind and defect of each block: kinds equally often, a quarter good, else a defect that suits the kind."""
    chosen = []
    for kind in rng.permutation(np.arange(count) % len(KIND_NAMES)):
        suited = suitable_defects(int(kind))
        defect = 0 if rng.random() < GOOD_SHARE else int(rng.choice(suited))
        chosen.append((int(kind), defect))
    return chosen


def _real_block(real: Photographs, rng: np.random.Generator) -> tuple[int, int]:
    """Surface and defect of a block of photographs: surfaces by the root of their number, defects equally often."""
    words = sorted(real.files)
    weights = np.sqrt([len(real.files[word]) for word in words])
    kind = NAMES.index(words[rng.choice(len(words), p=weights / weights.sum())])
    return kind, 0 if rng.random() < GOOD_SHARE else int(rng.choice(suitable_defects(kind)))


def suitable_defects(kind: int) -> Sequence[int]:
    """The defects, as indices into `DEFECT_NAMES`, that a kind can have."""
    if kind >= len(KIND_NAMES):
        return [DEFECT_NAMES.index(name) for name in photographs.DEFECTS]
    return [
        i for i, name in enumerate(DEFECT_NAMES) if i and NAMES[kind] in defects.SUITS[name]
    ]  # fmt: skip


def _one_thread() -> None:
    torch.set_num_threads(1)


def draw_block(
    block: tuple[int, int, int],
    *,
    size_px: int,
    seed: int,
    real: Photographs | None = None,
    first_held_out: int = 0,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw block (number, kind, defect). Shape: (16, 3, h, w) uint8 and (16, h, w) bool.

    Of a surface the photographs are `real`'s, held-out ones from block `first_held_out` on.
    """
    number, kind, defect = block
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    name = None if defect == 0 else DEFECT_NAMES[defect]
    if kind < len(KIND_NAMES):
        look = draw.random_look(BLOCK, generator, parts.PRETRAIN_RANGE)
        drawn = draw.draw(
            NAMES[kind], name, look, generator, size_px=size_px, zoom_range=ZOOM, max_shift=SHIFT
        )
        image, mask = drawn.image, drawn.mask
    else:
        assert real is not None
        files = (real.held_out if number >= first_held_out else real.files)[NAMES[kind]]
        image = photographs.relight(crops(files, BLOCK, size_px, generator), generator)
        mask = torch.zeros(BLOCK, 1, size_px, size_px, dtype=torch.bool)
        if name is not None:
            image, mask = photographs.draw_onto(image, name, generator)
    return ((image + 1) * 127.5).round().byte().numpy(), mask[:, 0].numpy()


def read_corpus(folder: Path) -> Corpus:
    """Load what `write_corpus` wrote into memory: 65 KB a picture of 128 px."""
    return Corpus(*(torch.from_numpy(np.load(folder / f"{f.name}.npy")) for f in fields(Corpus)))
