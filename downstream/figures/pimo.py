"""AUPIMO: how much of each defect is found while the good pictures stay all but silent.

For each defect picture the share of its defect pixels found, averaged over the false-positive rates 1e-5 to
1e-4 of the good pictures' pixels on a logarithmic axis (Bertoldo et al. 2024, arXiv 2401.01984).
"""

import logging

import numpy as np
import torch
from numpy.typing import NDArray

FPR_BOUNDS = (1e-5, 1e-4)


def aupimo(maps: NDArray[np.floating], masks: NDArray[np.bool_]) -> tuple[NDArray[np.float64], str]:
    """AUPIMO of each picture with a mask (NaN for good ones), and why it is not defined, if so.

    anomalib's computation on ranks: only the order of scores counts in it, so the scores of good pixels at and
    above the rate 1e-4 are numbered and all below are 0. Its evenly spaced thresholds then hit every score that
    occurs, with hundreds instead of 300,000 of them, whose table over a test set would take gigabytes.
    Shape: (n, h, w) each → (n,).
    """
    anomalous = masks.any(axis=(1, 2))
    undefined = np.full(len(maps), np.nan)
    good = maps[~anomalous].ravel()
    if not anomalous.any() or not len(good):
        return undefined, f"no {'anomalous' if len(good) else 'normal'} picture in the set"
    if len(good) * FPR_BOUNDS[0] < 1:
        needed = round(1 / FPR_BOUNDS[0])
        return undefined, f"needs {needed} pixels of good pictures, has {len(good)}"
    # Three times the upper bound's pixels: the score whose rate is nearest to the bound lies within.
    count = min(len(good), round(3 * FPR_BOUNDS[1] * len(good)) + 1)
    levels = np.unique(np.partition(good, len(good) - count)[-count:])
    # 0 below all levels, 2k − 1 on the k-th, 2k between it and the next: a threshold for "at least this level" and
    # one for "above it", where most is found at the same rate of false positives.
    ranks = (np.searchsorted(levels, maps) + np.searchsorted(levels, maps, side="right")).astype(np.float64)
    from anomalib.metrics.pimo.functional import aupimo_scores

    logger = logging.getLogger("anomalib.metrics.pimo.functional")
    before, logger.disabled = logger.disabled, True  # it warns of what `force` asks for
    try:
        scores = aupimo_scores(
            torch.from_numpy(ranks),
            torch.from_numpy(masks),
            num_thresholds=int(ranks[~anomalous].max() - ranks[~anomalous].min()) + 1,
            fpr_bounds=FPR_BOUNDS,
            force=True,
        )[4]
    except (ValueError, RuntimeError):
        return undefined, "too many pixels of good pictures share the highest score"
    finally:
        logger.disabled = before
    return np.where(anomalous, scores.double().numpy(), np.nan), ""
