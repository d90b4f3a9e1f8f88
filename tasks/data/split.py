"""The few-shot split: made once, by content, and written to a file that every stage reads."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tasks.data.check import check_samples
from tasks.data.faults import Fault, has_errors
from tasks.data.near_duplicates import with_groups
from tasks.data.pictures import sha256_of
from tasks.data.samples import COLUMNS, category_folder, defect_types
from tasks.data.shots import named_shots
from tasks.errors import DataError


class SplitConfig(BaseModel):
    """How the pictures of a category are shared out between training, validation and test."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shots: Literal["third"] | Annotated[int, Field(ge=1)] | Path = Field(
        default="third",
        description="Defect pictures per type that train: a number, 'third' (by name, rounded down, at least 1), or a "
        "text file that names them, one picture a line.",
    )
    val_share: float = Field(
        default=0.2, gt=0, lt=1, description="Share of the normal training pictures held back."
    )
    seed: int = Field(
        default=0, ge=0, description="Which normals are held back, whatever their names and order."
    )
    naive: bool = Field(
        default=False,
        description="Split by name as the literature does, though one part may then be on both sides. To show how "
        "far such figures are off; they do not count.",
    )

    @field_validator("shots")
    @classmethod
    def _is_a_file(cls, shots: int | str | Path) -> int | str | Path:
        if isinstance(shots, Path) and not shots.suffix and len(shots.parts) == 1:
            raise ValueError("neither a number, nor third, nor a file such as shots.txt")
        return shots


@dataclass(frozen=True)
class Fold:
    """The split without the shots that one of `of` folds holds out; `number` counts from 0."""

    number: int
    of: int


# What a dose (the first so many of each defect type) or a fold leaves of the split's shots.
ShotChoice = int | Fold


def split_samples(samples: pd.DataFrame, config: SplitConfig) -> pd.DataFrame:
    """Fill `split`, `group` and `reason`, so that no part is on two sides of train, val and test.

    Per category: (1) pictures of the first parts of each defect type are shots, "train"; (2) whatever else would be
    tested but shows a shot's part is "excluded"; (3) normals that show the part of a test picture are "excluded"
    from training; (4) of the other normals, whole groups are held back as "val", chosen by content. The rest is as
    its folder says. Groups are found here if the table has none yet; with `config.naive` every picture is a part of
    its own.
    Raises: DataError if a picture is unreadable, or the file of shots names what is not there.
    """
    if config.naive:
        samples = samples.assign(group=range(len(samples)))
    elif (samples["group"] < 0).any():
        samples = with_groups(samples)
    parts = [_split_category(rows.copy(), config) for _, rows in samples.groupby("category", sort=True)]
    return pd.concat(parts).loc[samples.index] if parts else samples.copy()


def _split_category(rows: pd.DataFrame, config: SplitConfig) -> pd.DataFrame:
    from_train = rows["image_path"].map(lambda path: Path(path).parents[1].name == "train")
    normal = (rows["label_index"] == 0) & from_train
    rows["split"], rows["reason"] = "test", ""
    rows.loc[normal, "split"] = "train"
    named = named_shots(config.shots, rows) if isinstance(config.shots, Path) else None
    rows.loc[_shots(rows, config) if named is None else named, "split"] = "train"

    shot_of = _first_of_groups(rows[(rows["split"] == "train") & (rows["label_index"] == 1)])
    _exclude(rows, (rows["split"] == "test") & rows["group"].isin(shot_of), "the shot", shot_of)
    test_of = _first_of_groups(rows[rows["split"] == "test"])
    _exclude(rows, normal & rows["group"].isin(test_of), "the test picture", test_of)

    # A group with a shot trains as a whole, else its part would be on both sides of train and val.
    train = rows[normal & (rows["split"] == "train")]
    free = train[~train["group"].isin(shot_of)]
    rows.loc[normal & rows["group"].isin(_held_back(free, len(train), config)), "split"] = "val"
    return rows


def _shots(rows: pd.DataFrame, config: SplitConfig) -> list[int]:
    return [
        index for label in defect_types(rows) for index in _shots_of(rows[rows["label"] == label], config)
    ]


