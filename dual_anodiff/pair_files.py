"""A pair on disk: OUT/image, anomaly and mask/NUMBER.png, written so that a pair with a mask is whole."""

import json
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

KINDS = ("image", "anomaly", "mask")
FACTS = "pair"  # key of the mask file's text that holds what else the pair's row of the table says


def make_folders(out: Path) -> None:
    """The folders that pairs are written into."""
    for kind in KINDS:
        (out / kind).mkdir(parents=True, exist_ok=True)


def file_of(out: Path, kind: str, index: int) -> Path:
    """Where a pair's image, anomaly or mask lies."""
    return out / kind / f"{index:06}.png"


def is_whole(out: Path, index: int) -> bool:
    """Whether a pair has been written to its end."""
    return file_of(out, "mask", index).is_file()


def write_pair(
    out: Path,
    index: int,
    image: Image.Image,
    anomaly: Image.Image,
    mask: Image.Image,
    facts: dict[str, Any] | None = None,
) -> None:
    """Write one pair. `facts`: JSON values that `row_of` gives back, so that a resumed run need not draw it again."""
    info = PngInfo()
    if facts is not None:
        info.add_text(FACTS, json.dumps(facts))
    for kind, picture in zip(KINDS, (image, anomaly, mask), strict=True):
        # The mask comes last and is renamed into place.
        staged = file_of(out, kind, index).with_suffix(".part")
        # Level 1: a third of the time of the default on 20 megapixels, and hardly larger.
        picture.save(staged, format="PNG", pnginfo=info if kind == "mask" else None, compress_level=1)
        staged.replace(staged.with_suffix(".png"))


def row_of(out: Path, index: int, seed: int) -> dict[str, Any]:
    """A pair's row: index, seed, paths relative to `out`, mask_area_px, mask_share, and its facts."""
    with Image.open(file_of(out, "mask", index)) as mask:
        area, pixels = mask.histogram()[255], mask.width * mask.height
        facts = json.loads(mask.text.get(FACTS, "{}"))  # type: ignore[attr-defined]
    paths = {f"{kind}_path": f"{kind}/{index:06}.png" for kind in KINDS}
    return {"index": index, "seed": seed, **paths, "mask_area_px": area, "mask_share": area / pixels, **facts}
