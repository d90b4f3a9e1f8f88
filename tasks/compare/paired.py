"""Models of two runs on the same test pictures: whether these are the same by content, and the paired difference."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from tasks.compare.redraws import Redrawn, Tested
from tasks.runs.facts import flat

SAME = "the same models"
NAMED = 3  # pictures that a reason names


def why_not_the_same(first: Tested, other: Tested) -> str | None:
    """What sets the test pictures of two runs apart, by content; None if nothing does."""
    said = _differences(first.pictures, other.pictures, other.run)
    if said is None:
        return _masks_differ(first, other) if first.data != other.data else None
    if first.data != other.data:
        return f"{said}: the data differ (fingerprints {first.data[:12]} and {other.data[:12]})"
    mine, theirs = flat(first.split), flat(other.split)
    changed = [
        f"split.{name} {mine.get(name)} and {theirs.get(name)}"
        for name in mine | theirs
        if mine.get(name) != theirs.get(name)
    ]
    cause = f"the split differs ({', '.join(changed)})" if changed else "other defect types were tested"
    return f"{said}: {cause}"


def _differences(first: pd.DataFrame, other: pd.DataFrame, run: str) -> str | None:
    if first[["sha256", "label"]].equals(other[["sha256", "label"]]):
        return None
    both = first.merge(other, on="sha256", how="outer", suffixes=("", "_other"), indicator=True)
    lost, new = both[both["_merge"] == "left_only"], both[both["_merge"] == "right_only"]
    relabelled = both[(both["_merge"] == "both") & (both["label"] != both["label_other"])]
    said = []
    for rows, column, text in (
        (lost, "image_path", f"not tested by {run}"),
        (new, "image_path_other", "tested by it alone"),
        (relabelled, "image_path", "labelled otherwise"),
    ):
        if len(rows):
            said.append(f"{len(rows)} of {len(first)} test pictures {text} ({_named(rows[column])})")
    if not said and len(first) != len(other):
        said.append(f"{len(first)} and {len(other)} test pictures")
    return "; ".join(said) or None


def _masks_differ(first: Tested, other: Tested) -> str | None:
    """The same pictures in folders that differ: the masks may, too. Seen at the size that models were measured at."""
    mine, theirs = first.pictures, other.pictures
    sizes = {int(side["map_px"].iloc[0]) for side in (mine, theirs)}
    if 0 in sizes:
        return None
    if len(sizes) > 1:
        return (
            f"the data differ (fingerprints {first.data[:12]} and {other.data[:12]}), and whether the masks do cannot be "
            "told: they were measured at different sizes"
        )
    # Both are in the order of their content.
    changed = mine[mine["mask"].to_numpy() != theirs["mask"].to_numpy()]
    if changed.empty:
        return None
    return f"the masks of {len(changed)} test pictures differ ({_named(changed['image_path'])})"


def _named(pictures: pd.Series) -> str:
    return ", ".join(sorted(pictures)[:NAMED]) + (", …" if len(pictures) > NAMED else "")


def paired(first: Tested, mine: Redrawn, theirs: Redrawn) -> Iterator[dict[str, Any]]:
    """The differences theirs − mine of each metric: metric, difference, low, high, verdict, note.

    With no metric: what is said of all of them together. `first`: the test pictures of both.
    """
    from downstream.figures.class_predictions import ClassPredictions
    from downstream.figures.lift import MIN_PICTURES, interval, smallest_kind, verdict_of

    if mine.contents == theirs.contents:
        yield {"metric": None, "note": SAME}
        return
    if mine.note or theirs.note:
        yield {"metric": None, "note": mine.note or theirs.note}
        return
    sizes = sorted({mine.map_px, theirs.map_px})
    note = f"measured on maps of {' and '.join(map(str, sizes))} px" if len(sizes) > 1 else ""
    labels = first.pictures["label"].to_numpy(dtype=np.str_)
    pictures = ClassPredictions(labels, labels, np.unique(labels), np.empty((len(labels), 0), np.float32))
    for metric, values in mine.values.items():
        change = theirs.values[metric] - values
        low, high = interval(change[1:])
        few = smallest_kind(pictures, metric) < MIN_PICTURES
        yield {
            "metric": metric,
            "difference": float(change[0]),
            "low": low,
            "high": high,
            "verdict": "too few test pictures" if few else verdict_of(metric, low, high),
            "note": note,
        }