def _shots_of(of_type: pd.DataFrame, config: SplitConfig) -> list[int]:
    """The rows of one defect type that train.

    "third" is DESIGN §2's third of the pictures by name, but part after part: where parts were taken several times
    (magnetic_tile: six exposures, sorted by exposure) the plain first third touches every part and leaves nothing
    to test; where each was taken once the two are the same. A number N is one picture each of the first N parts,
    then second pictures of the same ones, for N shots of one part are hardly more than one; the last part is left to
    test, so a rare type may give fewer.
    """
    of_type = of_type.sort_values("image_path")
    parts = of_type["group"].drop_duplicates().tolist()
    if not isinstance(config.shots, int):
        part_after_part = of_type["group"].map(parts.index).sort_values(kind="stable")
        return part_after_part.index[: max(1, len(of_type) // 3)].tolist()
    trainable = of_type[of_type["group"].isin(parts[:-1] or parts)]
    return _in_turn(trainable)[: config.shots]


def _in_turn(by_name: pd.DataFrame) -> list[int]:
    """The first picture of each part, then the second ones."""
    return by_name.groupby("group").cumcount().sort_values(kind="stable").index.tolist()


def first_shots(split: pd.DataFrame, count: int) -> pd.DataFrame:
    """The split with at most `count` shots of each defect type, those that `shots: count` would give; else as it was."""
    shots = split[(split["split"] == "train") & (split["label_index"] == 1)].sort_values("image_path")
    dropped: list[int] = []
    for _, of_type in shots.groupby("label"):
        dropped += _in_turn(of_type)[count:]
    return split.drop(dropped).reset_index(drop=True)


def chosen_shots(split: pd.DataFrame, choice: ShotChoice | None) -> pd.DataFrame:
    """The split with only the shots that a dose or a fold leaves; None leaves all."""
    match choice:
        case None:
            return split
        case Fold():
            return split.drop(held_out_shots(split, choice).index).reset_index(drop=True)
        case count:
            return first_shots(split, count)


def held_out_shots(split: pd.DataFrame, fold: Fold) -> pd.DataFrame:
    """The shots that a fold holds out, their index as in `split`: of each defect type every `of`-th part.

    All pictures of a part are on one side. A defect type that would be left without a shot keeps them all, and so does
    every type that shows the same part. Over all folds each other shot is held out once.
    """
    shots = split[(split["split"] == "train") & (split["label_index"] == 1)].sort_values("image_path")
    turn: dict[
        int, int
    ] = {}  # part → the fold that holds it out; the first defect type that shows it says so
    for _, of_type in shots.groupby("label", sort=True):
        new = [part for part in of_type["group"].drop_duplicates() if part not in turn]
        turn |= {part: position % fold.of for position, part in enumerate(new)}
    out = shots["group"].map(turn) == fold.number
    # A part that one type keeps is kept by all, which gives no type fewer shots than before: a few rounds settle it.
    while (bare := out.groupby(shots["label"]).transform("all")).any():
        out &= ~shots["group"].isin(shots.loc[bare, "group"])
    return shots[out]


def choice_key(choice: ShotChoice | None) -> dict[str, Any]:
    """What a choice of shots adds to the key of a stage that reads the shots; nothing where all are read."""
    match choice:
        case None:
            return {}
        case Fold(number, of):
            return {"fold": [number, of]}
        case count:
            return {"max_shots": count}


def choice_of(inputs: Mapping[str, Any]) -> ShotChoice | None:
    """The choice of shots in a stage's inputs, as choice_key put it there."""
    if "fold" in inputs:
        return Fold(*inputs["fold"])
    return inputs.get("max_shots")


def choice_label(choice: ShotChoice | None) -> str:
    """The end of a stage's label: "" where all shots are read, ", 3 shots" or ", fold 1 of 2"."""
    match choice:
        case None:
            return ""
        case Fold(number, of):
            return f", fold {number + 1} of {of}"
        case count:
            return f", {count} shots"


def _first_of_groups(rows: pd.DataFrame) -> dict[int, str]:
    first = rows.sort_values("image_path").drop_duplicates("group")
    return dict(zip(first["group"], first["image_path"], strict=True))


def _exclude(rows: pd.DataFrame, excluded: "pd.Series[bool]", which: str, twin_of: dict[int, str]) -> None:
    rows.loc[excluded, "split"] = "excluded"
    twins = [Path(twin_of[group]) for group in rows.loc[excluded, "group"]]
    rows.loc[excluded, "reason"] = [
        f"shows the part of {which} {twin.relative_to(twin.parents[2]).as_posix()}" for twin in twins
    ]


def _held_back(free: pd.DataFrame, num_normals: int, config: SplitConfig) -> list[int]:
    """Whole groups, in an order drawn from their content, up to val_share of the normals."""
    groups = free.groupby("group")["sha256"].agg(["min", "size"])
    groups["draw"] = [
        hashlib.sha256(f"{config.seed}:{sha256}".encode()).hexdigest() for sha256 in groups["min"]
    ]
    groups = groups.sort_values("draw")
    if len(free) == num_normals:
        groups = groups.iloc[:-1]  # one group must stay to train on
    wanted = max(1, round(config.val_share * num_normals))
    chosen: list[int] = []
    for group, size in zip(groups.index.tolist(), groups["size"].tolist(), strict=True):
        if size <= wanted:
            chosen.append(group)
            wanted -= size
    # Every group is larger than what is wanted: too much validation is better than none.
    return chosen or groups.sort_values("size", kind="stable").index[:1].tolist()


def split_faults(split: pd.DataFrame, config: SplitConfig) -> list[Fault]:
    """What the split lacks: without normals no training, without tests no figure of a defect type, fewer shots."""
    faults = []
    for _, rows in split.groupby("category"):
        folder = category_folder(rows["image_path"].iloc[0])
        normals = rows[rows["label_index"] == 0]["split"]
        for side, needed in (("train", "train on"), ("val", "hold back as validation")):
            if not (normals == side).any():
                what = f"the split leaves no normal picture to {needed}: {(normals == 'excluded').sum()} are excluded"
                fix = "add normal pictures of parts that are not in the test set"
                faults.append(Fault("error", folder / "train" / "good", what, fix))
        if not (rows["split"] == "test").any():
            what = "no picture is left to test: each is a shot, or shows the part of one"
            faults.append(
                Fault("error", folder / "test", what, "add pictures of other parts, good or with defects")
            )
        for defect_type in defect_types(rows):
            sides, place = rows[rows["label"] == defect_type]["split"], folder / "test" / defect_type
            if not (sides == "test").any():
                what = "every picture that is no shot shows the part of one, so none is left to test"
                faults.append(Fault("warning", place, what, "add pictures of other parts"))
            shots = int((sides == "train").sum())
            if isinstance(config.shots, int) and shots < config.shots:
                what = f"{shots} shot(s) instead of {config.shots}: a part must be left to test"
                faults.append(
                    Fault("warning", place, what, "add pictures of other parts, or lower split.shots")
                )
    return faults


def check_and_split(
    samples: pd.DataFrame, folders: Mapping[str, Path], config: SplitConfig
) -> tuple[pd.DataFrame, list[Fault]]:
    """What a run does with its data before anything is trained: all faults, those of the split among them, and the split.

    With errors the split is the table as it came. Raises: DataError for a file of shots that cannot be used.
    """
    checked = check_samples(samples, folders)
    if has_errors(checked.faults):
        return samples, checked.faults
    split = split_samples(checked.samples, config)
    return split, checked.faults + split_faults(split, config)


def write_split(split: pd.DataFrame, root: Path, out_csv: Path) -> None:
    """Write the table as CSV, its paths relative to the data's root, so that the file moves with the data."""
    roots = (root.absolute(), root.resolve())  # a linked folder's pictures are named through the link
    table = split[COLUMNS].copy()
    for column in ("image_path", "mask_path"):
        table[column] = [_below(Path(path), roots) if path else "" for path in table[column]]
    table.to_csv(out_csv, index=False, lineterminator="\n")


def _below(path: Path, roots: Sequence[Path]) -> str:
    root = next((root for root in roots if path.is_relative_to(root)), roots[0])
    return path.relative_to(root).as_posix()


def read_split(split_csv: Path, root: Path) -> pd.DataFrame:
    """Read a split written by `write_split`, its paths absolute under `root`.

    Raises: DataError if the file has other columns.
    """
    table = pd.read_csv(split_csv, keep_default_na=False, dtype=str)
    if list(table.columns) != COLUMNS:
        raise DataError(
            f"{split_csv}: columns {list(table.columns)}, expected {COLUMNS}; make the split again"
        )
    root = root.absolute()
    for column in ("image_path", "mask_path"):
        table[column] = [str(root / path) if path else "" for path in table[column]]
    return table.astype({"label_index": "int64", "group": "int64"})


def split_digest(split: pd.DataFrame) -> str:
    """Hash of which content is on which side under which label, whatever the files' names and places; in hex.

    Masks count by their content too: redrawn masks make another split.
    """
    columns = split[["category", "label", "split", "sha256", "mask_path"]]
    lines = [
        "\t".join([category, label, side, sha256, sha256_of(Path(mask)) if mask else ""])
        for category, label, side, sha256, mask in columns.itertuples(index=False)
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
