"""How many steps to train: a score on pictures held out, followed over the steps, and the best number of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

# Between two looks; finer steps differ by less than one training from the next.
FACTOR = 2**0.5
# A training that was not better for so many looks, twice as many steps, is past its best.
PATIENCE = 2
# Before this share of the steps it goes on all the same: the first scores of a handful of pictures jump. On magnetic tiles
# one fold was best at the first of nine looks, and the other at the fourth.
LEAST = 1 / 4


@dataclass
class Curve:
    """Where a training is to be scored, and the scores so far."""

    steps: Sequence[int]
    scores: dict[int, float] = field(default_factory=dict)

    def add(self, step: int, score: float) -> bool:
        """Take down one score; whether the training is past its best and may end."""
        self.scores[step] = score
        best = max(self.scores, key=lambda each: (self.scores[each], -each))
        return step >= LEAST * self.steps[-1] and sum(each > best for each in self.scores) >= PATIENCE


def steps_to_try(fewest: int, most: int) -> list[int]:
    """Numbers of steps between the two, both among them, each about √2 times the one before."""
    count = max(1, math.ceil(math.log(most / fewest) / math.log(FACTOR))) if most > fewest else 0
    return sorted({round(fewest * (most / fewest) ** (i / max(1, count))) for i in range(count + 1)})


def best_steps(steps: Sequence[int], folds: Sequence[Mapping[int, float]]) -> int:
    """The number of steps that is best over the folds, the fewest of equals.

    A fold that ended early keeps its last score, which lies below its best. Means over folds are smoothed with their
    neighbours (¼, ½, ¼): of a handful of pictures a single high score is chance. Raises: ValueError without folds.
    """
    if not folds:
        raise ValueError("no fold: nothing to choose the number of steps by")
    table = np.empty((len(folds), len(steps)))
    for row, scores in zip(table, folds, strict=True):
        last = float("nan")
        for column, step in enumerate(steps):
            last = scores.get(step, last)
            row[column] = last
    mean = np.pad(table.mean(0), 1, mode="edge")
    smooth = mean[:-2] / 4 + mean[1:-1] / 2 + mean[2:] / 4
    return int(steps[int(smooth.argmax())])
