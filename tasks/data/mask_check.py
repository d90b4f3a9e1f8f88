"""Faults of a category's masks: missing, of other size, empty, unclear, of a good picture, or only called otherwise."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dual_anodiff.errors import UnreadableError
from dual_anodiff.pictures import SIDEWAYS, Facts, read_mask
from tasks.data.faults import Fault
from tasks.data.pictures import picture_files
from tasks.data.samples import Listed, find_masks, label_folders, plain_name

# magnetic_tile has masks of 1 and 3 pixels, left over from labelling; its smallest real one has more than 16.
FEW_MASK_PX = 16
INVERTED_MASK_SHARE = 0.9
# What other tools put before or after a picture's name to call its mask.
ADDED = re.compile(
    r"^(mask|gt|label|seg)[-_. ]+|[-_. ]*(mask|gt|groundtruth|ground_truth|labels?|seg|segmentation|anno)$"
)


def check_masks(folder: Path, listed: Sequence[Listed], facts: Mapping[Path, Facts]) -> Iterator[Fault]:
    """Every fault of the masks of one category; `facts` are those of the pictures that could be read."""
    used = {each.mask for each in listed}
    truth = label_folders(folder / "ground_truth")
    unused = {
        label: [m for m in find_masks(places).values() if m not in used] for label, places in truth.items()
    }
    hinted: set[Path] = set()
    for picture in listed:
        if picture.label == "good":
            yield from _check_good(picture)
        elif picture.mask is not None:
            yield from _check_mask(picture.mask, facts.get(picture.image))
        elif picture.label.casefold() != "good":
            expected = folder / "ground_truth" / picture.label / f"{picture.image.stem}_mask.png"
            other = _mask_meant(picture, unused.get(picture.label, []))
            if other is not None:
                hinted.add(other)
            yield _missing(picture, other, expected, folder, sorted(truth))
    for masks in unused.values():
        for mask in masks:
            if mask not in hinted:
                yield Fault("warning", mask, "mask without a picture", "remove it, or add the picture")


def _mask_meant(picture: Listed, unused: Sequence[Path]) -> Path | None:
    """The mask that is there under another name, if one is."""
    return next((mask for mask in unused if _core(plain_name(Path(mask.stem))) == _core(picture.stem)), None)


def _core(stem: str) -> str:
    return ADDED.sub("", stem.casefold())


def _missing(
    picture: Listed, other: Path | None, expected: Path, folder: Path, truth: Sequence[str]
) -> Fault:
    """What to do about a picture without a mask, by what lies where it is looked for."""
    place = expected.relative_to(folder).as_posix()
    if other is not None:
        what = f"mask missing; {other.name} looks like the mask of {picture.image.name}"
        return Fault(
            "error", picture.image, what, f"rename it to {expected.with_suffix(other.suffix.lower()).name}"
        )
    parts = list(picture_files(expected.parent / picture.image.stem))
    if parts:
        what = f"mask missing; the folder {expected.parent.name}/{picture.image.stem} holds {len(parts)} in its stead"
        return Fault("error", picture.image, what, f"merge them, the brightest of each pixel, into {place}")
    if picture.label not in truth:
        near = [label for label in truth if _core(label) == _core(picture.label)]
        if near:
            what = f"mask missing; ground_truth has {near[0]}, but no {picture.label}"
            return Fault("error", picture.image, what, f"rename that folder to {picture.label}")
    return Fault("error", picture.image, "mask missing", f"draw {place} or remove the picture")


def _check_good(picture: Listed) -> Iterator[Fault]:
    """A good picture may have a mask, if that marks nothing."""
    if picture.mask is None:
        return
    try:
        marked = int(read_mask(picture.mask).sum())
    except UnreadableError as error:
        yield Fault("error", picture.mask, error.what, error.fix)
        return
    if marked:
        what = f"good, yet its mask ground_truth/good/{picture.mask.name} marks {marked} px"
        yield Fault("error", picture.image, what, "move both to a defect type, or remove the mask")


def _check_mask(path: Path, picture: Facts | None) -> Iterator[Fault]:
    try:
        mask = read_mask(path)
    except UnreadableError as error:
        yield Fault("error", path, error.what, error.fix)
        return
    height_px, width_px = mask.shape
    if picture is not None and (width_px, height_px) != (picture.width_px, picture.height_px):
        what = f"mask is {width_px}×{height_px}, its picture {picture.width_px}×{picture.height_px}"
        fix = "export the mask at its picture's size"
        if picture.orientation in SIDEWAYS and (height_px, width_px) == (picture.width_px, picture.height_px):
            what += f" as it is stored; viewers turn it (orientation {picture.orientation})"
            fix = "save the picture turned, without the tag"
        yield Fault("error", path, what, fix)
    defect_px = int(mask.sum())
    if defect_px == 0:
        fix = "write defect pixels as 255, or remove the picture"
        yield Fault("error", path, "mask is empty: all of it is black", fix)
    elif defect_px < FEW_MASK_PX:
        what = f"mask of {defect_px} pixel(s)"
        yield Fault("warning", path, what, "draw the whole defect, or remove the picture")
    elif defect_px > INVERTED_MASK_SHARE * mask.size:
        what = f"mask covers {defect_px / mask.size:.0%} of the picture: inverted?"
        yield Fault("warning", path, what, "defect pixels are 255, the rest 0")
