"""What figures, models and training sets are called on a page, what they mean, and how a number is written."""

from collections.abc import Sequence
from typing import Literal

import pandas as pd

Tone = Literal["good", "bad", "open", "warn"]

MODELS: dict[str, str] = {"localize": "Localization", "classify": "Classification", "detect": "Detection"}
# The one that a verdict goes by, where a run says one thing of a model.
HEADLINE: dict[str, str] = {"localize": "pixel_ap", "classify": "accuracy", "detect": "image_auroc"}
METRICS = {
    "image_auroc": ("image AUROC", "chance that a defective picture scores higher than a good one"),
    "image_ap": ("image AP", "area under precision and recall over pictures"),
    "image_f1_max": ("image F1-max", "best F1 over pictures that any threshold gives"),
    "pixel_auroc": ("pixel AUROC", "chance that a defective pixel scores higher than a good one"),
    "pixel_ap": ("pixel AP", "area under precision and recall over pixels"),
    "pixel_f1_max": ("pixel F1-max", "best F1 over pixels that any threshold gives"),
    "aupro": ("AUPRO", "share of each defect that is found, every defect alike, up to 30 % false pixels"),
    "accuracy": ("accuracy", "share of pictures put into their class"),
    "balanced_accuracy": ("balanced accuracy", "the same, every class alike"),
    "macro_f1": ("macro F1", "F1 of each class, mean"),
    "escape_rate": ("escapes", "defective parts passed at the threshold of validation"),
    "overkill_rate": ("overkill", "good parts refused at the threshold of validation"),
}
# Of the pairs: name, which way is better, what it is.
QUALITY = {
    "coverage": ("coverage", "higher", "share of shots whose look some pair comes near"),
    "density": ("density", "higher", "how many pairs lie near the shots' looks; 1 is expected of real ones"),
    "kid_encoder": ("KID", "lower", "distance of the pairs from the shots, as the ImageNet encoder sees them"),
    "fid_encoder": ("FID", "lower", "the same by another formula, biased where pictures are few"),
    "kid_encoder_normals": (
        "KID of normals",
        "for comparison",
        "what pictures without any defect would get",
    ),
    "ic_distance_encoder": ("diversity", "higher", "spread of the pairs that resemble the same shot"),
    "ic_background_encoder": ("diversity of background", "for comparison", "the part of it that no mask touches"),
    "ic_normals_encoder": ("diversity of normals", "for comparison", "much more in the background is damage"),
    "background_distance": ("background", "near 1", "distance of what lies outside of the mask from normals"),
    "mask_alignment": ("mask alignment", "higher", "product of the next two"),
    "mask_inside": ("mask inside", "higher", "share of the mask where the picture shows a defect"),
    "mask_outside": ("mask outside", "higher", "share of the defect that the mask holds"),
    "mask_empty": ("empty masks", "lower", "share of pairs with an empty mask"),
    "placement_centre": ("mask's place", "higher", "share of masks placed as the shots' are"),
    "placement_size": ("mask's size", "higher", "share of masks as large as the shots' are"),
    "placement_in_object": ("mask on object", "higher", "share of the mask that lies on the object"),
    "near_copies": ("copies of shots", "lower", "share of pairs that copy a shot"),
    "near_copies_earlier": ("copies of pairs", "lower", "share of pairs that copy an earlier pair"),
    "nearest_shot": ("distance to shots", "near 1", "to the nearest one, in units of the shots' own"),
    "copy_threshold": ("copy threshold", "for comparison", "distance below which a pair counts as a copy"),
    "is": ("IS", "higher", "inception score"),
    "kid": ("KID (Inception)", "lower", "distance of the pairs from the shots in Inception's features"),
    "fid": ("FID (Inception)", "lower", "the same by another formula, biased where pictures are few"),
    "ic_lpips": ("IC-LPIPS", "higher", "spread of the pairs that resemble the same shot, by LPIPS"),
}  # fmt: skip
TRAINING_SETS = {
    "real": "the real shots alone",
    "copy-paste": "the shots' defects pasted onto normals",
    "perlin": "textures pasted in Perlin shapes, no real defect",
    "copy-paste+real": "pasted defects besides the shots",
    "perlin+real": "Perlin shapes besides the shots",
    "generated": "generated pairs in place of the shots",
    "generated+real": "generated pairs besides the shots",
    "generated+copy-paste+real": "generated pairs and pasted defects besides the shots",
}
GENERATED = ("generated+real", "generated+copy-paste+real", "generated")
RATES = (
    "escape_rate",
    "overkill_rate",
)  # less is better; they hang on a threshold, and have a table of their own
TONES: dict[str, Tone] = {
    "helps": "good",
    "hurts": "bad",
    "no difference shown": "open",
    "too few test pictures": "warn",
}
# Beside the colour, for those who see none, and for paper.
SIGNS: dict[Tone, str] = {"good": "▲", "bad": "▼", "open": "≈", "warn": "?"}
NAMED = 6  # categories in a sentence


def said(verdict: str) -> str:
    """A verdict as the end of a sentence whose subject is a training set."""
    return {
        "no difference shown": "shows no difference",
        "too few test pictures": "has too few test pictures",
    }.get(verdict, verdict)


def points(difference: float, low: float, high: float) -> str:
    """A lift in percentage points with its interval."""
    return f"{signed(difference)} [{signed(low)}, {signed(high)}] points"


def signed(share: float) -> str:
    """A difference of shares in points, with a true minus; a dash where it is not defined."""
    if pd.isna(share):
        return "–"
    text = f"{100 * share:+.1f}".replace("-", "−")
    return "0.0" if text in ("−0.0", "+0.0") else text


def percent(share: float | None) -> str:
    """A share as a percentage; a dash where it is not defined."""
    return "–" if share is None or pd.isna(share) else f"{100 * share:.1f}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, the first ones of many."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
