"""Which pictures of a category show the same part: the same file, a re-encoding, or another exposure.

Thumbnails of aligned parts correlate above 0.98 whether or not they show one part, so a plain hash would join a
whole category. Here a thumbnail is reduced to what is its own before it is compared:

1. tone: a contrast-limited equalisation of the grey levels, which undoes gain, offset and gamma;
2. detail: high-pass, then divided by the local contrast, so that a bold edge counts no more than faint texture;
3. own: the category's mean is taken away, and those leading components that are spread over many pictures
   (position, rotation, light). A component that lives in a few pictures is what twins share, and stays;
4. score: the highest correlation over shifts of ±3 of 64 cells, since crops of one part differ by some pixels.

On magnetic_tile (1,340 pictures; 182 of the groups found have six pictures, one an exposure) the scores have a gap
between 0.40 and 0.50: 0.45 lies in it, and every pair known to be one tile scores above 0.54.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.linalg import eigh
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

from dual_anodiff.progress import progress
from tasks.data.pictures import load_image

Floats = NDArray[np.float32]
Ints = NDArray[np.intp]

THUMBNAIL_PX = 64
HIGH_PASS_PX = 3.0
MAX_SHIFT_PX = 3
SCORE_THRESHOLD = 0.45
# Where unrelated pictures resemble each other (few pictures, much jitter) the bar rises with the scores' spread.
SCORE_THRESHOLD_MAX = 0.8
NULL_SPREADS = 8.0
# Before anything is taken away: a re-encoding or re-exposure of one file correlates above 0.99; different parts,
# even perfectly aligned, stay below 0.98 with the noise of a camera.
COPY_THRESHOLD = 0.99
MAX_COMMON_COMPONENTS = 8
MIN_COMMON_PICTURES, MIN_COMMON_SHARE = 8, 0.15
# Twins have one aspect ratio but for the crop (measured: up to 10 %); size is free, a copy may be resized.
MAX_ASPECT_DIFFERENCE = 0.12
# Pictures joined only through others: below this mean score, a chain is cut.
CHAIN_CUT = 0.2
PICTURES_AT_ONCE = 256
MANY_PICTURES = 500  # take seconds: progress is shown


@dataclass(frozen=True)
class Thumbnail:
    """One picture reduced for comparison: grey cells (64, 64) in 0..255, and the picture's size in pixels."""

    cells: Floats
    width_px: int
    height_px: int


def thumbnail(image: Image.Image) -> Thumbnail:
    """Reduce a picture for comparison."""
    cells = image.convert("L").resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    return Thumbnail(np.asarray(cells, dtype=np.float32), image.width, image.height)


def with_groups(samples: pd.DataFrame, thumbnails: Mapping[str, Thumbnail] | None = None) -> pd.DataFrame:
    """Fill the `group` column, numbered through all categories, none of which share a group.

    `thumbnails` by image_path saves decoding what the caller has decoded.
    Raises: DataError at an unreadable picture.
    """
    samples = samples.copy()
    next_group = 0
    for _, rows in samples.groupby("category", sort=True):
        thumbs = [
            thumbnail(load_image(Path(path))) if thumbnails is None else thumbnails[path]
            for path in rows["image_path"]
        ]
        groups = next_group + near_duplicate_groups(thumbs, rows["sha256"].tolist())
        samples.loc[rows.index, "group"] = groups
        next_group = int(groups.max()) + 1
    return samples


def near_duplicate_groups(thumbnails: Sequence[Thumbnail], sha256s: Sequence[str]) -> Ints:
    """Number the pictures of one category by group: the same number, the same part.

    Numbers follow first appearance: 0 is the first picture's group.
    """
    count = len(thumbnails)
    same_file = _first_with_same(sha256s)
    if count < 2:
        return np.arange(count)
    pairs = _comparable_pairs(thumbnails)
    scores, joined = _compare(np.stack([thumb.cells for thumb in thumbnails]), pairs)
    labels = _cut_chains(_components(pairs[joined], count), pairs, scores)
    # Identical files last, so that no cut can part them.
    same_file_links = np.stack([np.arange(count), same_file], 1)
    labels = _components(np.concatenate([same_file_links, _links_within(labels)]), count)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], dtype=np.intp)


def _components(links: Ints, count: int) -> Ints:
    """Label the connected components of `count` pictures. Shape: links (l, 2) → (count,)."""
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.intp)


def _first_with_same(keys: Sequence[str]) -> Ints:
    first: dict[str, int] = {}
    return np.array([first.setdefault(key, index) for index, key in enumerate(keys)], dtype=np.intp)


