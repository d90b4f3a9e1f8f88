"""How two sets of pictures compare as sets: KID, FID, inception score, coverage, spread within clusters.

The formulas of the first three are torchmetrics'; they are given features, whatever network those come from.
"""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

# Pictures of a cluster that are compared with each other, as in the code of Ojha et al. 2021.
CLUSTER_SIZE = 50


class _Given(nn.Module):
    """Stands in for torchmetrics' network: it is given features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def kid(real: Tensor, fake: Tensor, subset_size: int, subsets: int = 50) -> tuple[float, float]:
    """Kernel inception distance: mean and standard deviation over random subsets; about 0 for sets alike, no upper end.

    Unbiased at any size, so that sets alike may come out below 0; but the fewer, the more it is left to chance.
    Shape: (n, d), (m, d), n and m at least `subset_size`; NaN for one of 1. Source: Bińkowski et al. 2018, by torchmetrics.
    """
    if subset_size < 2:
        return math.nan, math.nan
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=".*will save all extracted features")
        torch.manual_seed(0)  # the subsets are drawn from the global generator
        metric = KernelInceptionDistance(
            feature=_Given(real.shape[1]), subsets=subsets, subset_size=subset_size
        )
        metric.update(real, real=True)
        metric.update(fake, real=False)
        mean, spread = metric.compute()
    return float(mean), float(spread)


def fid(real: Tensor, fake: Tensor) -> float:
    """Fréchet inception distance; 0 for the same set, no upper end.

    Biased upwards, the more the fewer pictures there are for d dimensions: compare only at equal counts.
    Shape: (n, d), (m, d); NaN where one of them is a single picture. Source: Heusel et al. 2017, by torchmetrics.
    """
    if min(len(real), len(fake)) < 2:
        return math.nan
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]))
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute())


def inception_score(logits: Tensor) -> tuple[float, float]:
    """Inception score: mean and standard deviation over ten parts, or of the whole below 1,000 pictures; from 1 up to d.

    Higher for pictures that each are surely of one of the network's classes, and together of many of them.
    Shape: (n, d). Source: Salimans et al. 2016, by torchmetrics.
    """
    from torchmetrics.image.inception import InceptionScore

    parts = 10 if len(logits) >= 1000 else 1
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=".*will save all extracted features|.*degrees of freedom")
        torch.manual_seed(0)
        metric = InceptionScore(feature=_Given(logits.shape[1]), splits=parts)
        metric.update(logits)
        mean, spread = metric.compute()
    return float(mean), float(spread) if parts > 1 else math.nan


def density_and_coverage(between_real: Tensor, to_fake: Tensor) -> tuple[float, float]:
    """Naeem's density and coverage, with the nearest other real picture (k = 1) as radius: real ones are few.

    density: how many real pictures' balls a generated one lies in, mean; 0 and up, 1 expected of pictures like the real.
    coverage: share of real pictures with a generated one in their ball; 0 to 1, see `expected_coverage`.
    Shape: between_real (m,), from each to the nearest other, infinite where there is none; to_fake (m, n).
    Source: Naeem et al. 2020, section 3. NaN for a single real picture.
    """
    if not between_real.isfinite().all():
        return math.nan, math.nan
    inside = to_fake < between_real[:, None]
    return float(inside.float().sum(0).mean()), float(inside.any(1).float().mean())


def expected_coverage(num_real: int, num_fake: int) -> float:
    """What `density_and_coverage` gives for generated pictures just like the real. Source: Naeem et al. 2020, k = 1."""
    return num_fake / max(1, num_fake + num_real - 1)


def spread_within_clusters(to_shots: Tensor, between: Callable[[Tensor], Tensor]) -> tuple[float, float, int]:
    """Mean pairwise distance of the pictures that have the same nearest shot, mean over shots.

    At most 50 of a cluster are compared; clusters of one have no distance and are left out. 0 if each cluster holds
    one picture over and over. `between` gives the (k, k) distances of the pictures with these numbers.
    Shape: to_shots (n, m). Returns: mean and standard deviation over clusters (NaN where there are too few), and how
    many pictures were compared. Source: intra-cluster LPIPS, Ojha et al. 2021, section 4.
    """
    nearest = to_shots.argmin(1)
    means, used = [], 0
    for shot in range(to_shots.shape[1]):
        index = torch.nonzero(nearest == shot).flatten()[:CLUSTER_SIZE]
        if len(index) >= 2:
            rows, columns = torch.triu_indices(len(index), len(index), offset=1)
            means.append(between(index)[rows, columns].nanmean())
            used += len(index)
    if not means:
        return math.nan, math.nan, 0
    stacked = torch.stack(means)
    return float(stacked.mean()), float(stacked.std()) if len(means) > 1 else math.nan, used
