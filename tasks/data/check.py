"""Every fault of a data set at once, each with its file's name and what to do about it."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from dual_anodiff.errors import UnreadableError
from dual_anodiff.pictures import Facts, examine_picture
from dual_anodiff.progress import progress
from tasks.data.faults import Fault
from tasks.data.left_aside import left_aside
from tasks.data.mask_check import check_masks
from tasks.data.near_duplicates import MANY_PICTURES, Thumbnail, thumbnail, with_groups
from tasks.data.samples import (
    Listed,
    category_folder,
    find_categories,
    label_folders,
    list_category,
    read_dataset,
)

MIN_PICTURES_OF_DEFECT = 2
NAMES_SHOWN = 4
MAX_NAMES_BYTES = 220  # a sheet is called by both, and a file system takes 255
# 12 bits in 16 reach 6.25 % of the range, 14 bits 25 %; a picture of 8 bits that is as dark as the former shows nothing.
DARK, DARK_16_BIT = 0.063, 0.251
# Squeezed into a square, a round hole becomes an ellipse of this ratio.
WIDE = 3.0


@dataclass(frozen=True)
class Checked:
    """What a check found, and the samples with their groups, so that the split need not look for them again."""

    samples: pd.DataFrame
    faults: list[Fault]  # errors first, then by path


def check_dataset(data: Path | pd.DataFrame) -> list[Fault]:
    """Find every fault of a data folder, or of a samples table read from one; errors first, then by path.

    Raises: DataError only if there is no category to look at.
    """
    if isinstance(data, Path):
        return check_samples(read_dataset(data), find_categories(data)).faults
    return check_samples(data, folders_of(data)).faults


def folders_of(samples: pd.DataFrame) -> dict[str, Path]:
    """The categories of a samples table by name."""
    first = samples.drop_duplicates("category")
    return {
        name: category_folder(path) for name, path in zip(first["category"], first["image_path"], strict=True)
    }


def check_samples(samples: pd.DataFrame, folders: Mapping[str, Path]) -> Checked:
    """Decode each picture once, and look at all that could be wrong; groups are filled in where all can be read."""
    faults: list[Fault] = []
    all_thumbnails: dict[str, Thumbnail] = {}
    for category, folder in folders.items():
        rows = samples[samples["category"] == category]
        listed = list_category(folder)
        facts, thumbnails = _check_pictures(rows["image_path"].tolist(), faults)
        all_thumbnails |= thumbnails
        faults += _check_folders(folder, rows)
        faults += left_aside(folder)
        faults += check_masks(folder, listed, facts)
        faults += _check_names(listed)
        faults += _check_facts(folder, facts)
        faults += _check_same_files(rows)
    readable = samples[samples["image_path"].isin(all_thumbnails)]
    if len(readable):
        grouped = with_groups(readable, all_thumbnails)
        samples = samples.assign(group=grouped["group"].reindex(samples.index, fill_value=-1))
        for _, rows in grouped.groupby("category"):
            faults += _check_labels_of_groups(rows)
    return Checked(samples, sorted(faults, key=lambda fault: (fault.severity, fault.path, fault.what)))


def _check_pictures(
    paths: Sequence[str], faults: list[Fault]
) -> tuple[dict[Path, Facts], dict[str, Thumbnail]]:
    facts, thumbnails = {}, {}
    with progress("pictures", len(paths), "picture", shown=len(paths) > MANY_PICTURES) as tell:
        for done, path in enumerate(paths, 1):
            try:
                pixels, facts[Path(path)] = examine_picture(path)
                thumbnails[path] = thumbnail(Image.fromarray(pixels))
            except UnreadableError as error:
                faults.append(Fault("error", error.path, error.what, error.fix))
            tell(done, None)
    return facts, thumbnails


def _check_folders(folder: Path, rows: pd.DataFrame) -> Iterator[Fault]:
    good = folder / "train" / "good"
    if not ((rows["label"] == "good") & rows["image_path"].str.startswith(f"{good}/")).any():
        yield Fault("error", good, "no pictures of good parts to train on", "put normal pictures here")
    if not (rows["split"] == "test").any():
        yield Fault("error", folder / "test", "no test pictures", "put test/good and test/DEFECT here")
    elif not ((rows["split"] == "test") & (rows["label"] == "good")).any():
        yield Fault("warning", folder / "test" / "good", "no good test pictures: no image AUROC", "add some")
    for split in ("train", "test"):
        for label, places in label_folders(folder / split).items():
            if len(os.fsencode(f"{folder.name}{label}")) > MAX_NAMES_BYTES:
                what = f"its name and its category's take more than {MAX_NAMES_BYTES} bytes: files are called by them"
                yield Fault("error", places[0], what, "give it a shorter name")
            if label != "good" and label.casefold() == "good":
                what = "is not read as good parts" if split == "train" else "would be read as a defect type"
                yield Fault("error", places[0], what, "rename it to good, in small letters")
            elif split == "test" and label != "good":
                yield from _check_count(places[0], int((rows["label"] == label).sum()))


def _check_count(place: Path, found: int) -> Iterator[Fault]:
    fix = "add pictures or remove the folder"
    if not found:
        yield Fault("error", place, "no picture of this defect", fix)
    elif found < MIN_PICTURES_OF_DEFECT:
        yield Fault("warning", place, "one picture of this defect: it trains, none is left to test", fix)


def _check_names(listed: Sequence[Listed]) -> Iterator[Fault]:
    stems = Counter((each.image.parent, each.stem) for each in listed)
    for (parent, stem), count in stems.items():
        if count > 1:
            what = f"{count} pictures have the name {stem}: one mask would serve them all"
            yield Fault("error", parent / stem, what, "give each its own name")


def _check_facts(folder: Path, facts: Mapping[Path, Facts]) -> Iterator[Fault]:
    """What a file says beside its pixels, or its size, that changes what is read."""
    turned = sorted({fact.orientation for fact in facts.values()} - {1})
    pages = sorted({fact.pages for fact in facts.values()} - {1})
    orientations, numbers = (", ".join(map(str, found)) for found in (turned, pages))
    for affected, what, fix in (
        (
            [path for path, fact in facts.items() if fact.orientation != 1],
            f"orientation {orientations} is not applied, so a mask drawn on the turned picture won't fit",
            "save it turned, without the tag",
        ),
        (
            [path for path, fact in facts.items() if fact.pages > 1],
            f"{numbers} pages, only the first is read",
            "save that page alone, or another one",
        ),
        (
            [path for path, fact in facts.items() if fact.transparent_share > 0],
            "transparent in part, which is read as black",
            "save it without alpha, if that is not meant",
        ),
    ):
        if affected:
            count = f"{len(affected)} pictures, {_names(affected)}: " if len(affected) > 1 else ""
            yield Fault("warning", _place(folder, affected), count + what, fix)
    yield from _check_brightness(folder, facts)
    wide = [
        path
        for path, f in facts.items()
        if max(f.width_px, f.height_px) > WIDE * min(f.width_px, f.height_px)
    ]
    if wide:
        f = facts[wide[0]]
        ratio = max(f.width_px, f.height_px) / min(f.width_px, f.height_px)
        size = f"{f.width_px}×{f.height_px} ({ratio:.0f}:1)"
        what = f"{len(wide)} picture(s) are far from square, such as {size}: the generator squeezes them into one"
        fix = "set native.enabled=true, which works on crops at their own resolution"
        yield Fault("warning", _place(folder, wide), what, fix)


def _check_brightness(folder: Path, facts: Mapping[Path, Facts]) -> Iterator[Fault]:
    """Folders in which no picture is bright: 12 bits that were saved in 16, most likely."""
    by_folder: dict[Path, list[Facts]] = {}
    for path, fact in facts.items():
        by_folder.setdefault(path.parent, []).append(fact)
    dark = {}
    for place, found in by_folder.items():
        brightest = max(each.brightest for each in found)
        if brightest <= (DARK_16_BIT if all(each.bits == 16 for each in found) else DARK):
            dark[place] = brightest
    if dark and len(dark) == len(by_folder):
        dark = {folder: max(dark.values())}
    for place, brightest in dark.items():
        what = f"no picture is brighter than {brightest:.0%} of its range: 12 bits in 16?"
        yield Fault("warning", place, what, "save them over the full range, all by one factor")


def _check_same_files(rows: pd.DataFrame) -> Iterator[Fault]:
    for _, same in rows.groupby("sha256"):
        if len(same) > 1:
            first, *others = [Path(path) for path in same["image_path"]]
            labels, what = sorted(same["label"].unique()), f"the same file as {_names(others)}"
            if len(labels) > 1:
                yield Fault(
                    "error", first, f"{what}, under other labels ({', '.join(labels)})", "keep one of them"
                )
            elif same["split"].nunique() > 1:
                yield Fault(
                    "warning", first, f"{what}, in train and test", "the split keeps them on one side"
                )
            else:
                yield Fault("warning", first, what, "keep one of them")


def _check_labels_of_groups(rows: pd.DataFrame) -> Iterator[Fault]:
    for _, group in rows.groupby("group"):
        labels = sorted(group["label"].unique())
        if len(labels) > 1 and group["sha256"].nunique() > 1:
            first, *others = [Path(path) for path in group["image_path"]]
            what = f"shows the same part as {_names(others)}, but their labels differ ({', '.join(labels)})"
            yield Fault("warning", first, what, "look at them; the split keeps them on one side")


def _place(folder: Path, paths: Sequence[Path]) -> Path:
    """The folder that all the files are of."""
    parents = {path.parent for path in paths}
    return paths[0] if len(paths) == 1 else parents.pop() if len(parents) == 1 else folder


def _names(paths: Sequence[Path]) -> str:
    shown = [path.relative_to(path.parents[2]).as_posix() for path in paths[:NAMES_SHOWN]]
    more = [f"{len(paths) - NAMES_SHOWN} more"] if len(paths) > NAMES_SHOWN else []
    return ", ".join(shown + more)
