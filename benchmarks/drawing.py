"""How fast the procedural generator draws: `python -m benchmarks.drawing`.

Pictures a second as pretraining draws them (all cores, 128 px), then milliseconds of one core for a block of 16 by
kind and by defect, slowest first.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dual_anodiff.pretrain.corpus import BLOCK, DEFECT_NAMES, KIND_NAMES, suitable_defects, write_corpus
from dual_anodiff.procedural import draw, parts

NUM_PICTURES = 6400


def milliseconds(work: Callable[[], object], repeats: int = 4) -> float:
    """Processor time of one call, after one to warm up: other programs on the machine do not count."""
    work()
    start = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - start) / repeats * 1000


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_corpus(Path(folder), NUM_PICTURES, 128, seed=0)
        seconds = time.perf_counter() - start
    print(f"{NUM_PICTURES / seconds:.0f} pictures/s of 128 px, processes' start and writing included")

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    look = draw.random_look(BLOCK, generator, parts.PRETRAIN_RANGE)
    costs: dict[str, float] = {}
    for kind in KIND_NAMES:
        costs[f"{kind}, good"] = milliseconds(lambda kind=kind: draw.draw(kind, None, look, generator))  # type: ignore[misc]
    for defect in range(1, len(DEFECT_NAMES)):
        kind = next(KIND_NAMES[k] for k in range(len(KIND_NAMES)) if defect in suitable_defects(k))
        name = DEFECT_NAMES[defect]
        costs[f"{kind} with {name}"] = milliseconds(
            lambda kind=kind, name=name: draw.draw(kind, name, look, generator)  # type: ignore[misc]
        )
    for label, cost in sorted(costs.items(), key=lambda item: -item[1]):
        print(f"{cost:6.1f} ms  {label}")


if __name__ == "__main__":
    main()
