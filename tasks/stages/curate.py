"""Stage curate: which of one defect type's pairs are worth training on, and why the others are not."""

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from prefect import task

from dual_anodiff.config import CurateRule
from dual_anodiff.image_encoder import SHA256 as ENCODER
from tasks.config import RunConfig
from tasks.data.split import ShotChoice, choice_key, chosen_shots
from tasks.errors import DataError
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.stage import OPTIONS, run_stage
from tasks.store.artifacts import Artifact, Staged, artifact_of, require
from tasks.tables.known_side import side_px
from tasks.tables.pairs import PAIRS, PATHS, THRESHOLDS, as_seen
from tasks.tables.prepared import read_samples

if TYPE_CHECKING:
    from torch import Tensor

    from dual_anodiff.quality.pairs import PairSet

log = logging.getLogger("anodiff")

CURATE = Stage("curate", version=4, time_by=("pairs",), sections=("curate", "finetune"))
MAX_NORMALS = 60  # as many as the detector keeps
# How many are drawn shows in what is drawn; what people decide is a stage of its own.
NOT_IN_KEY = {"max_draws", "use_review"}
# What needs the anomaly part.
NEEDS_PART: tuple[CurateRule, ...] = ("whole_object", "off_object", "unrelated")
# Out where pairs are drawn into normals: each is made from a shot, and its mask may be the pasted one while its part is
# faint; whether the picture changed there is known, and `masks_disagree` asks that.
NOT_INTO_NORMALS: tuple[CurateRule, ...] = ("copy_of_shot", "copy_of_pair", "unrelated")


def plan_curate(
    config: RunConfig,
    prepared: Artifact,
    drawn: Sequence[Artifact],
    defect: str,
    objects: Artifact | None = None,
    choice: ShotChoice | None = None,
) -> Call:
    """Name the judgement of one defect type's pairs; `drawn`: artifacts of pairs, in the order drawn.

    `choice`: of the split's shots, where the pairs were made from a part of them.
    Raises: DataError if there are no pairs.
    """
    if not drawn:
        raise DataError(f"curate {prepared.category}/{defect}: no pairs were drawn")
    out = CURATE.plan(
        config.store,
        prepared.category,
        label=drawn[0].label,
        defect=defect,
        samples=prepared,
        pairs=list(drawn),
        objects=objects,
        encoder=ENCODER,
        size_px=side_px(config),
        mask_threshold=config.generate.mask.threshold,
        **config.finetune.model_dump(include={"horizontal_flip", "vertical_flip"}),
        **config.curate.model_dump(exclude=NOT_IN_KEY)
        | {"rules": rules_for(config, into_normals="start" in drawn[0].inputs)},
        **choice_key(choice),
    )
    inputs = {
        "prepared": prepared,
        "drawn": list(drawn),
        "defect": defect,
        "objects": objects,
        "choice": choice,
    }
    return Call(CURATE, curate, config, out, inputs)


@task(name="curate", **OPTIONS)
def curate(
    out: Artifact,
    prepared: Artifact,
    drawn: list[Artifact],
    defect: str,
    config: RunConfig,
    objects: Artifact | None = None,
    choice: ShotChoice | None = None,
) -> StageResult:
    """Judge one defect type's pairs by the shots and the normals of the training side."""

    def make(staged: Staged, _: str) -> None:
        samples = chosen_shots(read_samples(prepared, config.data), choice)
        pairs = drawn_pairs(drawn).assign(label=defect)
        build_curate(
            samples,
            pairs,
            config,
            staged.out,
            home=out.path,
            objects=None if objects is None else objects.path,
            mask_threshold=mask_threshold(config, drawn, pairs),
        )
        warn_of_idle_rules(out.label, pd.read_parquet(staged.out / THRESHOLDS))

    return run_stage(CURATE, out, config, make)


def build_curate(
    samples: pd.DataFrame,
    pairs: pd.DataFrame,
    config: RunConfig,
    out: Path,
    *,
    home: Path | None = None,
    objects: Path | None = None,
    mask_threshold: float = 0.15,
) -> pd.DataFrame:
    """Write pairs.parquet and thresholds.parquet; return the first, its paths absolute.

    `samples`: the split, of which only the training side is read; `pairs`: of one defect type, with the columns of
    `drawn_pairs` and label. `home`: where `out` will lie, since paths are written relative to it. `objects`: folder of
    the finished stage.
    Raises: DataError if there are no pairs, or the training side has no shot of this type, or no normal.
    """
    from dual_anodiff.images import Shot
    from dual_anodiff.normals import evenly_spaced
    from dual_anodiff.quality.curation import curate as judge
    from dual_anodiff.quality.pairs import flip_names, load_images, load_shots

    if pairs.empty:
        raise DataError("curate: there are no pairs to judge; draw some first")
    defect = str(pairs["label"].iloc[0])
    # Test pictures would make what is trained on depend on them.
    known = samples[samples["split"] == "train"]
    for label in (defect, "good"):
        if not (known["label"] == label).any():
            raise DataError(f"curate {defect!r}: the split has no picture of {label!r} to train on")
    size_px, rules = side_px(config), rules_for(config, into_normals="mask_agreement" in pairs)
    shots = {
        str(label): load_shots(
            [
                Shot(Path(image), Path(mask))
                for image, mask in zip(rows["image_path"], rows["mask_path"], strict=True)
            ],
            size_px,
        )
        for label, rows in known[known["label_index"] == 1].groupby("label", sort=True)
    }
    good = sorted(Path(path) for path in known.loc[known["label"] == "good", "image_path"])
    drawn = as_seen(pairs, size_px)
    at = known_objects(objects, drawn, shots[defect]) if set(rules) & set(NEEDS_PART) else (None, None)
    found = judge(
        drawn,
        shots,
        defect,
        load_images(evenly_spaced(good, MAX_NORMALS), size_px),
        config.curate.model_copy(update={"rules": rules}),
        mask_threshold=mask_threshold,
        flips=flip_names(config.finetune.horizontal_flip, config.finetune.vertical_flip),
        objects=at[0],
        shot_objects=at[1],
        mask_agreement=pairs["mask_agreement"].tolist() if "mask_agreement" in pairs else None,
    )
    numbers = pairs["index"].tolist()
    scores = found.pairs.drop(columns=["pair", "mask_share"])
    scores["earlier_pair"] = [-1 if i < 0 else numbers[i] for i in scores["earlier_pair"]]
    table = pd.concat(
        [pairs.reset_index(drop=True).drop(columns="mask_agreement", errors="ignore"), scores], axis=1
    )
    home = (home or out).resolve()
    relative = {column: [os.path.relpath(path, home) for path in table[column]] for column in PATHS}
    table.drop(columns="label").assign(**relative).to_parquet(out / PAIRS, index=False)
    found.thresholds.to_parquet(out / THRESHOLDS, index=False)
    return table


