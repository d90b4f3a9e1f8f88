"""What lies in a category's folders and is not read: counted and named, so that nobody believes it was."""

from collections.abc import Iterator
from pathlib import Path

from tasks.data.faults import Fault, names_of
from tasks.data.pictures import PICTURE_SUFFIXES, picture_files
from tasks.data.samples import label_folders

# What systems and labelling tools leave beside pictures; nobody takes it for one.
NOT_MEANT = {
    ".json",
    ".txt",
    ".xml",
    ".csv",
    ".md",
    ".db",
    ".ini",
    ".yaml",
    ".yml",
    ".html",
    ".pdf",
    ".zip",
    ".lnk",
}
UNREAD = {"validation", "val", "valid"}  # MVTec LOCO and others


def left_aside(folder: Path) -> Iterator[Fault]:
    """A warning for each folder of a category that holds what is not read. Masks by a picture's name are not looked at."""
    for extra in sorted(path for path in folder.iterdir() if path.is_dir() and path.name.lower() in UNREAD):
        if any(path.suffix.lower() in PICTURE_SUFFIXES for path in extra.rglob("*")):
            what, fix = "pictures here are not read", "move them to train/good: the split holds some back"
            yield Fault("warning", extra, what, fix)
    for name in ("train", "test"):
        parent = folder / name
        stray = list(picture_files(parent))
        if stray:
            what = f"{len(stray)} picture(s) in no folder of their own are not read: {names_of(stray)}"
            yield Fault(
                "warning",
                parent,
                what,
                f"move them to {name}/good{'' if name == 'train' else ' or test/DEFECT'}",
            )
        for label, folders in label_folders(parent).items():
            for place in folders:
                if name == "train" and label != "good":
                    if label.casefold() != "good" and any(picture_files(place)):
                        yield Fault(
                            "warning", place, "pictures here are not read", "defects belong in test/DEFECT"
                        )
                    continue
                yield from _beside_pictures(place)
    for label, folders in label_folders(folder / "ground_truth").items():
        pictures = {
            path.stem
            for place in label_folders(folder / "test").get(label, [])
            for path in picture_files(place)
        }
        for place in folders:
            yield from _beside_pictures(place, but=pictures)


def _beside_pictures(folder: Path, but: set[str] | None = None) -> Iterator[Fault]:
    """What else lies in a folder of pictures; sub-folders called as in `but` are named elsewhere."""
    broken, inner, others = [], [], []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        if path.is_symlink() and not path.exists():
            broken.append(path)
        elif path.is_dir():
            if path.name not in (but or ()) and any(each.is_file() for each in path.rglob("*")):
                inner.append(path)
        elif path.suffix.lower() not in (*PICTURE_SUFFIXES, *NOT_MEANT):
            others.append(path)
    for found, what, fix in (
        (broken, "link(s) that lead nowhere", "mend or remove them"),
        (inner, "sub-folder(s) that are not read", f"move their pictures up, into {folder.name}"),
        (
            others,
            "file(s) of kinds that are not read",
            f"pictures: save them as {', '.join(PICTURE_SUFFIXES)}",
        ),
    ):
        if found:
            yield Fault("warning", folder, f"{len(found)} {what}: {names_of(found)}", fix)
