"""The one reader of pictures and of masks: check, generator, trainers, sheets and hand-over all read through it.

`downstream` reads through it too, the one module that the two libraries share (docs/decisions.md, The one reader); it
knows Pillow and numpy, and nothing else of ours but the errors.

Files are read as they are stored: a tag that turns the picture (EXIF, TIFF) is not applied, for masks are drawn on the
stored pixels. Of several pages the first is read. Where a mask could be read in two ways it is refused.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from scipy.ndimage import maximum_filter, minimum_filter

from dual_anodiff.errors import UnreadableError

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

ORIENTATION = 0x0112  # the same tag in EXIF and in TIFF
# Pillow turns TIFFs by itself when it loads them; these turn them back.
TURN_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
SIDEWAYS = (5, 6, 7, 8)
# As RGB a picture of this size takes 0.9 GB, as floats 3.6 GB; line scans of 200 megapixels are in use.
MAX_MEGAPIXELS = 300.0
MAX_MEGAPIXELS_VARIABLE = "ANODIFF_MAX_MEGAPIXELS"
# Of a mask's brightest value: what is at most so bright is background, what is at most so far from the defects' colour
# is defect. Between them lie edges; anything else between them is a grey or a colour of its own.
NEAR = 1 / 8
FLAT = 4 / 255
# In another size a pixel is marked from such a share of it on: of a shot, whose scratches are thin, and of a drawn pair.
SHOT_SHARE, DRAWN_SHARE = 0.25, 0.5
WHITE = "save it with defects white (255), all else black (0), without alpha"
# What Pillow raises for files that are broken, cut short or no pictures; ValueError and SyntaxError from its parsers.
BROKEN = (OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, struct.error, zlib.error)

_pillow_limit = Lock()


@dataclass(frozen=True)
class Facts:
    """What is known of a picture beside its pixels."""

    width_px: int
    height_px: int
    orientation: int  # 1: as stored; the tag that viewers turn the picture by
    pages: int
    bits: int  # of grey: 8 or 16
    transparent_share: float  # of its pixels, read as black
    brightest: float  # share of the range, 0..1


def read_picture(path: str | Path) -> Pixels:
    """Read any picture as 8-bit RGB. Shape: (h, w, 3).

    16-bit grey is divided by 257, the same for every picture, so that brightness means the same in each. What is
    transparent becomes black, for the colour under it is left to chance.
    Raises: UnreadableError if the file is missing, broken, larger than `max_megapixels`, or has no defined white.
    """
    return examine_picture(path)[0]


def examine_picture(path: str | Path) -> tuple[Pixels, Facts]:
    """`read_picture`, and what a check tells of the file. Raises: UnreadableError."""
    with _stored(path, "picture") as (image, orientation, pages):
        pixels, alpha = _rgb(path, image), _alpha(image)
        bits = 16 if image.mode.startswith("I") else 8
    transparent = 0.0
    if alpha is not None and alpha.min() < 255:
        transparent = float((alpha < 255).mean())
        pixels = ((pixels.astype(np.uint32) * alpha[..., None] + 127) // 255).astype(np.uint8)
    height, width, _ = pixels.shape
    facts = Facts(width, height, orientation, pages, bits, transparent, int(pixels.max(initial=0)) / 255)
    return pixels, facts


def picture_size(path: str | Path) -> tuple[int, int]:
    """Height and width of the stored pixels, from the file's head alone. Raises: UnreadableError."""
    with _opened(path, "picture") as (image, orientation, _):
        turned = isinstance(image, TiffImageFile) and orientation in SIDEWAYS
        return (image.width, image.height) if turned else (image.height, image.width)


def read_mask(path: str | Path) -> Mask:
    """Read a mask of any mode: the brightest is defect, black is not. Shape: (h, w).

    Whatever the brightest value is (1, 248, 255, 65535), and whatever index of a palette has it. Edges that were
    smoothed are cut at half of it. A mask may mark nothing.
    Raises: UnreadableError if the file is missing, broken or too large, or could be read in more than one way: several
    greys or colours with an area of their own, nothing black, transparency that says otherwise, several pages.
    """
    with _stored(path, "mask") as (image, _, pages):
        if pages > 1:
            raise UnreadableError(path, f"has {pages} pages; which is the mask?", f"{WHITE}, one page")
        levels, alpha = _levels(path, image), _alpha(image)
    if alpha is None or alpha.min() == 255:
        return _marked(path, levels)
    colours = _marked(path, levels)
    seen = _marked(path, levels * (alpha / np.float32(255)).reshape(alpha.shape + (1,) * (levels.ndim - 2)))
    if not (colours == seen).all() or (alpha.max() > alpha.min() and not seen.any()):
        what = f"its colours mark {colours.sum()} px, and {seen.sum()} px without what is transparent"
        raise UnreadableError(path, what, WHITE)
    return seen


def mask_from_share(share: Any, least: float) -> Any:
    """The one rule for a mask in another size: a pixel is marked from this share of it on, and the heaviest always is.

    So a scratch thinner than a pixel survives; an empty mask stays empty. `share`: an array or a tensor of the pixels'
    marked shares, 0 to 1; `least`: SHOT_SHARE or DRAWN_SHARE. Shape: as `share`, bool.
    """
    return (share >= min(least, float(share.max()))) & (share > 0)


def max_megapixels() -> float:
    """The largest picture that is read; ANODIFF_MAX_MEGAPIXELS sets it. Raises: UnreadableError if that is no number."""
    text = os.environ.get(MAX_MEGAPIXELS_VARIABLE, "")
    try:
        limit = float(text) if text else MAX_MEGAPIXELS
    except ValueError:
        limit = -1.0
    if not limit > 0:
        raise UnreadableError(MAX_MEGAPIXELS_VARIABLE, f"is {text!r}", "set it to a number of megapixels")
    return limit


