"""Stage review: a defect type's curated pairs once more, as people decided in `anodiff review`."""

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from prefect import task

from tasks.config import RunConfig
from tasks.data.pictures import load_mask
from tasks.errors import ArtifactError
from tasks.review.decisions import Decision, drawn_by, mask_path, picture_hashes, read_decisions
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.stage import OPTIONS, run_stage
from tasks.store.artifacts import DIGEST_LENGTH, Artifact, Staged
from tasks.tables.pairs import PAIRS, PATHS, THRESHOLDS

log = logging.getLogger("anodiff")

REVIEW = Stage("review", version=1)
REJECTED = "rejected in review"

Decided = Mapping[str, Decision]  # by DIGEST/INDEX: the artifact that drew a pair, its index there


def decisions_on(config: RunConfig, curated: Artifact, drawn: Sequence[Artifact]) -> dict[str, Decision]:
    """What people decided about the pairs that these artifacts drew, as far as it changes what curation says of them.

    All of it where the curated pairs are only planned. Decisions on other pictures than those that lie there, since
    they were drawn anew on another device, do not count. Raises: ArtifactError, StoreUnreachableError.
    """
    if not config.curate.use_review:
        return {}
    found: dict[str, Decision] = {}
    for each in drawn:
        decided = read_decisions(config.store, each.category, each.digest)
        hashes = picture_hashes(each) if decided else {}
        same = {index: one for index, one in decided.items() if hashes.get(index, one.picture) == one.picture}
        if len(same) < len(decided):
            log.warning(
                "%-9s %s: %d decision(s) on pictures that were drawn anew since do not count; look at those again",
                "review",
                each.label,
                len(decided) - len(same),
            )
        found |= {f"{each.digest}/{index}": one for index, one in same.items()}
    if not found or not (curated.path / PAIRS).is_file():
        return found
    table = pd.read_parquet(curated.path / PAIRS, columns=["image_path", "mask_share", "reasons"])
    return {
        name: found[name]
        for row in table.to_dict("records")
        if (name := pair_name(row["image_path"])) in found and changes(found[name], row)
    }


def changes(decision: Decision, row: Mapping[Any, Any]) -> bool:
    """Whether a decision makes a difference to a curated pair. Without a mask none is accepted."""
    if decision.verdict == "rejected":
        return not row["reasons"]
    return painted(decision) is not None or (row["reasons"] != "" and row["mask_share"] > 0)


def painted(decision: Decision) -> str | None:
    """The mask that takes the drawn one's place. One painted before the pair was rejected does not."""
    return decision.mask if decision.verdict == "accepted" else None


def pair_name(image: str) -> str:
    """DIGEST/INDEX of a pair, from its image's path in a table."""
    digest, index = drawn_by(image)
    return f"{digest}/{index}"


def plan_review(config: RunConfig, curated: Artifact, decided: Decided) -> Call:
    """Name a defect type's pairs as they are after review; read like the curated ones."""
    verdicts = {name: [each.verdict, painted(each)] for name, each in sorted(decided.items())}
    out = REVIEW.plan(
        config.store,
        curated.category,
        label=curated.label,
        pairs=curated,
        decisions=hashlib.sha256(json.dumps(verdicts).encode()).hexdigest()[:DIGEST_LENGTH],
        # For people: `anodiff plan` says what of an input changed.
        accepted=sum(each.verdict == "accepted" for each in decided.values()),
        rejected=sum(each.verdict == "rejected" for each in decided.values()),
        masks=sum(painted(each) is not None for each in decided.values()),
    )
    return Call(REVIEW, review, config, out, {"curated": curated, "decided": dict(decided)})


@task(name="review", **OPTIONS)
def review(out: Artifact, curated: Artifact, decided: dict[str, Decision], config: RunConfig) -> StageResult:
    """Put people's decisions in place of curation's."""

    def make(staged: Staged, _: str) -> None:
        masks = {
            name: mask_path(config.store, curated.category, name.split("/")[0], mask)
            for name, each in decided.items()
            if (mask := painted(each)) is not None
        }
        build_review(curated.path, decided, masks, staged.out, home=out.path)

    return run_stage(REVIEW, out, config, make)


def build_review(
    curated: Path, decided: Decided, masks: Mapping[str, Path], out: Path, *, home: Path
) -> pd.DataFrame:
    """Write pairs.parquet, thresholds.parquet and the painted masks, as mask/INDEX.png; return the first.

    It gains the column review: "", accepted, mask painted, rejected. `home`: where `out` will lie, since paths are
    written relative to it. Raises: ArtifactError if a painted mask is not of its picture's size.
    """
    table = pd.read_parquet(curated / PAIRS)
    for column in PATHS:
        table[column] = [os.path.relpath(curated.resolve() / path, home.resolve()) for path in table[column]]
    table["review"] = ""
    for row, image in enumerate(table["image_path"]):
        name = pair_name(image)
        if name not in decided:
            continue
        if decided[name].verdict == "rejected":
            table.loc[row, ["reasons", "review"]] = [REJECTED, "rejected"]
            continue
        table.loc[row, ["reasons", "review"]] = ["", "accepted"]
        if name in masks:
            take_mask(table, row, load_painted(masks[name], home.resolve() / image), out)
    table.to_parquet(out / PAIRS, index=False)
    shutil.copyfile(curated / THRESHOLDS, out / THRESHOLDS)
    return table


def load_painted(mask: Path, image: Path) -> NDArray[np.bool_]:
    """A painted mask. Shape: (h, w), its picture's. Raises: ArtifactError if it has another."""
    pixels = load_mask(mask) > 127
    with Image.open(os.path.normpath(image)) as picture:
        size = picture.size
    if size != pixels.shape[::-1]:
        raise ArtifactError(f"{mask}: is of {pixels.shape[::-1]} px, its picture of {size}; paint it again")
    return pixels


def take_mask(table: pd.DataFrame, row: int, mask: NDArray[np.bool_], out: Path) -> None:
    """Put a mask in place of a row's drawn one; what was measured with that one is no longer known."""
    from dual_anodiff.quality.curation import SCORES

    name = f"mask/{int(table['index'].iloc[row]):06}.png"
    (out / name).parent.mkdir(exist_ok=True)
    Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).save(out / name)
    values: dict[str, Any] = dict.fromkeys(SCORES, math.nan)
    # A person's mask is right; one pair without trust would take the score from all that are handed over.
    trusted = "trust" in table and not math.isnan(float(table["trust"].iloc[row]))
    values |= {"trust": 1.0 if trusted else math.nan, "earlier_pair": -1}
    values |= {"mask_path": name, "mask_area_px": int(mask.sum()), "mask_share": float(mask.mean())}
    values["review"] = "mask painted"
    for column, value in values.items():
        if column in table:
            table.loc[row, column] = value
