"""Thresholds of curation's rules: what real shots stay within, and what would be refused by them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from scipy.special import stdtrit
from torch import Tensor

from dual_anodiff.config import CurateConfig, CurateRule
from dual_anodiff.quality.trust import OBJECT_IOU, MaskEvidence, failures, largest_share
from dual_anodiff.residual import AGREES

# Of real pictures a rule may refuse as many: unseen, damaged and wrong_type have such a threshold, together one in ten.
FALSE_REFUSALS = 0.1 / 3
# And of what it is there to refuse it must catch as many.
LEAST_CATCH = 0.9
# A rule that tells by one shot in ten, or more, that they are no defects is wrong here.
OWN_REFUSED = 0.1
# Of held-out shots a classifier must tell as many: below it what it says of further pictures is worth less still.
LEAST_TOLD = 0.7
MIN_FREEDOM = 3  # shots, less one a type, that tell how far shots of one type differ
MIN_NORMALS = 8
OFF_OBJECT = 0.5
# Of many pairs the nearest is nearer than of a few shots, though it is no copy; and two alike waste a place, they teach
# nothing wrong.
REPEAT = 0.5
# `largest_share` has an end that the shots of some types come near; the largest of few is no bound.
LARGER_THAN_SHOTS = 1.5


@dataclass(frozen=True)
class Limit:
    """One rule's threshold; `why_not` says why it is not in force, "" where it is. NaN: there is no number."""

    rule: CurateRule
    threshold: float
    why_not: str = ""
    n_shots: int = 0
    n_normals: int = 0

    @property
    def in_force(self) -> bool:
        """Whether pairs are refused by it."""
        return not self.why_not


def least_expected(values: Mapping[str, Tensor], name: str) -> float | None:
    """What all but FALSE_REFUSALS of further shots of a type are above; None where the shots are too few to tell.

    The types' spread is taken as one, since a type has few shots: mean − t·s·√(1 + 1/m), with Student's t of all types'
    degrees of freedom. NaN values are left out. Source: the one-sided prediction interval of a normal variable.
    """
    known = {key: of[~of.isnan()].double() for key, of in values.items()}
    freedom = sum(max(0, len(of) - 1) for of in known.values())
    own = known[name]
    if freedom < MIN_FREEDOM or not len(own):
        return None
    squares = sum(float((of - of.mean()).square().sum()) for of in known.values() if len(of))
    reach = float(stdtrit(freedom, 1 - FALSE_REFUSALS)) * math.sqrt(squares / freedom * (1 + 1 / len(own)))
    return min(float(own.mean()) - reach, float(own.min()))


def too_few(values: Mapping[str, Tensor]) -> str:
    """Why `least_expected` gave None."""
    return f"too few shots ({', '.join(f'{len(of)} {name}' for name, of in values.items())}) to tell how real ones differ"


def mask_limits(
    config: CurateConfig,
    shot_masks: Tensor,
    evidence: MaskEvidence | None,
    has_objects: bool,
    into_normals: bool = False,
) -> list[Limit]:
    """Limits of the rules that look at masks. `evidence`: of the shots, with their objects where there are any.

    `into_normals`: the pairs were drawn into normals, so that it is known where these changed.

    Shape: shot_masks (m, h, w) bool.
    """
    m = len(shot_masks)
    share = float(shot_masks.float().flatten(1).mean(1).max())
    wide = max(largest_share(shot_masks), LARGER_THAN_SHOTS * share)
    limits = [
        Limit("empty", 0.0),
        Limit("too_large", min(config.max_mask_share, wide), n_shots=m),
    ]
    if into_normals:
        limits.append(Limit("masks_disagree", AGREES))
    if evidence is not None:
        on_object = int((evidence.object_iou > OBJECT_IOU).sum())
        no_object = "" if has_objects else "no object masks are given"
        limits += [
            Limit("whole_object", OBJECT_IOU, no_object or _own(on_object, m), m),
            Limit("unrelated", math.nan, _own(sum(unrelated(evidence)), m), m),
        ]
        least = float(evidence.containment.min())
        off = min(OFF_OBJECT, 0.8 * least)
        why = "" if least > 0.2 else f"a shot has {least:.0%} of its mask on the object"
        limits.append(Limit("off_object", off, no_object or why, m))
    # Whatever the rules: a defect picture without a defect's mask can't be trained on.
    return [limit for limit in limits if limit.rule in config.rules or limit.rule == "empty"]


def unrelated(evidence: MaskEvidence) -> list[bool]:
    """Which masks belong to another thing than the image shows there, or whose parts spill far beyond them.

    Colours in the mask as around it are no fault here: 4 of 51 held-out defects of magnetic_tile have none of their own.
    Whether there is anything to be seen, `unseen` says.
    """
    elsewhere = replace(
        evidence,
        object_iou=torch.zeros_like(evidence.object_iou),
        visibility=torch.ones_like(evidence.visibility),
    )
    return [failure in ("unrelated", "full") for failure in failures(elsewhere, 1.0)]


