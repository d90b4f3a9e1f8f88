"""One picture as it is handed over: what was read, without tags that would make others read it otherwise.

Bytes are written anew, so that no reader turns the picture, takes its transparency for something else, or finds another
page. A JPEG keeps its own pixels, which no second compression would give back, and loses its EXIF and XMP alone.
"""

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from downstream.errors import PictureError
from downstream.images import read_facts, read_mask, read_size, scale_mask
from downstream.training_sets import PROVENANCE

# Sources whose pictures the run made; all others are the user's own.
MADE = ("generated", "copy-paste", "perlin")
# JPEG segments that hold EXIF or XMP (APP1) and Photoshop's block (APP13), which may turn the picture.
APP1, APP13, START_OF_SCAN = 0xE1, 0xED, 0xDA
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # segments that say how many components there are


@dataclass(frozen=True)
class Picture:
    """One row, read and checked."""

    name: str  # number of the row: unique, where file names of several folders are not
    label: str
    split: str
    pixels: NDArray[np.uint8]  # (h, w, 3)
    jpeg: bytes | None  # the same pixels as the file has them, without tags; None: write a PNG
    mask: NDArray[np.bool_] | None  # (h, w); None: a normal
    provenance: dict[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, px."""
        height, width, _ = self.pixels.shape
        return height, width

    def encoded(self, *, as_png: bool = False) -> tuple[bytes, str]:
        """The file's bytes and its suffix."""
        return (self.jpeg, ".jpg") if self.jpeg is not None and not as_png else (png(self.pixels), ".png")


def pictures(rows: pd.DataFrame) -> Iterator[Picture]:
    """Read and check row after row; pairs that were drawn as squares come in the size of the pictures they are of.

    Raises: PictureError for an unreadable file, or a defect picture whose mask is missing, empty or of other size.
    """
    target = pair_size(rows)
    for i, (row, provenance_row) in enumerate(
        zip(rows.to_dict("records"), provenance(rows).to_dict("records"), strict=True)
    ):
        pixels, facts = read_facts(row["image_path"])
        size, mask = pixels.shape[:2], None
        if row["label_index"]:
            if not row["mask_path"]:
                raise PictureError(f"{row['image_path']}: is labelled anomalous but has no mask. Add one.")
            mask = read_mask(row["mask_path"])
            if mask.shape != size or not mask.any():
                raise PictureError(
                    f"{row['mask_path']}: is empty or not the size of {row['image_path']}. Redraw it."
                )
        plain = facts.pages == 1 and facts.transparent_share == 0
        jpeg = without_tags(Path(row["image_path"]).read_bytes()) if plain else None
        if target is not None and row["source"] in MADE and _is_square(size):
            pixels, mask, jpeg = *scaled(pixels, mask, target), None
        yield Picture(
            name=f"{i:06}",
            label=row["label"] if row["label_index"] else "good",
            split=row.get("split", "train"),
            pixels=pixels,
            jpeg=jpeg,
            mask=mask,
            provenance={str(k): None if pd.isna(v) else v for k, v in provenance_row.items()},
        )


def pair_size(rows: pd.DataFrame) -> tuple[int, int] | None:
    """Height and width to which square pairs are scaled: that of most of the user's own pictures.

    None where pairs need none: there are no own pictures, or some are of that size. Pairs blended into whole pictures
    are of those pictures' size. Raises: PictureError if a picture's head cannot be read.
    """
    made = rows["source"].isin(MADE)
    own = Counter(read_size(path) for path in rows.loc[~made, "image_path"])
    drawn = {read_size(path) for path in rows.loc[made, "image_path"]}
    squares = {size for size in drawn if _is_square(size)}
    if not own or not squares or squares <= set(own):
        return None
    return own.most_common(1)[0][0]


def scaled(
    pixels: NDArray[np.uint8], mask: NDArray[np.bool_] | None, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """A pair in another size; the mask keeps its heaviest pixel. Shape: (h, w, 3), (h, w) → the same in `size`."""
    to = size[::-1]
    image = np.asarray(Image.fromarray(pixels).resize(to, Image.Resampling.BICUBIC))
    if mask is None:
        return image, None
    return image, scale_mask(mask, size)


def _is_square(size: tuple[int, ...]) -> bool:
    return size[0] == size[1]


def without_tags(content: bytes) -> bytes | None:
    """A JPEG without its EXIF, XMP and Photoshop segments, its pixels untouched; None for what is no plain JPEG."""
    if content[:2] != b"\xff\xd8":
        return None
    kept, at = [content[:2]], 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4])
        if marker == START_OF_SCAN:
            return b"".join([*kept, content[at:]])
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in FRAMES and content[at + 9 : at + 10] == b"\x04":
            return None  # CMYK, which readers turn into RGB each in its own way
        if marker not in (APP1, APP13):
            kept.append(content[at : at + 2 + length])
        at += 2 + length
    return None


def png(pixels: NDArray[np.generic]) -> bytes:
    """As a PNG without tags, of one channel where the three are equal. Shape: (h, w, 3) or (h, w)."""
    if pixels.ndim == 3 and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def mask_png(mask: NDArray[np.bool_]) -> bytes:
    """0 and 255, whatever values the original file has."""
    return png(mask.astype(np.uint8) * 255)


def provenance_columns(rows: pd.DataFrame) -> list[str]:
    """Those of PROVENANCE that the rows have."""
    return [name for name in PROVENANCE if name in rows]


def provenance(rows: pd.DataFrame) -> pd.DataFrame:
    """Where each picture is from: source, the PROVENANCE columns, and its path without the place of the data."""
    original = ["/".join(Path(path).parts[-4:]) for path in rows["image_path"]]
    # As objects they are plain numbers, which JSON takes.
    return rows[["source", *provenance_columns(rows)]].astype(object).assign(original=original)
