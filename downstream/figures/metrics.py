"""How good predictions are: AUROC, AP, F1-max, AUPRO, AUPIMO, and what a line feels (escapes and overkill).

All are exact (no binned thresholds). For one set of scores torchmetrics gives AUROC and AP, anomalib F1-max and
AUPRO; metrics_table, which needs them for many groups of the same pictures, has them from counts by score
level (downstream/figures/counts.py), AUPIMO from anomalib. A metric that is not defined (one class absent) is NaN, and
metrics_table says why.
"""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from downstream.figures.counts import FPR_LIMIT, best_cuts, curve_areas, image_counts, pixel_counts
from downstream.figures.defect_sizes import SIZES, sizes_of
from downstream.figures.pimo import aupimo
from downstream.figures.predictions import Predictions

COLUMNS = ["defect_type", "size", "metric", "value", "n", "n_good", "n_defect", "note"]

Floats = NDArray[np.floating]
Truth = NDArray[np.bool_] | NDArray[np.integer]


def image_metrics(scores: Floats, labels: Truth) -> dict[str, float]:
    """image_auroc, image_ap, image_f1_max. Shape: (n,) each; labels 0 normal, 1 anomalous."""
    return {f"image_{name}": value for name, value in _ranking_metrics(scores, labels).items()}


def pixel_metrics(maps: Floats, masks: Truth) -> dict[str, float]:
    """pixel_auroc, pixel_ap, pixel_f1_max, aupro. Shape: (n, h, w) each; masks 0 or 1."""
    values = {f"pixel_{name}": value for name, value in _ranking_metrics(maps, masks).items()}
    return values | {"aupro": aupro(maps, masks)}


def aupro(maps: Floats, masks: Truth, fpr_limit: float = FPR_LIMIT) -> float:
    """Area under the per-region overlap up to `fpr_limit`, as a share of it; regions are 8-connected.

    Shape: (n, h, w) each. NaN if there is no region or no background pixel.
    """
    from anomalib.metrics.aupro import (
        _AUPRO,
    )  # AUPRO proper wants anomalib's batches; this is its torchmetrics core

    truth = np.asarray(masks).astype(bool)
    if not truth.any() or truth.all():
        return float("nan")
    metric = _AUPRO(fpr_limit=fpr_limit)
    metric.update(torch.from_numpy(np.asarray(maps, dtype=np.float32)), torch.from_numpy(truth).int())
    return float(metric.compute())


def threshold_metrics(scores: Floats, labels: Truth, threshold: float) -> dict[str, float]:
    """escape_rate (anomalous passed), overkill_rate (normal refused) and image_f1 at a fixed threshold.

    A picture is refused if its score reaches the threshold. Shape: (n,) each. NaN where the class is absent.
    """
    truth = np.asarray(labels).astype(bool)
    refused = np.asarray(scores) >= threshold
    return {
        "escape_rate": _mean(~refused[truth]),
        "overkill_rate": _mean(refused[~truth]),
        "image_f1": _f1(refused, truth),
    }


def best_threshold(scores: Floats, labels: Truth) -> float:
    """The cut with the highest F1, put midway between the lowest score above it and the highest below.

    Any cut in that gap has the same F1 on these scores; its middle leaves the most room on both sides for
    scores not seen yet. Shape: any, alike. NaN if a class is absent.
    """
    truth = np.asarray(labels).ravel().astype(bool)
    values = np.asarray(scores, dtype=np.float64).ravel()
    if not truth.any() or truth.all():
        return float("nan")
    order = np.argsort(-values, kind="stable")
    ranked, hits = values[order], np.cumsum(truth[order])
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # last of each run of equal scores
    f1 = 2 * hits[last] / (truth.sum() + last + 1)
    best = int(np.argmax(f1))
    above = ranked[last[best]]
    return float((above + ranked[last[best + 1]]) / 2) if best + 1 < len(last) else float(above)


def metrics_table(predictions: Predictions, mask_share: Floats | None = None) -> pd.DataFrame:
    """All metrics over all pictures and, beside the good ones, for each defect type and each defect size alone.

    Columns: defect_type ("all" or a type), size ("all" or a bin of defect_sizes.SIZES; with a bin, defect_type
    is "all"), metric, value, n, n_good, n_defect (pictures), note (why a value is NaN). `mask_share`: share of
    each picture that is defect, as defect_sizes.mask_shares reads it from the files; without it the share of
    gt_mask, in which thin defects are larger. Rows named oracle_… are what a threshold set on these very
    pictures would have given: no figure that a line could reach, but what the threshold of validation is
    measured by (threshold_gap = threshold − oracle_threshold).
    """
    label, truth = predictions.label, predictions.label_index.astype(bool)
    share = predictions.gt_mask.mean(axis=(1, 2)) if mask_share is None else np.asarray(mask_share)
    size = np.where(truth, sizes_of(share), "")
    groups = [("all", "all", truth)]
    groups += [(each, "all", truth & (label == each)) for each in sorted(set(label[truth].tolist()))]
    groups += [("all", each, size == each) for each in SIZES if (size == each).any()]
    chosen = np.stack([~truth | defects for _, _, defects in groups])  # (groups, n)
    per_picture, why_no_aupimo = aupimo(predictions.anomaly_map, predictions.gt_mask)
    ranking = _ranking_of_groups(predictions, chosen.astype(np.float64))
    rows = []
    for row, (defect_type, of_size, defects) in enumerate(groups):
        values = {name: float(column[row]) for name, column in ranking.items()}
        values["aupimo"] = float(per_picture[defects].mean()) if defects.any() else float("nan")
        values |= _threshold_rows(predictions, chosen[row], values)
        n_defect, n_good = int(defects.sum()), int((~truth).sum())
        for metric, value in values.items():
            note = _why_undefined(n_good, n_defect) if np.isnan(value) else ""
            if note and metric == "aupimo":
                note = why_no_aupimo or note
            rows.append((defect_type, of_size, metric, value, n_good + n_defect, n_good, n_defect, note))
    return pd.DataFrame(rows, columns=COLUMNS)


