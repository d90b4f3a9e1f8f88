"""What the generated pairs of one defect type are worth, as a table of figures.

The reference set is the few shots, all defect pictures that the generator may see; test pictures are no part of it.
So n_reference is small and no figure is exact: compare runs that have the same shots and as many pairs. Distances are
the ImageNet encoder's (`features`), and bear its name; where the literature's weights are given, the literature's figures
stand beside them.

metric                         range    better  what it is
is, kid, fid                            ↑ ↓ ↓   `distribution`, in Inception's features; quality.inception_weights
ic_lpips                       0 ..     ↑       `distribution.spread_within_clusters` of LPIPS; quality.lpips_weights
kid_encoder, fid_encoder       ≈0 ..    ↓       the same as kid and fid, in the ImageNet encoder's features
kid_encoder_normals            ≈0 ..    –       the normals' own: what pairs without any defect would get
ic_distance_encoder            0 .. 2   ↑       spread within clusters of the encoder's distance
ic_background_encoder          0 .. 2   –       the same, of what neither mask touches: spread that is not the defects'
ic_normals_encoder             0 .. 2   –       the normals' own mean distance; much more in the background is damage
background_distance            0 ..     1       `features.background_distance`, mean: 1 is as good as a normal
density                        0 ..     1       `distribution.density_and_coverage` of the defect's look, wherever it is
coverage                       0 .. 1   ↑       share of shots whose look some pair comes near; the same function
near_copies                    0 .. 1   ↓       share of pairs that copy a shot (`neighbours`)
near_copies_earlier            0 .. 1   ↓       share of pairs that copy an earlier pair
copy_threshold                 0 .. 2   –       distance below which a pair is a copy
nearest_shot                   0 ..     1       median distance to the nearest shot, in units of the shots' own median
mask_alignment                 0 .. 1   ↑       product of the next two, mean; where the pairs have anomaly parts
mask_inside, mask_outside      0 .. 1   ↑       `placement.mask_agreement`
mask_empty                     0 .. 1   ↓       share of pairs with an empty mask; they are left out of the mask figures
placement_centre, _size        0 .. 1   ↑       share of masks placed, or as large, as the shots' (`placement`)
placement_in_object            0 .. 1   ↑       `placement.share_inside`, mean; where object masks are given

There is no inception score by the encoder: pictures of 128 px are too small for its classes of things.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from dual_anodiff.config import QualityConfig
from dual_anodiff.errors import InputError
from dual_anodiff.quality.distribution import (
    density_and_coverage,
    expected_coverage,
    fid,
    inception_score,
    kid,
    spread_within_clusters,
)
from dual_anodiff.quality.features import Features, Seen, background_distance, distance, look
from dual_anodiff.quality.neighbours import Neighbours, find_neighbours
from dual_anodiff.quality.pairs import FLIPS, PairSet, flipped
from dual_anodiff.quality.placement import centres, log_areas, mask_agreement, share_inside, within_shots

# Below so many pairs a figure is marked in its note; shots are few always.
FEW = 20


@dataclass(frozen=True)
class Quality:
    """The figures, and one row a pair.

    figures: metric, value (NaN where it can't be had), std (NaN where there is none), n (pairs that went into it),
    n_reference (shots or normals), note.
    pairs: `neighbours.Neighbours.table`'s columns, background (`features.background_distance`), and where there are
    anomaly parts mask_inside and mask_outside (`placement.mask_agreement`).
    """

    figures: pd.DataFrame
    pairs: pd.DataFrame


def quality(
    pairs: PairSet,
    shots: PairSet,
    normals: Tensor,
    config: QualityConfig | None = None,
    *,
    features: Features | None = None,
    flips: Sequence[str] = tuple(FLIPS),
    objects: Tensor | None = None,
) -> Quality:
    """Measure pairs against the shots that they were made from and the normals of the training side.

    `flips`: the ways in which the generator saw the shots mirrored (`pairs.flip_names`). `objects`: where the part is,
    for all pairs or for each.
    Shape: normals (k, 3, h, w) uint8; objects (h, w) or (n, h, w) bool, of the pairs' size.
    Raises: InputError where one of the sets is empty, or weights can't be used.
    """
    config = config or QualityConfig()
    _check(pairs, shots, normals, flips)
    rows = _standard(pairs, shots, config)
    features = features or Features()
    found = find_neighbours(pairs, shots, features, flips)
    seen_normals = look(features, normals, torch.zeros(len(normals), *normals.shape[-2:]))
    background = background_distance(found.pairs, seen_normals)
    rows += _distribution(found, seen_normals)
    rows += _diversity(found, seen_normals)
    rows.append(_mean("background_distance", background, len(normals)))
    rows += _memorisation(found)
    rows += _masks(pairs, shots, flips, objects)
    table = found.table.assign(background=background.tolist())
    if pairs.anomaly is not None:
        inside, outside = mask_agreement(pairs.image, pairs.anomaly, pairs.mask)
        table = table.assign(mask_inside=inside.tolist(), mask_outside=outside.tolist())
        alignment = {"mask_alignment": inside * outside, "mask_inside": inside, "mask_outside": outside}
        rows += [_mean(name, values, 0) for name, values in alignment.items()]
    return Quality(pd.DataFrame(rows), table)


def _check(pairs: PairSet, shots: PairSet, normals: Tensor, flips: Sequence[str]) -> None:
    for name, count in (("pairs", len(pairs)), ("shots", len(shots)), ("normals", len(normals))):
        if not count:
            raise InputError(f"{name}: none; quality figures compare pairs with their shots and with normals")
    if normals.dtype != torch.uint8:
        raise InputError(f"normals: found {normals.dtype}; give bytes")
    if not flips or flips[0] != "" or not set(flips) <= set(FLIPS):
        raise InputError(f'flips: {tuple(flips)}; give "" and then any of {tuple(FLIPS)[1:]}')


def _standard(pairs: PairSet, shots: PairSet, config: QualityConfig) -> list[dict[str, object]]:
    """The literature's figures, where their weights are given; else none, under any name."""
    rows: list[dict[str, object]] = []
    n, m = len(pairs), len(shots)
    if config.inception_weights is not None:
        from dual_anodiff.quality.standard import inception_features

        fake, logits = inception_features(pairs.image, config.inception_weights)
        score, spread = inception_score(logits)
        rows.append(_figure("is", score, spread, n, 0, "" if n >= 1000 else f"low: {n} pairs"))
        rows += _set_distances("", inception_features(shots.image, config.inception_weights)[0], fake)
    if config.lpips_weights is not None:
        from dual_anodiff.quality.standard import Lpips, squared_distances

        lpips = Lpips(config.lpips_net, config.lpips_weights)
        anchors = lpips.embed(shots.image)
        # A picture's vector is megabytes: none is kept that its cluster does not need.
        to_shots = torch.cat(
            [squared_distances(lpips.embed(part), anchors) for part in pairs.image.split(64)]
        )

        def between(index: Tensor) -> Tensor:
            vectors = lpips.embed(pairs.image[index])
            return squared_distances(vectors, vectors)

        mean, spread, used = spread_within_clusters(to_shots, between)
        rows.append(_figure("ic_lpips", mean, spread, used, m, f"net {config.lpips_net}"))
    return rows


def _set_distances(suffix: str, real: Tensor, fake: Tensor) -> list[dict[str, object]]:
    """KID and FID against the shots, in whichever features."""
    n, m, d = len(fake), len(real), real.shape[1]
    # Kept, since runs on the same shots with as many pairs share the bias.
    biased = f"biased: {m} shots, {n} pairs in {d} dimensions" if min(n, m) <= d else ""
    return [
        _figure(f"kid{suffix}", *kid(real, fake, min(n, m)), n, m),
        _figure(f"fid{suffix}", fid(real, fake), math.nan, n, m, biased),
    ]


def _distribution(found: Neighbours, normals: Seen) -> list[dict[str, object]]:
    """Distances between the sets in the encoder's features, and how well the shots' looks are covered."""
    shots, m = found.shots[0], len(found.shots[0])
    anchor = kid(shots.pooled, normals.pooled, min(m, len(normals)))
    defects = found.pairs.defect[found.pairs.defect.abs().sum(1) > 0]
    n = len(defects)
    own = torch.stack([torch.cdist(shots.defect, shot.defect) for shot in found.shots]).amin(0)
    to_pairs = torch.stack([torch.cdist(shot.defect, defects) for shot in found.shots]).amin(0)
    density, coverage = density_and_coverage(own.fill_diagonal_(torch.inf).amin(1), to_pairs)
    expected = f"{expected_coverage(m, n):.2f} expected of real ones"
    return [
        *_set_distances("_encoder", shots.pooled, found.pairs.pooled),
        _figure("kid_encoder_normals", *anchor, len(normals), m),
        _figure("density", density, math.nan, n, m, "1 expected of real ones"),
        _figure("coverage", coverage, math.nan, n, m, expected),
    ]


def _diversity(found: Neighbours, normals: Seen) -> list[dict[str, object]]:
    """Spread within clusters, of the whole and of the background, beside the normals' own."""
    pairs, m = found.pairs, len(found.shots[0])
    to_shots = torch.stack([distance(pairs, shot, "everywhere") for shot in found.shots]).amin(0)
    whole = spread_within_clusters(to_shots, lambda i: distance(pairs[i], pairs[i], "everywhere"))
    clear = spread_within_clusters(to_shots, lambda i: distance(pairs[i], pairs[i], "background"))
    own = spread_within_clusters(
        torch.zeros(len(normals), 1), lambda i: distance(normals[i], normals[i], "everywhere")
    )
    return [
        _figure("ic_distance_encoder", *whole, m),
        _figure("ic_background_encoder", *clear, m),
        _figure("ic_normals_encoder", *own, 0),
    ]


def _memorisation(found: Neighbours) -> list[dict[str, object]]:
    table, n, m = found.table, len(found.pairs), len(found.shots[0])
    return [
        _figure("near_copies", float(table["copy"].mean()), math.nan, n, m),
        _figure("near_copies_earlier", float(table["repeat"].mean()), math.nan, n, 0),
        _figure("copy_threshold", found.threshold, math.nan, 0, m),
        _figure("nearest_shot", float(table["relative"].median()), math.nan, n, m),
    ]


def _masks(
    pairs: PairSet, shots: PairSet, flips: Sequence[str], objects: Tensor | None
) -> list[dict[str, object]]:
    """Where the masks lie and how large they are; empty ones are left out."""
    with_mask = pairs.mask[pairs.mask.flatten(1).any(1)]
    n, m = len(with_mask), len(shots)
    rows = [_figure("mask_empty", 1 - n / len(pairs), math.nan, len(pairs), 0)]
    mirrored = [flipped(shots, flip).mask for flip in flips]
    for name, of in (("placement_centre", centres), ("placement_size", log_areas)):
        near = within_shots(of(with_mask), [of(mask) for mask in mirrored])
        share = float(near.float().mean()) if m > 1 else math.nan
        rows.append(_figure(name, share, math.nan, n, m, f"{m / (m + 1):.2f} expected of real ones"))
    if objects is not None:
        rows.append(_mean("placement_in_object", share_inside(pairs.mask, objects), 0))
    return rows


def _mean(metric: str, values: Tensor, n_reference: int) -> dict[str, object]:
    """Mean and standard deviation over pairs of what is not NaN."""
    known = values[~values.isnan()].double()
    mean = float(known.mean()) if len(known) else math.nan
    return _figure(metric, mean, float(known.std()) if len(known) > 1 else math.nan, len(known), n_reference)


def _figure(
    metric: str, value: float, std: float, n: int, n_reference: int, note: str = ""
) -> dict[str, object]:
    if math.isnan(value):
        note = "too few pictures"
    elif 0 < n < FEW:
        note = "; ".join(text for text in (note, "few pictures") if text)
    return {
        "metric": metric, "value": value, "std": std, "n": n, "n_reference": n_reference, "note": note,
    }  # fmt: skip