@contextmanager
def _stored(path: str | Path, kind: str) -> Iterator[tuple[Image.Image, int, int]]:
    """The decoded picture as it is stored, its orientation tag (1: none), its number of pages."""
    with _opened(path, kind) as (image, orientation, pages):
        megapixels, limit = image.width * image.height / 1e6, max_megapixels()
        if megapixels > limit:
            what = f"has {megapixels:.0f} megapixels, more than {limit:g}"
            raise UnreadableError(path, what, f"cut it, or set {MAX_MEGAPIXELS_VARIABLE} higher")
        image.load()
        turned = isinstance(image, TiffImageFile) and orientation in TURN_BACK
        info = image.info
        stored = image.transpose(TURN_BACK[orientation]) if turned else image
        stored.info = info
        yield stored, orientation, pages


@contextmanager
def _opened(path: str | Path, kind: str) -> Iterator[tuple[Image.Image, int, int]]:
    """The file opened; whatever is wrong with it, here or where it is decoded, becomes an UnreadableError."""
    try:
        # As a file, not by name: by name Pillow 12.3 maps plain TIFFs into memory, and scrambles those that lie sideways.
        with Path(path).open("rb") as file:
            with _pillow_limit:
                # Pillow's own limit is one for the whole process, and no file of ours is "an attack".
                before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
                try:
                    image = Image.open(file)
                    pages = int(getattr(image, "n_frames", 1))
                    orientation = image.getexif().get(ORIENTATION, 1)
                finally:
                    Image.MAX_IMAGE_PIXELS = before
            yield image, orientation if orientation in TURN_BACK else 1, pages
    except UnreadableError:
        raise
    except BROKEN as error:
        why = "of no kind that is known" if isinstance(error, UnidentifiedImageError) else error
        what = f"cannot be read as a {kind} ({why})"
        raise UnreadableError(path, what, "export or copy the file again") from error


def _rgb(path: str | Path, image: Image.Image) -> Pixels:
    """Colours, whatever is transparent. Shape: (h, w, 3)."""
    if image.mode == "F":
        what = "has floating-point pixels, which have no defined white"
        raise UnreadableError(path, what, "save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return np.asarray(image.convert("RGBA").convert("RGB") if _has_alpha(image) else image.convert("RGB"))
    values = np.asarray(image)
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        what = f"has values from {values.min()} to {values.max()}, more than 16 bits"
        raise UnreadableError(path, what, "save it with 8 or 16 bits")
    grey = np.rint(values / np.float32(257)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _has_alpha(image: Image.Image) -> bool:
    return "transparency" in image.info or bool({"A", "a"} & set(image.getbands()))


def _alpha(image: Image.Image) -> Pixels | None:
    """How opaque each pixel is; None where the file does not say. Shape: (h, w), 0..255."""
    if not _has_alpha(image):
        return None
    if image.mode.startswith("I") or image.mode == "F":
        clear = np.asarray(image) == image.info["transparency"]
        return np.where(clear, 0, 255).astype(np.uint8)
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _levels(path: str | Path, image: Image.Image) -> NDArray[Any]:
    """A mask's values in the file's own range. Shape: (h, w), or (h, w, 3) if it has colours."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if not np.isfinite(values).all() or values.min(initial=0) < 0:
            raise UnreadableError(path, "has values below 0 or none at all", WHITE)
        return values
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    colours = _rgb(path, image)
    grey = (colours[..., :1] == colours).all()
    return colours[..., 0] if grey else colours


def _marked(path: str | Path, levels: NDArray[Any]) -> Mask:
    """What a mask's values mark. Shape: (h, w) or (h, w, 3) → (h, w). Raises: UnreadableError where that is unclear."""
    bright = levels if levels.ndim == 2 else levels.max(-1)
    top, low = bright.max(), bright.min()
    if top == 0:
        return np.zeros(bright.shape, bool)
    if low == top and top in (255, 65535) and levels.ndim == 2:
        return np.ones(bright.shape, bool)
    if low > top * NEAR:
        found = f"only {low}" if low == top else f"values from {low} to {top}"
        raise UnreadableError(path, f"has {found} and nothing black; which is the defect?", WHITE)
    others = _others(levels, bright, float(top))
    if others:
        what = (
            f"has areas of {len(others)} kinds beside black ({', '.join(others[:4])}); which are the defect?"
        )
        raise UnreadableError(path, what, WHITE)
    return np.asarray(bright > top / 2)


def _others(levels: NDArray[Any], bright: NDArray[Any], top: float) -> list[str]:
    """The greys or colours of areas, if there are others than black and the defects' own; else none.

    An area is 3 px wide and flat, which no smoothed edge is. Shape: levels (h, w) or (h, w, 3), bright (h, w).
    """
    between = (bright > top * NEAR) & (bright < top * (1 - NEAR))
    if levels.ndim == 2 and not between.any():
        return []
    values = levels.reshape(*bright.shape, -1).astype(np.float32)
    defect = values[bright >= top * (1 - NEAR)].mean(0)
    odd = (bright > top * NEAR) & (np.abs(values - defect) > top * NEAR).any(-1)
    if not odd.any():
        return []
    for channel in np.moveaxis(values, -1, 0):
        spread = maximum_filter(channel, 3, mode="nearest") - minimum_filter(channel, 3, mode="nearest")
        odd &= spread <= top * FLAT
    if not odd.any():
        return []
    kinds = np.unique(np.concatenate([values[odd], values[bright == bright.max()]]).round(), axis=0)
    return [str(kind[0].item()) if len(kind) == 1 else str(tuple(int(x) for x in kind)) for kind in kinds]