def copy_limits(config: CurateConfig, threshold: float, between: Tensor) -> list[Limit]:
    """Limits of the rules on copies. Shape: between (m,), from each shot to the nearest other one."""
    near = int((between <= threshold).sum())
    why = (
        f"{near} of {len(between)} shots are as near to another one"
        if near > OWN_REFUSED * len(between)
        else ""
    )
    # At least one: a single shot has no other, and its copies are known all the same.
    m = max(1, len(between))
    limits = [Limit("copy_of_shot", threshold, why, m), Limit("copy_of_pair", REPEAT * threshold, "", m)]
    return [limit for limit in limits if limit.rule in config.rules]


def unseen_limit(shots: Mapping[str, Tensor], name: str, laid: Tensor, n_normals: int) -> Limit:
    """Below what a defect is not seen. `laid`: the shots' masks on normals, which it is there to refuse.

    Shape: as `detector.in_mask` gives them, logarithms; the limit is none.
    """
    m = len(shots[name])
    if n_normals < MIN_NORMALS:
        return Limit("unseen", math.nan, f"{n_normals} normals are too few", m, n_normals)
    least = least_expected(shots, name)
    if least is None:
        return Limit("unseen", math.nan, too_few(shots), m, n_normals)
    # What hardly a normal reaches is seen, however clearly the shots are.
    threshold = min(least, float(laid.quantile(0.95)))
    caught = float((laid < threshold).float().mean())
    why = "" if caught >= LEAST_CATCH else f"of normals with a shot's mask it would refuse {caught:.0%} only"
    return Limit("unseen", math.exp(threshold), why, m, n_normals)


def damaged_limit(
    shots: Mapping[str, Tensor], name: str, beside: Tensor, n_normals: int, pairs: Tensor
) -> Limit:
    """Above what the background is damaged: what neither further shots nor 98 of 100 normals, blurred or not, reach.

    By as much as the best quarter of the pairs is above the shots it is higher: a small base draws every background softer
    than a camera, which is no damage of one pair. Shape: as `detector.beside_mask` gives them, logarithms; `beside` of
    normals (ways, k), `pairs` (n,).
    """
    m = len(shots[name])
    if n_normals < MIN_NORMALS:
        return Limit("damaged", math.nan, f"{n_normals} normals are too few", m, n_normals)
    known = [way[~way.isnan()] for way in beside]
    if not all(map(len, known)):
        return Limit("damaged", math.nan, "the shots' masks leave no background", m, n_normals)
    least = least_expected({key: -of for key, of in shots.items()}, name)
    normal = max(float(way.quantile(0.98)) for way in known)
    threshold = normal if least is None else max(-least, normal)
    drawn, own = pairs[~pairs.isnan()], shots[name][~shots[name].isnan()]
    if len(drawn) and len(own):
        threshold += max(0.0, float(drawn.quantile(0.25) - own.median()))
    return Limit("damaged", math.exp(threshold), "", m, n_normals)


def wrong_type_limit(held_out: Mapping[str, Tensor], name: str) -> Limit:
    """Below what probability a pair is of another type. `held_out`: the shots' odds by classifiers that did not see them.

    Shape: each (m, types), log-odds in the mapping's order, NaN where a shot could not be held out; the limit is a
    probability.
    """
    m = len(held_out[name])
    if len(held_out) < 2:
        return Limit("wrong_type", math.nan, "one defect type only: there is nothing to tell apart", m)
    odds = {key: of[:, list(held_out).index(name)] for key, of in held_out.items()}
    least = least_expected(odds, name)
    if least is None:
        return Limit("wrong_type", math.nan, too_few(odds), m)
    right_type = torch.cat([of[~of.isnan().any(1)].argmax(1) == i for i, of in enumerate(held_out.values())])
    right = float(right_type.float().mean())
    if right < LEAST_TOLD:
        return Limit("wrong_type", math.nan, f"it tells {right:.0%} of held-out shots only", m)
    # One that is as likely of this type as by chance is not refused.
    threshold = min(least, -math.log(len(odds) - 1))
    others = torch.cat([of[~of.isnan()] for key, of in odds.items() if key != name])
    caught = float((others < threshold).float().mean()) if len(others) else 0.0
    why = "" if caught >= LEAST_CATCH else f"of other types' shots it would refuse {caught:.0%} only"
    return Limit("wrong_type", 1 / (1 + math.exp(-threshold)), why, m)


def _own(refused: int, count: int) -> str:
    return f"it would refuse {refused} of {count} shots" if refused > OWN_REFUSED * count else ""
