"""From a folder in the MVTec AD layout to the samples table, the one currency between stages."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tasks.errors import DataError
from tasks.pictures import picture_files, sha256_of

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
    Raises: DataError if no category is found, or one of `categories` is missing.
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
    """The categories under `root` by name: `root` itself, or those sub-folders with a train or test folder."""
    root = root.resolve()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that holds {LAYOUT}")
    if _is_category(root):
        return {root.name: root}
    folders = {path.name: path for path in sorted(root.iterdir()) if path.is_dir() and _is_category(path)}
    if not folders:
        raise DataError(f"{root}: neither it nor a sub-folder has a train or test folder; expected {LAYOUT}")
    return folders


def category_folder(image_path: str) -> Path:
    """The category's folder, from the path of one of its pictures (CATEGORY/split/label/name)."""
    return Path(image_path).parents[2]


def defect_types(table: pd.DataFrame) -> list[str]:
    """The defect types of a samples table, sorted."""
    return sorted(table.loc[table["label_index"] == 1, "label"].unique())


def _is_category(folder: Path) -> bool:
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def _read_category(category: str, folder: Path) -> list[dict[str, str | int]]:
    rows: list[dict[str, str | int]] = []
    labels = [
        path.name for path in (folder / "test").glob("*") if path.is_dir() and not path.name.startswith(".")
    ]
    for split, label in [("train", "good"), *(("test", label) for label in sorted(labels))]:
        masks = {} if label == "good" else find_masks(folder / "ground_truth" / label)
        for path in picture_files(folder / split / label):
            mask = masks.get(f"{path.stem}_mask", masks.get(path.stem))
            rows.append(
                {
                    "image_path": str(path),
                    "mask_path": "" if mask is None else str(mask),
                    "label": label,
                    "label_index": int(label != "good"),
                    "split": split,
                    "category": category,
                    "group": -1,
                    "sha256": sha256_of(path),
                    "reason": "",
                }
            )
    return rows


def find_masks(folder: Path) -> dict[str, Path]:
    """The masks of one defect type by stem; where a stem comes in several formats, PNG (lossless) wins."""
    return {
        path.stem: path
        for path in sorted(picture_files(folder), key=lambda path: path.suffix.lower() == ".png")
    }
