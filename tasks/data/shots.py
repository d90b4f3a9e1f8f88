"""Shots by name: the file that `split.shots` names, and the pictures that it means."""

import csv
from pathlib import Path, PurePosixPath

import pandas as pd

from tasks.data.samples import category_folder, defect_types, find_categories, list_category, plain_name
from tasks.errors import DataError

# Beside a category's folders: which of its files was called how by those who made the pictures (path, original).
ORIGIN = "origin.csv"


def read_names(file: Path) -> list[str]:
    """The names in a list of shots, a line each; blank lines and what follows # are left out.

    Raises: DataError if it cannot be read or names nothing.
    """
    try:
        lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        what = f"split.shots: neither a number, nor 'third', nor a text file that can be read ({error})"
        raise DataError(f"{file}: {what}") from error
    names = [line for line in lines if line]
    if not names:
        raise DataError(f"{file}: split.shots: names no picture; write one a line, such as hole/000.png")
    return names


def named_shots(file: Path, rows: pd.DataFrame) -> list[int]:
    """The rows of one category's samples that a list of shots names.

    A name is the end of a picture's path, or of its original's in origin.csv, with or without the file's ending:
    000.png, hole/000, part/test/hole/000.png. Names of other categories beside this one are passed over.
    Raises: DataError for a name that is not there, means several pictures or a good one; or a defect type without any.
    """
    paths: list[str] = rows["image_path"].tolist()
    called = [_names_of(Path(path)) for path in paths]
    folder = category_folder(rows["image_path"].iloc[0])
    originals = _originals(folder)
    for path, names in zip(paths, called, strict=True):
        if original := originals.get(Path(path).relative_to(folder).as_posix()):
            names += _names_of(Path(original))
    chosen: list[int] = []
    for name in read_names(file):
        wanted = _ends(name)
        found = [
            index
            for index, names in zip(rows.index.tolist(), called, strict=True)
            if any(_is_end(wanted, each) for each in names)
        ]
        defects = [index for index in found if rows.loc[index, "label_index"] == 1]
        if len(defects) > 1:
            meant = ", ".join("/".join(Path(rows.loc[i, "image_path"]).parts[-3:]) for i in defects[:3])
            raise DataError(f"{file}: {name} may mean {meant}; write its folder too, such as hole/{name}")
        if found and not defects:
            raise DataError(f"{file}: {name} is a good picture; shots are pictures with defects")
        if not found and not _is_elsewhere(wanted, folder):
            raise DataError(f"{file}: {name}: no such picture in {folder / 'test'}; correct the name")
        chosen += defects
    bare = sorted(set(defect_types(rows)) - set(rows.loc[chosen, "label"]))
    if bare:
        raise DataError(f"{file}: names no picture of {', '.join(bare)}; add some, or remove their folders")
    return list(dict.fromkeys(chosen))


def _names_of(path: Path) -> list[tuple[str, ...]]:
    """A path's parts, with the file's ending and without."""
    parts = tuple(plain_name(Path(part)) for part in path.parts[:-1])
    return [(*parts, plain_name(path)), (*parts, plain_name(Path(path.stem)))]


def _ends(name: str) -> tuple[str, ...]:
    return tuple(
        plain_name(Path(part)) for part in PurePosixPath(name.replace("\\", "/")).parts if part != "."
    )


def _is_end(wanted: tuple[str, ...], path: tuple[str, ...]) -> bool:
    return path[-len(wanted) :] == wanted


def _originals(folder: Path) -> dict[str, str]:
    """What origin.csv tells: the original of each file, by its path below the category's folder."""
    file = folder / ORIGIN
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as lines:
        return {row.get("path", ""): row.get("original", "") for row in csv.DictReader(lines)}


def _is_elsewhere(wanted: tuple[str, ...], folder: Path) -> bool:
    """Whether a name means a picture of another category beside this one, or the original of one."""
    for other in find_categories(folder.parent).values():
        names = [each.image for each in list_category(other)] if other != folder else []
        names += [Path(original) for original in _originals(other).values()] if other != folder else []
        if any(_is_end(wanted, each) for name in names for each in _names_of(name)):
            return True
    return False
