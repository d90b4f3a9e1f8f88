"""The demo's data set: drawn parts in MVTec AD layout, with exact masks and parameters that `mini` never saw."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dual_anodiff.errors import InputError
from dual_anodiff.images import mask_to_pil, to_pil
from dual_anodiff.procedural import defects, draw, parts


@dataclass(frozen=True)
class DemoCategory:
    """Units: max_turn in radians either way, as parts lie on the line."""

    kind: str
    defect_types: tuple[str, ...]
    max_turn: float


DEMO_CATEGORIES = {
    "nut": DemoCategory("nut", ("scratch", "crack", "paint"), math.pi),
    "plate": DemoCategory("plate", ("scratch", "dent", "contamination"), 0.1),
    "bottle_rim": DemoCategory("bottle rim", ("chip", "crack", "contamination"), math.pi),
    "tile": DemoCategory("tile", ("crack", "stain", "hole"), 0.05),
    "leather": DemoCategory("leather", ("scratch", "stain", "hole"), math.pi),
}


def write_demo_data(
    root: Path,
    *,
    categories: Sequence[str] | None = None,
    num_train: int = 120,
    num_test_good: int = 30,
    num_defects: int = 24,
    size_px: int = 128,
    seed: int = 0,
) -> list[Path]:
    """Draw categories below `root`; one that is there already with the same settings is left alone.

    Returns: the categories' folders.
    Raises: InputError for an unknown category, or a folder in the way that this function did not write.
    """
    names = list(DEMO_CATEGORIES) if categories is None else list(categories)
    unknown = sorted(set(names) - set(DEMO_CATEGORIES))
    if unknown:
        raise InputError(
            f"categories: {', '.join(unknown)} unknown; choose from {', '.join(DEMO_CATEGORIES)}"
        )
    counts = {"num_train": num_train, "num_test_good": num_test_good, "num_defects": num_defects}
    for name in names:
        settings = asdict(DEMO_CATEGORIES[name]) | counts | {"size_px": size_px, "seed": seed, "drawing": 2}
        _write_category(root / name, name, settings)
    return [root / name for name in names]


def _write_category(folder: Path, name: str, settings: dict[str, object]) -> None:
    marker = folder / "drawn.json"
    described = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    if marker.is_file() and marker.read_text() == described:
        return
    if folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"{folder}: holds something else; choose an empty place for the demo data or remove it"
        )
    category = DEMO_CATEGORIES[name]
    size_px, seed = int(str(settings["size_px"])), int(str(settings["seed"]))

    def write(defect: str | None, split: str, count: int) -> None:
        # Seeded by what is drawn, so that one category or defect more changes none of the others.
        generator = _generator(seed, name, defect or "good", split)
        drawn = draw_demo(name, defect, count, generator, size_px=size_px, seed=seed)
        images = folder / split / (defect or "good")
        images.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(drawn.image):
            to_pil(image).save(images / f"{i:03}.png")
        if defect is not None:
            masks = folder / "ground_truth" / defect
            masks.mkdir(parents=True, exist_ok=True)
            for i, mask in enumerate(drawn.mask[:, 0]):
                mask_to_pil(mask).save(masks / f"{i:03}_mask.png")

    write(None, "train", int(str(settings["num_train"])))
    write(None, "test", int(str(settings["num_test_good"])))
    for defect in category.defect_types:
        write(defect, "test", int(str(settings["num_defects"])))
    marker.write_text(described)  # last: its existence means that the rest is whole


def draw_demo(
    name: str,
    defect: str | None,
    count: int,
    generator: torch.Generator,
    *,
    size_px: int = 128,
    seed: int = 0,
) -> draw.Drawn:
    """Pictures of a demo category; `seed` fixes its look. Raises: KeyError for an unknown category or defect."""
    category = DEMO_CATEGORIES[name]
    look = _look(seed, name, count)
    return draw.draw(
        category.kind, defect, look, generator,
        size_px=size_px, max_turn=category.max_turn, size_range=defects.DEMO_SIZE,
    )  # fmt: skip


def _look(seed: int, name: str, count: int) -> draw.Look:
    """One look for the whole category, with shape parameters from the range kept for the demo."""
    one = draw.random_look(1, _generator(seed, name, "look"), parts.DEMO_RANGE)
    return draw.Look(*(t.expand(count, -1) for t in (one.u, one.colour, one.accent, one.table)))


def _generator(seed: int, *names: str) -> torch.Generator:
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
