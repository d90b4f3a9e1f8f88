"""Training sets: which rows a model learns from, and the one validation set they all share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from downstream.errors import TrainingSetError

TrainingSetName = Literal[
    "real", "copy-paste", "perlin", "copy-paste+real", "perlin+real", "generated", "generated+real",
    "generated+copy-paste+real",
]  # fmt: skip
COLUMNS = ["image_path", "mask_path", "label", "label_index", "source"]
# Where a pair comes from, as far as its table says: kept for those who hand the rows on.
PROVENANCE = ["run", "adapter_key", "seed", "index", "score"]


def sources_of(name: str) -> tuple[str, ...]:
    """Where a training set's defects come from: "real", "copy-paste", "perlin", "generated"."""
    return tuple(name.split("+"))


@dataclass(frozen=True)
class TrainingSet:
    """Rows to train on and rows to select and set thresholds on.

    Both have the columns image_path, mask_path ("" for normals), label, label_index and
    source ("normal", "real", "copy-paste", "perlin" or "generated"), and those of PROVENANCE that the pairs have.
    """

    name: str
    train: pd.DataFrame
    val: pd.DataFrame

    def validated_on(self, samples: pd.DataFrame) -> "TrainingSet":
        """The same training rows, with these pictures of the data to validate on; none of them may be trained on."""
        val = pd.concat(
            [
                _rows(samples[samples["label_index"] == i], source)
                for i, source in enumerate(("normal", "real"))
            ],
            ignore_index=True,
        )
        return _disjoint(TrainingSet(self.name, self.train, val))


def training_set(
    name: TrainingSetName,
    samples: pd.DataFrame,
    pairs: pd.DataFrame,
    *,
    baselines: Mapping[str, pd.DataFrame] | None = None,
    val_share: float = 0.2,
    seed: int = 0,
) -> TrainingSet:
    """Choose the rows of one training set; validation depends on samples, pairs and seed, never on `name`.

    `samples`: rows of one category with image_path, mask_path, label, label_index, split. `pairs`:
    generated pairs with image_path, mask_path, label; `baselines`: those of "copy-paste" and "perlin" by
    name, as downstream.synthesis makes them. Train is the normals of split "train" plus the
    anomalous rows that `name` says; val is the normals of split "val" plus `val_share` of the pairs, on
    which no training set trains, so that checkpoints and thresholds are chosen alike for all and no real
    defect picture is spent on it. The same share of a baseline's pairs is left out, so that as many made
    give as many to train on. Where there are no pairs, one part of each defect type is held back from the shots, and
    what needs pairs is refused. Raises: TrainingSetError if a part is empty or a picture is on both
    sides.
    """
    _check_one_category(samples)
    normals = _rows(samples[(samples["split"] == "train") & (samples["label_index"] == 0)], "normal")
    shots = _rows(samples[(samples["split"] == "train") & (samples["label_index"] == 1)], "real")
    val_normals = _rows(samples[(samples["split"] == "val") & (samples["label_index"] == 0)], "normal")
    if pairs.empty and "generated" not in sources_of(name):
        shots, val_pairs = spare_shots(samples)
        train_pairs = val_pairs.iloc[:0]
    else:
        train_pairs, val_pairs = split_pairs(pairs, val_share=val_share, seed=seed)
    parts = []
    for source in sources_of(name):
        match source:
            case "real":
                parts.append(shots)
            case "generated":
                parts.append(train_pairs)
            case _:
                made = (baselines or {}).get(source)
                if made is None:
                    raise TrainingSetError(
                        f"training set {name!r}: its pairs were not given. Make them with downstream.synthesis."
                    )
                parts.append(split_pairs(made, val_share=val_share, seed=seed, source=source)[0])
    anomalous = pd.concat(parts, ignore_index=True)
    for rows, what in (
        (normals, 'normal pictures with split "train"'),
        (val_normals, 'normal pictures with split "val"'),
    ):
        if rows.empty:
            raise TrainingSetError(
                f"training set {name!r}: samples hold no {what}. Add normals to train/good."
            )
    if anomalous.empty or ("real" in sources_of(name) and shots.empty):
        raise TrainingSetError(f'training set {name!r}: samples hold no defect picture with split "train".')
    train = pd.concat([normals, anomalous], ignore_index=True)
    val = pd.concat([val_normals, val_pairs], ignore_index=True)
    return _disjoint(TrainingSet(name, train, val))


