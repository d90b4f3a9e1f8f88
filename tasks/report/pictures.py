"""Pictures within a page: WebP at the size they are shown in, as small as the page's budget asks for."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

# The least bad first: a little less quality shows less than fewer pixels.
LADDER = ((72, 1.0), (55, 1.0), (40, 1.0), (40, 0.75), (30, 0.6), (25, 0.45))


@dataclass(frozen=True)
class Picture:
    """A picture that a page holds."""

    url: str  # data:…
    width: int
    height: int
    alt: str
    caption: str = ""


def within(pictures: Sequence[tuple[Image.Image, str, str]], budget_bytes: int) -> list[Picture]:
    """Pictures with their alt texts and captions, all coarser alike where they would take more than the budget.

    The last rung is taken whatever it takes.
    """
    for quality, scale in LADDER:
        sizes = [(max(1, round(i.width * scale)), max(1, round(i.height * scale))) for i, _, _ in pictures]
        files = [
            _encoded(image if scale == 1 else image.resize(size, Image.Resampling.LANCZOS), quality)
            for (image, _, _), size in zip(pictures, sizes, strict=True)
        ]
        if sum(4 * len(file) // 3 for file in files) <= budget_bytes:
            break
    return [
        _picture(file, image, alt, caption)
        for file, (image, alt, caption) in zip(files, pictures, strict=True)
    ]


def _encoded(image: Image.Image, quality: int) -> bytes:
    data = io.BytesIO()
    image.convert("RGB").save(data, "WEBP", quality=quality, method=4)
    return data.getvalue()


def _picture(file: bytes, shown: Image.Image, alt: str, caption: str) -> Picture:
    url = "data:image/webp;base64," + base64.b64encode(file).decode()
    return Picture(url, shown.width, shown.height, alt, caption)
