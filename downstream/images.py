"""Pictures and masks from files to square tensors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from downstream.errors import PictureError
from dual_anodiff import pictures
from dual_anodiff.errors import UnreadableError


def read_facts(path: str | Path) -> tuple[NDArray[np.uint8], pictures.Facts]:
    """Read any picture as 8-bit RGB, and what its file says beside. Shape: (h, w, 3). Raises: PictureError."""
    try:
        return pictures.examine_picture(path)
    except UnreadableError as error:
        raise PictureError(str(error)) from error


def read_size(path: str | Path) -> tuple[int, int]:
    """Height and width, px, from the file's head alone. Raises: PictureError."""
    try:
        return pictures.picture_size(path)
    except UnreadableError as error:
        raise PictureError(str(error)) from error


def read_image(path: str | Path) -> NDArray[np.float32]:
    """Read any picture as RGB. Shape: (h, w, 3). Units: 0..1. Raises: PictureError if the file cannot be read."""
    return read_facts(path)[0].astype(np.float32) / np.float32(255)


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """Read a defect mask. Shape: (h, w). Raises: PictureError if the file cannot be read, or in more than one way."""
    try:
        return pictures.read_mask(path)
    except UnreadableError as error:
        raise PictureError(str(error)) from error


def resize_image(image: NDArray[np.float32], size_px: int) -> Tensor:
    """Squeeze a picture into a square, antialiased.

    Shape: (h, w, 3) → (3, size_px, size_px). Units: 0..1 → uint8 0..255.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]  # (1, 3, h, w)
    if pixels.shape[-2:] != (size_px, size_px):
        pixels = F.interpolate(
            pixels, (size_px, size_px), mode="bilinear", antialias=True, align_corners=False
        )
    return (pixels[0] * 255).round().clamp(0, 255).to(torch.uint8)


def resize_mask(mask: NDArray[np.bool_], size_px: int) -> Tensor:
    """Squeeze a mask into a square so that a cell is defect as soon as it touches one defect pixel.

    A crack one pixel wide survives any reduction, which nearest neighbour does not grant; the price is an
    edge up to one cell further out. Shape: (h, w) bool → (1, size_px, size_px) bool.
    """
    cells = torch.from_numpy(np.ascontiguousarray(mask)).float()[None]
    if cells.shape[-2:] != (size_px, size_px):
        cells = F.adaptive_max_pool2d(cells, (size_px, size_px))
    return cells > 0


def scale_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A drawn pair's mask in another size, by the rule that both libraries share. Shape: (h, w) → size."""
    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR))
    return np.asarray(pictures.mask_from_share(share, pictures.DRAWN_SHARE))


def load_pictures(
    image_paths: Sequence[str], mask_paths: Sequence[str], label_index: Sequence[int], size_px: int
) -> tuple[Tensor, Tensor]:
    """Read pictures and masks once, at training size: 1,000 of 256 px take 0.26 GB as bytes.

    Shape: images (n, 3, size_px, size_px) uint8, masks (n, 1, size_px, size_px) bool.
    Raises: PictureError for an unreadable file, or an anomalous picture whose mask is missing, empty or of
    other size.
    """
    images = torch.zeros((len(image_paths), 3, size_px, size_px), dtype=torch.uint8)
    masks = torch.zeros((len(image_paths), 1, size_px, size_px), dtype=torch.bool)
    for i, (image_path, mask_path, anomalous) in enumerate(
        zip(image_paths, mask_paths, label_index, strict=True)
    ):
        image = read_image(image_path)
        images[i] = resize_image(image, size_px)
        if not anomalous:
            continue
        masks[i] = resize_mask(_mask_of(image, image_path, mask_path), size_px)
    return images, masks


def read_pair(image_path: str, mask_path: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A defect picture and its mask at their own size. Raises: PictureError as load_pictures.

    Shape: (h, w, 3) in 0..1, (h, w).
    """
    image = read_image(image_path)
    return image, _mask_of(image, image_path, mask_path)


def _mask_of(image: NDArray[np.float32], image_path: str, mask_path: str) -> NDArray[np.bool_]:
    """The mask of an anomalous picture. Raises: PictureError if it is missing, empty or of other size."""
    if not mask_path:
        raise PictureError(
            f"{image_path}: is labelled anomalous but has no mask. Add one or leave the row out."
        )
    mask = read_mask(mask_path)
    if mask.shape != image.shape[:2]:
        raise PictureError(
            f"{mask_path}: is {_size(mask)}, its picture {image_path} {_size(image)}. Redraw it."
        )
    if not mask.any():
        raise PictureError(f"{mask_path}: holds no defect pixel, but {image_path} is labelled anomalous.")
    return mask


def load_rows(rows: pd.DataFrame, size_px: int) -> tuple[Tensor, Tensor]:
    """load_pictures of a table with image_path, mask_path and label_index."""
    return load_pictures(
        rows["image_path"].tolist(), rows["mask_path"].tolist(), rows["label_index"].tolist(), size_px
    )


def _size(array: NDArray[np.generic]) -> str:
    """Width × height, as picture viewers show it."""
    return f"{array.shape[1]}×{array.shape[0]} px"


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x − mean) / std per channel. Shape: (b, 3, h, w). Units: 0..1 in."""
    shape = (1, 3, 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)
