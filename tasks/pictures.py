"""Pictures as files: any usual mode in, 8-bit out, and the content hash that names them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tasks.errors import DataError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def load_image(path: Path) -> Image.Image:
    """Read a picture of any usual mode as 8-bit RGB.

    16-bit grey is divided by 257 (65535 → 255), the same for every picture: brightness stays comparable between
    pictures and nothing clips. (Pillow's own `convert` clips at 255.) Alpha is laid over black, because the
    colour under a transparent pixel is left to chance. EXIF rotation is not applied: masks are drawn on the
    stored pixels.
    Raises: DataError if the file is no complete picture, or has a mode without a defined white.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: cannot be read as a picture ({error}); export or copy the file again"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded picture to 8-bit RGB by the rules of `load_image`."""
    if image.mode.startswith("I"):
        return Image.fromarray(_from_16_bit(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined white; save as 8-bit or 16-bit")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    values = pixels.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"values from {values.min()} to {values.max()} exceed 16 bits; save as 8-bit or 16-bit"
        )
    return np.asarray(np.rint(values / 257), dtype=np.uint8)


def load_mask(path: Path) -> NDArray[np.uint8]:
    """Read a mask as 8-bit grey; a pixel above 127 is defect.

    Shape: (h, w). Raises: DataError if the file is no complete picture.
    """
    return np.asarray(load_image(path).convert("L"), dtype=np.uint8)


def picture_files(folder: Path) -> Iterator[Path]:
    """The pictures of one folder, sorted by name; hidden files (macOS leaves `._000.png`) are none."""
    if folder.is_dir():
        for path in sorted(folder.iterdir(), key=lambda path: path.name):
            if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file():
                yield path


def sha256_of(path: Path) -> str:
    """Hash of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
