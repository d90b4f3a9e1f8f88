"""From a folder in the MVTec AD layout to the samples table, the one currency between stages."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from tasks.data.pictures import picture_files, sha256_of
from tasks.errors import DataError

# anomalib's names first, then ours.
COLUMNS = [
    "image_path",
    "mask_path",
    "label",
    "label_index",
    "split",
    "category",
    "group",
    "sha256",
    "reason",
]
LAYOUT = "CATEGORY/train/good, CATEGORY/test/good, CATEGORY/test/DEFECT, CATEGORY/ground_truth/DEFECT"


def read_dataset(root: Path, categories: Sequence[str] | None = None) -> pd.DataFrame:
    """List every picture under `root`, which is one category or holds several, sorted by category and name.

    `split` is the folder's word ("train" or "test") and `group` −1 until `split_samples` decides both. Pictures
    are hashed, not decoded: a broken one is for `check_dataset` to name. A defect picture without a mask has
    mask_path "".
    Raises: DataError if no category is found, one of `categories` is missing, or a name is no text.
    """
    folders = find_categories(root)
    if categories is not None:
        missing = sorted(set(categories) - set(folders))
        if missing:
            found = ", ".join(folders)
            raise DataError(
                f"{root}: no category {', '.join(missing)}; found {found}; correct the name or the path"
            )
        folders = {name: folders[name] for name in folders if name in categories}
    rows = [row for name, folder in folders.items() for row in _read_category(name, folder)]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"label_index": "int64", "group": "int64"})


def find_categories(root: Path) -> dict[str, Path]:
    """The categories under `root` by name: `root` itself, or those sub-folders with a train or test folder.

    A link counts by its own name. Raises: DataError if there is none, or two of one name.
    """
    # Not resolved: a linked category is called as its link is. But ".." is of the place that a link leads to.
    root = root.resolve() if ".." in root.parts else root.absolute()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that holds {LAYOUT}")
    if _is_category(root):
        return {plain_name(root): root}
    folders: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        if path.is_dir() and _is_category(path):
            twin = folders.setdefault(plain_name(path), path)
            if twin != path:
                raise DataError(f"{path}: is called as {twin} is, in other bytes; rename one of them")
    if not folders:
        raise DataError(f"{root}: neither it nor a sub-folder has a train or test folder; expected {LAYOUT}")
    return folders


def plain_name(path: Path) -> str:
    """A name as people write it: macOS stores ö as o and ¨, others as one letter."""
    return unicodedata.normalize("NFC", path.name)


def category_folder(image_path: str) -> Path:
    """The category's folder, from the path of one of its pictures (CATEGORY/split/label/name)."""
    return Path(image_path).parents[2]


def defect_types(table: pd.DataFrame) -> list[str]:
    """The defect types of a samples table, sorted."""
    return sorted(table.loc[table["label_index"] == 1, "label"].unique())


def counts_text(table: pd.DataFrame) -> str:
    """What was read, a line a category: its pictures by folder."""
    lines = []
    for category, rows in table.groupby("category"):
        counts = rows.groupby(["split", "label"], sort=False).size().reset_index(name="n")
        counted = [f"{row['n']} {row['split']}/{row['label']}" for row in counts.to_dict("records")]
        lines.append(f"read: {category}: {', '.join(counted)}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Listed:
    """One picture of a category as it lies in its folder."""

    image: Path
    mask: Path | None  # of a good picture too, where there is one: it must be black
    split: str  # the folder's word: train or test
    label: str

    @property
    def stem(self) -> str:
        """The name that its mask has too."""
        return plain_name(Path(self.image.stem))


def list_category(folder: Path) -> list[Listed]:
    """The files that are read of one category, and no others: its pictures, and the masks that belong to them."""
    truth = label_folders(folder / "ground_truth")
    places = [("train", "good", [folder / "train" / "good"])]
    places += [("test", label, found) for label, found in sorted(label_folders(folder / "test").items())]
    listed = []
    for split, label, folders in places:
        masks = find_masks(truth.get(label, [])) if split == "test" else {}
        for path in (path for place in folders for path in picture_files(place)):
            picture = Listed(path, None, split, label)
            mask = masks.get(f"{picture.stem}_mask", masks.get(picture.stem))
            listed.append(replace(picture, mask=mask))
    return listed


def label_folders(parent: Path) -> dict[str, list[Path]]:
    """The folders of each label below train, test or ground_truth; several only where names differ in bytes alone."""
    found: dict[str, list[Path]] = {}
    if parent.is_dir():
        for path in sorted(parent.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                found.setdefault(plain_name(path), []).append(path)
    return found


def find_masks(folders: Iterable[Path]) -> dict[str, Path]:
    """The masks of one defect type by stem; where a stem comes in several formats, PNG (lossless) wins."""
    files = [path for folder in folders for path in picture_files(folder)]
    return {
        plain_name(Path(path.stem)): path
        for path in sorted(files, key=lambda path: path.suffix.lower() == ".png")
    }


def _is_category(folder: Path) -> bool:
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def _read_category(category: str, folder: Path) -> list[dict[str, str | int]]:
    listed = list_category(folder)
    for each in listed:
        if not is_text(each.image) or (each.mask is not None and not is_text(each.mask)):
            raise DataError(
                f"{str(each.image)!a}: the name is not in UTF-8, so no table can hold it; rename it"
            )
    return [
        {
            "image_path": str(each.image),
            "mask_path": "" if each.mask is None or each.label == "good" else str(each.mask),
            "label": each.label,
            "label_index": int(each.label != "good"),
            "split": each.split,
            "category": category,
            "group": -1,
            "sha256": sha256_of(each.image),
            "reason": "",
        }
        for each in listed
    ]


def is_text(path: Path) -> bool:
    """Whether a path is text; a file system takes any bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