def warn_of_idle_rules(label: str, thresholds: pd.DataFrame) -> None:
    """Say which rules shots and normals could not settle: what these would refuse passes. A texture has no object."""
    idle = thresholds[~thresholds["in_force"] & ~thresholds["rule"].isin(["whole_object", "off_object"])]
    if len(idle):
        why = ", ".join(
            f"{rule} ({reason})" for rule, reason in zip(idle["rule"], idle["why_not"], strict=True)
        )
        log.warning("%s: rules out of force: %s; look through the pairs with anodiff review", label, why)


def drawn_pairs(drawn: Sequence[Artifact]) -> pd.DataFrame:
    """All columns that the drawing stages wrote, paths absolute, and adapter_key; numbered through in the order drawn."""
    tables = []
    for artifact in drawn:
        table = pd.read_parquet(artifact.path / PAIRS)
        if "adapter_key" not in table:
            table["adapter_key"] = artifact.inputs["adapter"]
        for column in PATHS:
            table[column] = [os.path.normpath(artifact.path.resolve() / path) for path in table[column]]
        tables.append(table)
    joined = pd.concat(tables, ignore_index=True)
    # Each draw may have begun with 0; of the first one the numbers stay.
    return joined if joined["index"].is_unique else joined.assign(index=range(len(joined)))


def rules_for(config: RunConfig, *, into_normals: bool) -> tuple[CurateRule, ...]:
    """The rules asked for, without those that mean nothing where pairs are the shots' own defects, drawn into normals."""
    if not into_normals:
        return config.curate.rules
    return tuple(rule for rule in config.curate.rules if rule not in NOT_INTO_NORMALS)


def known_objects(
    folder: Path | None, pairs: "PairSet", shots: "PairSet"
) -> tuple["Tensor | None", "Tensor | None"]:
    """Where the part is in each pair and each shot; None where that is not known, or all is part."""
    import torch

    from dual_anodiff.objects.masks import load_objects, object_mask

    if folder is None:
        return None, None
    objects = load_objects(folder)
    if objects.kind == "texture":
        return None, None

    def of(each: "PairSet") -> "Tensor":
        # What of a defect touches the part belongs to it: a chip has the background's colour.
        seen = zip(each.image.float() / 127.5 - 1, each.mask, strict=True)
        return torch.stack([object_mask(objects, image, mask) for image, mask in seen])

    return of(pairs), of(shots)


def mask_threshold(config: RunConfig, drawn: Sequence[Artifact], pairs: pd.DataFrame) -> float:
    """The distance from the background that the pairs' masks were made with, as their rows say."""
    written = pairs["mask_threshold"].dropna().tolist() if "mask_threshold" in pairs else []
    if written:
        return float(written[0])
    # Drawn before that was written down: as it was settled then.
    from dual_anodiff.adapter_card import read_card

    given = config.generate.mask.threshold
    if given != "auto" or not set(config.curate.rules) & set(NEEDS_PART):
        return 0.0 if given == "auto" else given
    adapter = artifact_of(drawn[0].store, str(pairs["adapter_key"].iloc[0]))
    require(adapter)
    return read_card(adapter.path).mask_threshold


def more_to_draw(config: RunConfig, curated: Artifact) -> int:
    """How many pairs to draw so that generate.num_pairs pass, by the yield so far; 0 if they do or the budget is spent."""
    judged = pd.read_parquet(curated.path / PAIRS, columns=["reasons"])["reasons"]
    drawn, passed = len(judged), int((judged == "").sum())
    missing = config.generate.num_pairs - passed
    left = int(config.curate.max_draws * config.generate.num_pairs) - drawn
    if missing <= 0 or left <= 0:
        return 0
    # One more of each, since none of a few is not none at all.
    return min(left, math.ceil(missing * (drawn + 2) / (passed + 1)))