def _links_within(labels: Ints) -> Ints:
    """An edge from each picture to the first one of its label. Shape: (n, 2)."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.stack([np.arange(len(labels)), first[inverse]], 1)


def _comparable_pairs(thumbnails: Sequence[Thumbnail]) -> Ints:
    """All pairs i < j of about the same aspect ratio. Shape: (pairs, 2)."""
    aspect = np.log([thumb.width_px / thumb.height_px for thumb in thumbnails])
    i, j = np.triu_indices(len(thumbnails), 1)
    close = np.abs(aspect[i] - aspect[j]) <= MAX_ASPECT_DIFFERENCE
    return np.stack([i[close], j[close]], 1)


def _compare(cells: Floats, pairs: Ints) -> tuple[Floats, NDArray[np.bool_]]:
    """Score each pair, and say whether it shows one part.

    Shape: cells (n, 64, 64), pairs (p, 2) → (p,), (p,).
    """
    if not len(pairs):
        return np.zeros(0, np.float32), np.zeros(0, np.bool_)
    detail = np.stack([_detail(_equalise(picture)) for picture in cells])
    scores = _correlate(_own_detail(detail), pairs, MAX_SHIFT_PX)
    middle = float(np.median(scores))
    spread = 1.4826 * float(np.median(np.abs(scores - middle)))
    threshold = np.clip(middle + NULL_SPREADS * spread, SCORE_THRESHOLD, SCORE_THRESHOLD_MAX)

    likeness = _correlate(_unit(detail), pairs, 0)
    copy = COPY_THRESHOLD
    if len(cells) >= MIN_COMMON_PICTURES:
        # Noise-free renderings of aligned parts are all above the bar: ask for four times closer than usual.
        copy = max(copy, 1 - (1 - float(np.median(likeness))) / 4)
    copies = likeness >= copy
    return np.where(copies, likeness, scores), (scores >= threshold) | copies


def _equalise(cells: Floats, bins: int = 64, limit: float = 4.0, floor: float = 0.5) -> Floats:
    """Contrast-limited histogram equalisation: full equalisation would blow up the noise of flat grounds."""
    low, high = np.percentile(cells, [1, 99])
    if high - low < 1e-3:
        return np.zeros_like(cells)
    level = np.clip((cells - low) / (high - low), 0, 1)
    counts, edges = np.histogram(level, bins, (0, 1))
    mean = counts.sum() / bins
    curve = np.concatenate([[0.0], np.cumsum(np.minimum(counts, limit * mean) + floor * mean)])
    return np.interp(level, edges, curve / curve[-1]).astype(np.float32)


def _detail(cells: Floats) -> Floats:
    """High-pass, then divide by the local contrast."""
    detail = cells - gaussian_filter(cells, HIGH_PASS_PX)
    detail -= detail.mean()
    if detail.std() < 1e-6:
        return np.zeros_like(detail)
    detail /= detail.std()
    contrast = np.sqrt(gaussian_filter(detail * detail, 1.5 * HIGH_PASS_PX))
    return np.clip(detail / (contrast + 0.3), -4, 4)


def _own_detail(detail: Floats) -> Floats:
    """Take away what the category has in common, then fade the border, which shifts bring in and out."""
    count, px, _ = detail.shape
    # A flat picture has no detail: it stays empty, else all flat ones would share what they lack.
    empty = (detail == 0).all((1, 2))
    mean = detail[~empty].mean(0) if not empty.all() else 0
    rows = np.where(empty[:, None], 0, (detail - mean).reshape(count, -1)).astype(np.float32)
    take = min(MAX_COMMON_COMPONENTS, count)
    _, weights = eigh(rows @ rows.T, subset_by_index=[count - take, count - 1])
    # Participation ratio: 1 for a component of one picture, n/3 for one spread over n like a Gaussian.
    pictures = 1 / (weights**4).sum(0)
    common = weights[:, pictures >= max(MIN_COMMON_PICTURES, MIN_COMMON_SHARE * count)].astype(np.float32)
    rows = rows - common @ (common.T @ rows)
    fade = np.sqrt(np.hanning(px + 2)[1:-1]).astype(np.float32)
    return _unit(rows.reshape(detail.shape) * np.outer(fade, fade))


def _unit(cells: Floats) -> Floats:
    """Zero mean, unit length; an empty picture stays zero and resembles nothing."""
    cells = cells - cells.mean((1, 2), keepdims=True)
    length = np.sqrt((cells * cells).sum((1, 2), keepdims=True))
    return np.where(length > 1e-4, cells / np.maximum(length, 1e-4), 0).astype(np.float32)


def _correlate(cells: Floats, pairs: Ints, max_shift_px: int) -> Floats:
    """Highest correlation of each pair over shifts up to `max_shift_px`, round the edges.

    All pairs of a block of pictures at once, as products of matrices: 3,000 pictures take 40 s of a core, where a
    Fourier transform a pair took ten minutes. Shape: cells (n, px, px), pairs (p, 2), i < j and sorted by i → (p,).
    """
    scores = np.empty(len(pairs), np.float32)
    flat = cells.reshape(len(cells), -1)
    near = range(-max_shift_px, max_shift_px + 1)
    with progress("near-duplicates", len(cells), "picture", shown=len(cells) > MANY_PICTURES) as tell:
        for start in range(0, len(cells), PICTURES_AT_ONCE):
            block, others = cells[start : start + PICTURES_AT_ONCE], flat[start:].T
            best = np.full((len(block), others.shape[1]), -np.inf, np.float32)
            for shift in product(near, near):
                np.maximum(best, np.roll(block, shift, (1, 2)).reshape(len(block), -1) @ others, out=best)
            own = slice(*np.searchsorted(pairs[:, 0], [start, start + len(block)]))
            i, j = pairs[own].T - start
            scores[own] = best[i, j]
            tell(start + len(block), None)
    return scores


def _cut_chains(labels: Ints, pairs: Ints, scores: Floats) -> Ints:
    """Part a component whose ends do not resemble each other, by average linkage."""
    labels = labels.copy()
    sizes = np.bincount(labels)
    inside = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    for label in np.flatnonzero(sizes > 2):
        members = np.flatnonzero(labels == label)
        place = np.zeros(len(labels), np.intp)
        place[members] = np.arange(len(members))
        score = np.zeros((len(members), len(members)))
        own = inside & (labels[pairs[:, 0]] == label)
        i, j = place[pairs[own]].T
        score[i, j] = score[j, i] = scores[own]
        np.fill_diagonal(score, 1)
        parts = fcluster(
            linkage(squareform(np.maximum(1 - score, 0), checks=False), "average"), 1 - CHAIN_CUT, "distance"
        )
        labels[members] = np.where(parts == parts[0], label, labels.max() + parts)
    return labels
