"""Picture sheets: what was generated beside what is real, one sheet a defect type."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tasks.data.pictures import load_image, load_mask

COLUMNS = ("real", "generated image", "anomaly part", "mask", "overlay")
GAP_PX = 6
TITLE_PX = 26
LABEL_PX = 18
# Grey paper, so that white masks and black pictures both stand out.
INK, PAPER, RED = (20, 20, 20), (215, 215, 215), (230, 30, 30)


@dataclass(frozen=True)
class SheetRow:
    """Files of one row; a row without a real picture leaves its cell empty."""

    real: Path | None
    image: Path
    anomaly: Path
    mask: Path
    note: str


def draw_sheet(rows: Sequence[SheetRow], title: str, size_px: int) -> Image.Image:
    """Lay rows of real | generated image | anomaly part | mask | overlay out under labelled columns."""
    width = GAP_PX + len(COLUMNS) * (size_px + GAP_PX)
    row_height = size_px + LABEL_PX
    height = TITLE_PX + LABEL_PX + len(rows) * (row_height + GAP_PX)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP_PX, 4), title, fill=INK, font=ImageFont.load_default(16))
    small = ImageFont.load_default(12)
    for column, name in enumerate(COLUMNS):
        draw.text((GAP_PX + column * (size_px + GAP_PX), TITLE_PX), name, fill=INK, font=small)
    for index, row in enumerate(rows):
        top = TITLE_PX + LABEL_PX + index * (row_height + GAP_PX)
        for column, picture in enumerate(_cells(row)):
            left = GAP_PX + column * (size_px + GAP_PX)
            if picture is not None:
                fitted = fit(picture, size_px)
                inset = ((size_px - fitted.width) // 2, (size_px - fitted.height) // 2)
                sheet.paste(fitted, (left + inset[0], top + inset[1]))
        draw.text((GAP_PX, top + size_px + 2), row.real.name if row.real else "", fill=INK, font=small)
        draw.text((GAP_PX + size_px + GAP_PX, top + size_px + 2), row.note, fill=INK, font=small)
    return sheet


def overlay(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with the mask's inside tinted and its edge drawn in red."""
    inside = np.asarray(mask.convert("L").resize(image.size, Image.Resampling.NEAREST)) > 127
    padded = np.pad(inside, 1)
    surrounded = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    pixels[inside] = 0.75 * pixels[inside] + 0.25 * np.array(RED, dtype=np.float32)
    pixels[inside & ~surrounded] = RED
    return Image.fromarray(pixels.astype(np.uint8))


def fit(image: Image.Image, size_px: int) -> Image.Image:
    """Scale a picture to fit a square, its aspect kept; small ones are enlarged without blur."""
    scale = size_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS)


def _cells(row: SheetRow) -> tuple[Image.Image | None, ...]:
    image, mask = load_image(row.image), Image.fromarray(load_mask(row.mask))
    return (
        load_image(row.real) if row.real else None,
        image,
        load_image(row.anomaly),
        mask.convert("RGB"),
        overlay(image, mask),
    )
