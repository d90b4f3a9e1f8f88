"""The random streams of a pair, by name: each is drawn from the pair's seed and its own number, and from nothing else."""

from enum import IntEnum

import torch


class Stream(IntEnum):
    """What a stream decides. A pair's first noise is its seed's alone, without a number."""

    BACKGROUND_NOISE = (
        1  # of the background's passes, so that the pair's own noise is that of a pair without one
    )
    BACKGROUND = 2  # which one it gets
    SHOT_LIKENESS = 3  # which shot its defect resembles, at a wished place
    PLACE = 4  # its region's
    PREVIEW = 5  # noise of previews' samplers
    OTHER_NOISE = 6  # in place of its first one, where a preview had no defect in the region
    STRENGTH = 7  # how far it goes from the picture that it starts from


def seeded(*numbers: int) -> torch.Generator:
    """A CPU generator for one purpose, from (run seed, sample or step index, …)."""
    mixed = 0
    for n in numbers:
        mixed = (mixed * 6364136223846793005 + n + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(mixed)