def pixel_ap(maps: Tensor, masks: Tensor) -> float:
    """Average precision over all pixels, on the tensors' own device; selection's metric. Shape: alike."""
    # torchmetrics costs 3 s to import on a small machine; whoever only predicts does not pay for it
    from torchmetrics.functional.classification import binary_average_precision

    return float(binary_average_precision(maps.flatten(), masks.flatten().long()))


def _ranking_of_groups(
    predictions: Predictions, weights: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """image_ and pixel_ auroc, ap, f1_max, aupro and the cuts with the best F1. Shape: (groups, n) → (groups,)."""
    images = image_counts(predictions.pred_score, predictions.label_index)
    pixels = pixel_counts(predictions.anomaly_map, predictions.gt_mask)
    of_images, of_pixels = curve_areas(images, weights), curve_areas(pixels, weights)
    values = {f"image_{name}": of_images[name] for name in ("auroc", "ap", "f1_max")}
    values |= {f"pixel_{name}": of_pixels[name] for name in ("auroc", "ap", "f1_max")}
    values["aupro"] = of_pixels["aupro"]
    values["oracle_threshold"] = best_cuts(images, weights)
    values["oracle_pixel_threshold"] = best_cuts(pixels, weights)
    return values


def _threshold_rows(
    predictions: Predictions, chosen: NDArray[np.bool_], values: dict[str, float]
) -> dict[str, float]:
    """What the thresholds of validation give on the chosen pictures, and what the oracle's would have given."""
    scores, labels = predictions.pred_score[chosen], predictions.label_index[chosen]
    maps, masks = predictions.anomaly_map[chosen], predictions.gt_mask[chosen]
    oracle = threshold_metrics(scores, labels, values["oracle_threshold"])
    if np.isnan(values["oracle_threshold"]):  # nothing reaches NaN: rates of 0 would look like figures
        oracle = dict.fromkeys(oracle, float("nan"))
    return {
        **threshold_metrics(scores, labels, predictions.image_threshold),
        "pixel_f1": _f1(maps >= predictions.pixel_threshold, masks),
        **{f"oracle_{name}": value for name, value in oracle.items()},
        "oracle_pixel_f1": values["pixel_f1_max"],
        "threshold": predictions.image_threshold,
        "threshold_gap": predictions.image_threshold - values["oracle_threshold"],
        "pixel_threshold": predictions.pixel_threshold,
        "pixel_threshold_gap": predictions.pixel_threshold - values["oracle_pixel_threshold"],
    }


def _ranking_metrics(scores: Floats, truth: Truth) -> dict[str, float]:
    """auroc, ap, f1_max of any scores; NaN if a class is absent."""
    # anomalib brings Lightning (3 s more than torchmetrics): imported where it is used
    from anomalib.metrics.f1_score import _F1Max
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    target = torch.from_numpy(np.asarray(truth).astype(np.int64)).flatten()
    if target.numel() == 0 or target.min() == target.max():
        return dict.fromkeys(("auroc", "ap", "f1_max"), float("nan"))
    values = torch.from_numpy(_unit_range(np.asarray(scores))).flatten()
    f1_max = _F1Max()
    f1_max.update(values, target)
    return {
        "auroc": float(binary_auroc(values, target)),
        "ap": float(binary_average_precision(values, target)),
        "f1_max": float(f1_max.compute()),
    }


def _unit_range(scores: Floats) -> Floats:
    """Scores as they are if within 0..1, else stretched onto it; ranks, all that counts here, stay.

    torchmetrics would squash others by a sigmoid, under which large ones become equal.
    """
    low, high = scores.min(), scores.max()
    if low >= 0 and high <= 1:
        return scores
    wide = scores.astype(np.float64)
    return (wide - low) / max(float(high) - float(low), 1e-300)


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _f1(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """2·TP / (predicted + true); NaN if nothing is true."""
    if not truth.any():
        return float("nan")
    return float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))


def _why_undefined(n_good: int, n_defect: int) -> str:
    if n_defect == 0:
        return "no anomalous picture in the set"
    return "no normal picture in the set" if n_good == 0 else "not defined on these masks"
