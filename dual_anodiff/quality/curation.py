"""Which of a defect type's pairs are worth training on: scores, thresholds from shots and normals, reasons.

A rule is there to refuse what is clearly bad: its threshold is where hardly a real shot would fall, and where shots and
normals can't tell what it is there for, it is out of force and says why. Test pictures are no part of it.

rule            refuses                                           threshold
empty           a mask of nothing                                 –
too_large       a mask far larger than any shot's                 `trust.largest_share`, curate.max_mask_share
masks_disagree  a part elsewhere than the picture changed         `residual.AGREES`; of pairs drawn into normals
whole_object    a mask that is the object's                       `trust.OBJECT_IOU`; needs object masks
off_object      a mask beside the object                          from the shots; needs object masks
unrelated       a part that shows another thing than the image    `trust.failures`
unseen          what normals show in the mask just as well        `limits.unseen_limit`
damaged         what no normal nor pair shows beside the mask     `limits.damaged_limit`
copy_of_shot    a shot's defect, mirrored or not                  `neighbours.copy_threshold`
copy_of_pair    an earlier pair's, if that is not refused         half of that
wrong_type      what looks like another type's shots              `limits.wrong_type_limit`
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import pandas as pd
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from dual_anodiff.config import CurateConfig, CurateRule
from dual_anodiff.errors import InputError
from dual_anodiff.quality.detector import anomaly_score, beside_mask, in_mask, memory_of, under
from dual_anodiff.quality.features import Features, Seen, look, scaled
from dual_anodiff.quality.limits import (
    Limit,
    copy_limits,
    damaged_limit,
    mask_limits,
    unrelated,
    unseen_limit,
    wrong_type_limit,
)
from dual_anodiff.quality.neighbours import copy_threshold, find_neighbours, nearest_over_flips
from dual_anodiff.quality.pairs import FLIPS, PairSet, flipped
from dual_anodiff.quality.trust import MaskEvidence, mask_evidence, trust
from dual_anodiff.quality.wrong_type import type_odds

REASONS: dict[CurateRule, str] = {
    "empty": "mask empty",
    "too_large": "mask too large",
    "masks_disagree": "masks disagree",
    "whole_object": "mask of the object",
    "off_object": "mask off the object",
    "unrelated": "mask unrelated",
    "unseen": "defect not seen",
    "damaged": "background damaged",
    "copy_of_shot": "copy of a shot",
    "copy_of_pair": "copy of an earlier pair",
    "wrong_type": "wrong defect",
}
SCORES = (
    "mask_agreement", "agreement", "visibility", "containment", "object_iou", "trust", "seen", "damage", "copy_distance",
    "earlier_pair", "earlier_distance", "type_probability",
)  # fmt: skip
NEED_PARTS: tuple[CurateRule, ...] = ("whole_object", "off_object", "unrelated")
DETECTED: tuple[CurateRule, ...] = ("unseen", "damaged")
COPIES: tuple[CurateRule, ...] = ("copy_of_shot", "copy_of_pair")
AT_ONCE = 64  # pairs held as floats
MEMORY = 60  # normals that the detector remembers
BLUR_PX = 1.2  # standard deviation at 128 px: about what a small VAE does to a picture


@dataclass(frozen=True)
class Curation:
    """What was found.

    pairs: pair (its position), mask_share, SCORES (NaN where no rule asks for them; earlier_pair −1, also where another
    rule refuses the pair), reasons ("" for an accepted pair, else REASONS joined by "; ").
    thresholds: rule, threshold, why_not, n_shots, n_normals, in_force, refused (pairs, also by other rules).
    """

    pairs: pd.DataFrame
    thresholds: pd.DataFrame

    @property
    def accepted(self) -> list[bool]:
        """Which pairs nothing is said against."""
        return [not reasons for reasons in self.pairs["reasons"]]


def curate(
    pairs: PairSet,
    shots: Mapping[str, PairSet],
    defect: str,
    normals: Tensor,
    config: CurateConfig | None = None,
    *,
    mask_threshold: float = 0.15,
    features: Features | None = None,
    flips: Sequence[str] = tuple(FLIPS),
    objects: Tensor | None = None,
    shot_objects: Tensor | None = None,
    mask_agreement: Sequence[float] | None = None,
) -> Curation:
    """Judge a defect type's pairs, in the order drawn. What is not in config.rules is not computed.

    `shots`: of all defect types, so that the wrong one can be told. `mask_threshold`: that the pairs' masks were made
    with. `objects`, `shot_objects`: where the part is in each pair and in each shot of this type, or for all.
    `mask_agreement`: of pairs drawn into normals, how far the part and the change of the picture are in one place.
    Shape: normals (k, 3, h, w) uint8; objects (n, h, w) and (m, h, w), or (h, w), bool.
    Raises: InputError where there are no pairs, no shots of this type, or too few normals for a rule asked for.
    """
    config = config or CurateConfig()
    rules = config.rules
    if not len(pairs):
        raise InputError("pairs: none; there is nothing to curate")
    if not len(shots.get(defect, ())):
        raise InputError(f"shots: none of {defect!r}; thresholds come from them")
    if pairs.anomaly is None and _any(NEED_PARTS, rules):
        raise InputError(f"pairs: without anomaly parts; leave {', '.join(NEED_PARTS)} out of the rules")
    if objects is not None and shot_objects is None:
        raise InputError("objects: given for pairs alone; give the shots' too, thresholds come from them")
    own = shots[defect]
    table = pd.DataFrame({"pair": range(len(pairs)), "mask_share": pairs.mask.float().mean((1, 2)).tolist()})
    table = table.assign(**dict.fromkeys(SCORES, math.nan)).assign(earlier_pair=-1, unrelated=False)
    if mask_agreement is not None:
        table["mask_agreement"] = list(mask_agreement)
    empty = table["mask_share"] == 0

    evidence = None
    if _any(NEED_PARTS, rules):
        evidence = _evidence_of(own, mask_threshold, shot_objects)
        found = _evidence_of(pairs, mask_threshold, objects)
        for name in ("agreement", "visibility", "containment", "object_iou"):
            table[name] = getattr(found, name).tolist()
        table["trust"] = trust(found).tolist()
        table["unrelated"] = unrelated(found)
    limits = mask_limits(config, own.mask, evidence, shot_objects is not None, mask_agreement is not None)

    if not _any((*DETECTED, *COPIES, "wrong_type"), rules):
        return _judged(table, limits)
    features = features or Features()
    seen = look(features, pairs.image, pairs.mask)
    if _any(COPIES, rules):
        in_flips = [look(features, each.image, each.mask) for each in (flipped(own, flip) for flip in flips)]
        between = nearest_over_flips(in_flips[0], in_flips).fill_diagonal_(torch.inf).amin(1)
        threshold = copy_threshold(own, in_flips[0], features)
        limits += copy_limits(config, threshold, between[between.isfinite()])
        if "copy_of_shot" in rules:
            table["copy_distance"] = nearest_over_flips(seen, in_flips).amin(1).tolist()
    if _any(DETECTED, rules):
        limits += _detect(seen, shots, defect, normals, features, rules, table)
    if "wrong_type" in rules:
        held_out = {defect: torch.zeros(len(own), 1)}
        if len(shots) > 1:
            odds, held_out = type_odds(seen.defect, shots, features, flips)
            of_type = odds[:, list(shots).index(defect)].sigmoid()
            table["type_probability"] = of_type.masked_fill(torch.tensor(empty.tolist()), torch.nan).tolist()
        limits.append(wrong_type_limit(held_out, defect))
    if "copy_of_pair" in rules:
        _compare_with_earlier(table, _hits(table, limits), pairs, own, features, flips)
    return _judged(table, limits)


def _compare_with_earlier(
    table: pd.DataFrame,
    hits: Mapping[CurateRule, pd.Series],
    pairs: PairSet,
    own: PairSet,
    features: Features,
    flips: Sequence[str],
) -> None:
    """Fill in the nearest earlier pair of those that nothing else is said against: one like a refused pair may stay."""
    passing = [i for i in table.index if not any(hit[i] for hit in hits.values())]
    if len(passing) < 2:
        return
    near = find_neighbours(PairSet(pairs.image[passing], pairs.mask[passing]), own, features, flips).table
    table.loc[passing, "earlier_pair"] = [-1 if i < 0 else passing[i] for i in near["earlier_pair"]]
    table.loc[passing, "earlier_distance"] = near["earlier_distance"].tolist()


def _judged(table: pd.DataFrame, limits: Sequence[Limit]) -> Curation:
    """Put the limits to the scores and say why."""
    hits = _hits(table, limits)
    reasons = [
        "; ".join(REASONS[rule] for rule in REASONS if rule in hits and bool(hits[rule][i]))
        for i in table.index
    ]
    rows = pd.DataFrame([astuple(limit) for limit in limits], columns=[f.name for f in fields(Limit)])
    rows["in_force"] = [limit.in_force for limit in limits]
    rows["refused"] = [int(hits[limit.rule].sum()) if limit.rule in hits else 0 for limit in limits]
    return Curation(table.drop(columns="unrelated").assign(reasons=reasons), rows)


def _hits(table: pd.DataFrame, limits: Sequence[Limit]) -> dict[CurateRule, pd.Series]:
    """Which pairs each rule in force refuses; a missing score is no reason."""
    thresholds = {limit.rule: limit.threshold for limit in limits}
    rules: dict[CurateRule, pd.Series] = {
        "empty": table["mask_share"] == 0,
        "too_large": table["mask_share"] > thresholds.get("too_large", 1),
        "masks_disagree": table["mask_agreement"] < thresholds.get("masks_disagree", 0),
        "whole_object": table["object_iou"] > thresholds.get("whole_object", 1),
        "off_object": table["containment"] < thresholds.get("off_object", 0),
        "unrelated": table["unrelated"],
        "unseen": table["seen"] < thresholds.get("unseen", 0),
        "damaged": table["damage"] > thresholds.get("damaged", math.inf),
        "copy_of_shot": table["copy_distance"] <= thresholds.get("copy_of_shot", -1),
        "copy_of_pair": table["earlier_distance"] <= thresholds.get("copy_of_pair", -1),
        "wrong_type": table["type_probability"] < thresholds.get("wrong_type", 0),
    }
    in_force = [limit.rule for limit in limits if limit.in_force]
    # An empty mask is reason enough: all else about it follows.
    return {
        rule: hit & ((rule == "empty") | (table["mask_share"] > 0))
        for rule, hit in rules.items()
        if rule in in_force
    }


def _evidence_of(pairs: PairSet, threshold: float, objects: Tensor | None) -> MaskEvidence:
    """The evidence of pairs or, with their own pixels as parts, of shots."""
    found = []
    if objects is not None and objects.dim() == 2:
        objects = objects.expand(len(pairs), -1, -1)
    for start in range(0, len(pairs), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        images, masks = _signed(pairs.image[part]), pairs.mask[part]
        parts = images * masks[:, None] if pairs.anomaly is None else _signed(pairs.anomaly[part])
        of = None if objects is None else objects[part]
        found.append(mask_evidence(images, parts, masks, threshold, of))
    return MaskEvidence(*(torch.cat([getattr(w, f.name) for w in found]) for f in fields(MaskEvidence)))


def _detect(
    seen: Seen,
    shots: Mapping[str, PairSet],
    defect: str,
    normals: Tensor,
    features: Features,
    rules: Sequence[CurateRule],
    table: pd.DataFrame,
) -> list[Limit]:
    """The detector's scores, put into the table, and its limits."""
    normals = normals[torch.linspace(0, len(normals) - 1, min(MEMORY, len(normals))).round().long()]
    clear = torch.zeros(len(normals), *normals.shape[-2:])
    memory = memory_of(look(features, normals, clear))
    scores = anomaly_score(memory, seen)
    looks = {name: look(features, of.image, of.mask) for name, of in shots.items()}
    of_shots = {name: anomaly_score(memory, each) for name, each in looks.items()}
    masks, limits = looks[defect].masked[0], []
    if "unseen" in rules:
        table["seen"] = in_mask(memory, scores, seen.masked[0]).exp().tolist()
        known = {name: in_mask(memory, of_shots[name], each.masked[0]) for name, each in looks.items()}
        laid = in_mask(memory, *under(masks, memory.normals))
        limits.append(unseen_limit(known, defect, laid, len(normals)))
    if "damaged" in rules:
        of_pairs = beside_mask(memory, scores, seen.masked[0])
        table["damage"] = of_pairs.exp().tolist()
        known = {name: beside_mask(memory, of_shots[name], each.masked[0]) for name, each in looks.items()}
        blurred = look(features, gaussian_blur(scaled(normals), 7, BLUR_PX), clear)
        ways = [memory.normals, anomaly_score(memory, blurred, held_back=True)]
        beside = torch.stack([beside_mask(memory, *under(masks, way)) for way in ways])
        limits.append(damaged_limit(known, defect, beside, len(normals), of_pairs))
    return limits


def _signed(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _any(wanted: Sequence[CurateRule], rules: Sequence[CurateRule]) -> bool:
    return any(rule in rules for rule in wanted)
