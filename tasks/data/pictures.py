"""Pictures as files: which of a folder are read, their pixels, and the content hash that names them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dual_anodiff.errors import UnreadableError
from dual_anodiff.pictures import read_mask, read_picture
from tasks.errors import DataError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def load_image(path: Path) -> Image.Image:
    """Read a picture of any usual mode as 8-bit RGB. Raises: DataError, as `read_picture` says why."""
    try:
        return Image.fromarray(read_picture(path))
    except UnreadableError as error:
        raise DataError(str(error)) from error


def load_mask(path: Path) -> NDArray[np.uint8]:
    """Read a mask; defect is 255, the rest 0. Shape: (h, w). Raises: DataError, as `read_mask` says why."""
    try:
        return read_mask(path).astype(np.uint8) * 255
    except UnreadableError as error:
        raise DataError(str(error)) from error


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