def spare_shots(samples: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The shots to train on and those to validate on: of each defect type the last part, where it has two.

    Raises: TrainingSetError if no type has a second part.
    """
    shots = samples[(samples["split"] == "train") & (samples["label_index"] == 1)].sort_values("image_path")
    parts = shots["group"] if "group" in shots else pd.Series(range(len(shots)), shots.index)
    of_label = parts.groupby(shots["label"])
    spared = (parts == of_label.transform("last")) & (of_label.transform("nunique") > 1)
    # A part that several types show is on one side.
    spared = parts.isin(parts[spared]) & ~parts.isin(parts[of_label.transform("nunique") == 1])
    if not spared.any():
        raise TrainingSetError(
            "there are no generated pairs and only one shot of each defect type: nothing is left to validate on. "
            "Raise split.shots, or have pairs generated."
        )
    return _rows(shots[~spared], "real"), _rows(shots[spared], "real")


def split_pairs(
    pairs: pd.DataFrame, *, val_share: float = 0.2, seed: int = 0, source: str = "generated"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hold back `val_share` of the pairs of each defect type, at least one where there are two.

    Raises: TrainingSetError if there are no pairs, or too few to hold one back.
    """
    if pairs.empty and source != "generated":
        raise TrainingSetError(f"training set {source!r}: there are no pairs. Make at least two.")
    if pairs.empty:
        raise TrainingSetError(
            "there are no generated pairs to train and validate on. Run the generate stage first; if all pairs were "
            "refused, raise generate.num_pairs."
        )
    rows = _rows(pairs.assign(label_index=1), source)
    held_back = np.zeros(len(rows), dtype=bool)
    generator = np.random.default_rng(seed)
    for _, positions in sorted(rows.groupby("label").indices.items()):
        if len(positions) >= 2:
            count = max(1, round(val_share * len(positions)))
            held_back[generator.permutation(positions)[:count]] = True
    if not held_back.any():
        raise TrainingSetError(
            f"only {len(rows)} {source} pair(s), but two of a defect type are needed, one to validate on. "
            "Raise generate.num_pairs."
        )
    return rows[~held_back].reset_index(drop=True), rows[held_back].reset_index(drop=True)


def refuse_one_sided(val: pd.DataFrame) -> None:
    """Raises: TrainingSetError if validation rows lack normals or defects."""
    if set(val["label_index"]) != {0, 1}:
        raise TrainingSetError(
            "validation rows must hold normal and anomalous pictures: thresholds lie between them."
        )


def _disjoint(rows: TrainingSet) -> TrainingSet:
    """The same rows. Raises: TrainingSetError if a picture is on both sides."""
    shared = sorted(set(rows.train["image_path"]) & set(rows.val["image_path"]))
    if shared:
        raise TrainingSetError(
            f"training set {rows.name!r}: {len(shared)} pictures are in train and val, first {shared[0]}."
        )
    return rows


def _check_one_category(samples: pd.DataFrame) -> None:
    categories = sorted(samples["category"].unique()) if "category" in samples else []
    if len(categories) > 1:
        raise TrainingSetError(f"samples mix the categories {categories}: pass the rows of one category.")


def _rows(rows: pd.DataFrame, source: str) -> pd.DataFrame:
    """The columns that a model reads, with where the row is from."""
    kept = [name for name in PROVENANCE if name in rows]
    # Whole numbers stay whole beside rows that have none.
    whole = {name: "Int64" for name in kept if pd.api.types.is_integer_dtype(rows[name])}
    return rows.assign(source=source)[[*COLUMNS, *kept]].astype(whole).reset_index(drop=True)
