"""Which pictures go into each training batch: a seeded, endless draw."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from downstream.config import LocalizeConfig
from downstream.errors import TrainingSetError


def draw_batches(sources: Sequence[str], config: LocalizeConfig, seed: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers of batch after batch: normal_share normals; of the rest, real_share real defects.

    `sources` says for each training row "normal", "real", or how its pair was made. Within a source every row comes
    once before any comes twice. Shares hold on average over batches (a batch of 8 with a share of .3
    alternates 2 and 3), and a handful of real defects is not drowned by hundreds of generated ones. Raises:
    TrainingSetError if there is no anomalous row, or no normal one although normal_share asks for some.
    """
    # Copied, Perlin and generated pairs are drawn alike: a training set has one of the three at most.
    kinds = np.array([source if source in ("normal", "real") else "generated" for source in sources])
    of = {name: np.flatnonzero(kinds == name) for name in ("normal", "real", "generated")}
    if len(of["real"]) + len(of["generated"]) == 0:
        raise TrainingSetError("training rows hold no anomalous picture: nothing to learn from.")
    if len(of["normal"]) == 0 and config.normal_share > 0:
        raise TrainingSetError(
            "training rows hold no normal picture: add normals or set localize.normal_share to 0."
        )
    anomalous = 1 - config.normal_share
    real_share = config.real_share if len(of["generated"]) else 1.0
    real_share = real_share if len(of["real"]) else 0.0
    share = {
        "normal": config.normal_share,
        "real": anomalous * real_share,
        "generated": anomalous * (1 - real_share),
    }
    generator = np.random.default_rng(seed)
    rows = {name: _shuffled_rounds(indices, generator) for name, indices in of.items() if len(indices)}
    owed = dict.fromkeys(share, 0.0)
    while True:
        batch = []
        for _ in range(config.batch_size):
            # The source that is furthest behind its share comes next; ties go to the first.
            for name in owed:
                owed[name] += share[name]
            name = max(owed, key=owed.__getitem__)
            owed[name] -= 1
            batch.append(next(rows[name]))
        yield np.asarray(batch, dtype=np.int64)


def _shuffled_rounds(indices: NDArray[np.int64], generator: np.random.Generator) -> Iterator[int]:
    """All indices in random order, again and again."""
    while True:
        yield from generator.permutation(indices).tolist()
