"""Object masks learnt from a category's normals; textures recognised as having no background."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from dual_anodiff.config import ObjectsConfig
from dual_anodiff.errors import InputError
from dual_anodiff.images import load_image
from dual_anodiff.objects.card import CARD, read_card
from dual_anodiff.objects.foreground import Mask, PixelModel, border_ratio, fit_pixels, joined, pixel_mask
from dual_anodiff.pictures import picture_size, read_mask

ARRAYS = "objects.npz"
LEARNT_PX = (
    128  # pictures are learnt from at most this large: more costs time and moves no edge by a latent cell
)
MIN_NORMALS = 4  # two to learn the border from, two to ask
# Measured (benchmarks/objects.py): drawn objects reach 0.12, textures begin at 0.24 (a printed board), then 0.42.
TEXTURE_ABOVE = 0.2
LEAST_BACKGROUND = 0.05
LEAST_OBJECT = 0.005
# Aligned: the objects' centres stray by less, in picture widths, and their masks agree with the common one by more.
ALIGNED_STRAY, ALIGNED_IOU = 0.01, 0.9

Kind = Literal["aligned", "placed", "texture", "given"]


@dataclass(frozen=True)
class Objects:
    """What is object in one category's pictures; made by `find_objects`, asked by `object_mask`.

    Shape: fixed (px, px) bool, the mask of an aligned category. A texture has neither that nor a model.
    """

    kind: Kind
    reason: str
    figures: dict[str, float]
    px: int
    fixed: Tensor | None = None
    model: PixelModel | None = None


def find_objects(normals: Sequence[Path], config: ObjectsConfig, *, size_px: int, seed: int) -> Objects:
    """Learn from normals what is object; `config` can say the kind, or name a folder of masks to learn from.

    The same pictures, config and seed give the same result. `size_px` is the side that pictures are worked on.

    Raises: InputError for no normals, a picture that can't be read, or a mask that is missing or does not fit.
    """
    if not normals:
        raise InputError("objects: no normal pictures were given; add some to train/good")
    px = min(size_px, LEARNT_PX)
    if config.kind == "texture":
        return Objects("texture", "said so by hand (objects.kind)", {}, px)
    # Evenly spaced: names often follow time, and all of it should count.
    chosen = sorted(normals)[:: -(-len(normals) // config.max_pictures)]
    images = torch.stack([square(load_image(path), px) for path in chosen])
    if config.masks is not None:
        masks = torch.stack([given_mask(config.masks, path, px) for path in chosen])
        reason = f"masks of {len(chosen)} normals were given (objects.masks)"
        figures = {"object_share": float(masks.float().mean())}
        return Objects("given", reason, figures, px, model=fit_pixels(images, seed, masks))
    if config.kind == "auto" and len(images) < MIN_NORMALS:
        few = f"{len(images)} normal pictures are too few to tell an object from its background ({MIN_NORMALS} needed)"
        return Objects("texture", few, {}, px)

    figures, said = {}, "said so by hand (objects.kind)"
    if config.kind == "auto":
        figures["border_ratio"] = ratio = border_ratio(images, seed)
        if ratio > TEXTURE_ABOVE:
            same = f"the border looks like object {ratio:.2f} times as often as the inside (above {TEXTURE_ABOVE})"
            return Objects("texture", same, figures, px)
    model = fit_pixels(images, seed)
    found = np.stack([pixel_mask(model, image) for image in images])
    figures |= _describe(found)
    share = figures["object_share"]
    if config.kind == "auto" and not LEAST_OBJECT <= share <= 1 - LEAST_BACKGROUND:
        what = "no object stands out" if share < 0.5 else "no background is left to speak of"
        return Objects("texture", f"{what}: it covers {share:.1%} of the picture", figures, px)
    if config.kind == "auto":
        stray, iou = figures["stray"], figures["agreement"]
        aligned = stray <= ALIGNED_STRAY and iou >= ALIGNED_IOU
        said = (
            f"the border looks like object {ratio:.2f} times as often as the inside (up to {TEXTURE_ABOVE}: an object); "
            f"its centre strays by {stray:.1%} of the picture's width, its masks agree by IoU {iou:.2f}"
        )
    else:
        aligned = config.kind == "aligned"
    if aligned:
        return Objects("aligned", said, figures, px, fixed=torch.from_numpy(_common(found)))
    return Objects("placed", said, figures, px, model=model)


def object_mask(objects: Objects, image: Tensor, defect: Tensor | None = None) -> Tensor:
    """The object in any picture of the category. Of a texture all is object.

    `defect` is where a defect is known to be: what of it touches the object belongs to it, whatever it looks like.

    Shape: image (3, h, w) in [-1, 1], defect (h, w) bool → (h, w) bool, on the CPU.
    """
    if objects.kind == "texture":
        return torch.ones(image.shape[1:], dtype=torch.bool)
    if objects.model is None:
        assert objects.fixed is not None
        found = objects.fixed
    else:
        found = torch.from_numpy(pixel_mask(objects.model, square(image.cpu().float(), objects.px)))
    size = (image.shape[1], image.shape[2])
    mask = F.interpolate(found[None, None].float(), size, mode="bilinear", antialias=True)[0, 0] > 0.5
    return mask if defect is None else torch.from_numpy(joined(mask.numpy(), defect.cpu().numpy()))


def given_path(folder: Path, picture: Path) -> Path:
    """The file of the user's own mask of a picture: FOLDER/train/good/NAME.png, FOLDER/good/NAME.png or FOLDER/NAME.png.

    Raises: InputError if there is none.
    """
    names = [f"{picture.stem}{ending}.png" for ending in ("", "_mask")]
    split, label = picture.parts[-3:-1] if len(picture.parts) > 2 else ("", "")
    places = [folder / split / label, folder / label, folder]
    for path in (place / name for place in places for name in names):
        if path.is_file():
            return path
    raise InputError(
        f"objects.masks: {picture} has no mask; looked for {' and '.join(names)} in {', '.join(map(str, places))}"
    )


def given_mask(folder: Path, picture: Path, size_px: int) -> Tensor:
    """The user's own mask of a picture, resized. Shape: (size_px, size_px) bool.

    Raises: InputError if there is none, it can't be read, or its size is not the picture's.
    """
    path = given_path(folder, picture)
    mask, (height, width) = read_mask(path), picture_size(picture)
    if mask.shape != (height, width):
        raise InputError(
            f"{path}: is {mask.shape[1]}x{mask.shape[0]} px, its picture {picture} is {width}x{height} px"
        )
    marked = torch.from_numpy(mask)[None, None].float()
    return F.interpolate(marked, (size_px, size_px), mode="area")[0, 0] > 0.5


def square(image: Tensor, px: int) -> Tensor:
    """A picture in the working square. Shape: (3, h, w) in [-1, 1] → (3, px, px)."""
    return F.interpolate(image[None], (px, px), mode="bilinear", antialias=True)[0].clamp(-1, 1)


def save_objects(objects: Objects, folder: Path) -> None:
    """Write objects.json and objects.npz."""
    arrays = {} if objects.model is None else asdict(objects.model)
    if objects.fixed is not None:
        arrays["fixed"] = objects.fixed
    np.savez_compressed(folder / ARRAYS, **{name: tensor.numpy() for name, tensor in arrays.items()})
    card = {"kind": objects.kind, "reason": objects.reason, "figures": objects.figures, "px": objects.px}
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")


def load_objects(folder: Path) -> Objects:
    """Read what `save_objects` wrote. Raises: InputError if it is missing or broken."""
    card = read_card(folder)
    try:
        with np.load(folder / ARRAYS) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
        fixed = arrays.pop("fixed", None)
        return Objects(**card, fixed=fixed, model=PixelModel(**arrays) if arrays else None)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder}: holds no objects ({error}); find them again") from error


def _describe(masks: Mask) -> dict[str, float]:
    """Share of the picture; spread of the centres, in picture widths; mean IoU with the mask most agree on.

    Shape: (n, px, px).
    """
    common = _common(masks)
    both, either = (masks & common).sum((1, 2)), (masks | common).sum((1, 2))
    filled = [mask for mask in masks if mask.any()]
    centres = np.array([ndimage.center_of_mass(mask) for mask in filled]) / masks.shape[1]
    return {
        "object_share": float(masks.mean()),
        "stray": float(centres.std(0).max()) if filled else 0.0,
        "agreement": float((both / np.maximum(either, 1)).mean()),
    }


def _common(masks: Mask) -> Mask:
    """What is object in most pictures. Shape: (n, h, w) → (h, w)."""
    return np.asarray(masks.mean(0) > 0.5)
