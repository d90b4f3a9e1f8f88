"""Pairs at a wished place and size: `python -m benchmarks.where ADAPTER CATEGORY_FOLDER DEFECT [--pairs 16] [--lines]`.

Each pair gets a box of a shot's size, anywhere, or with --lines a crooked line through it. Drawn: off, --pool pairs
without a wish; found, those of them that lie best in the wished regions by themselves, each taken once: what the places
alone change; and with the wish, the noise drawn towards defects as STRENGTHS says, or each --strengths. Of the masks:
inside, the mean share in the region; reach, of the region the share within 3 px of the mask; centre, mean distance of the
centres in shares of the side; size, mean logarithm of the mask's box's side over the wished one's, and its mean size
without sign. Then the quality figures that say whether the pairs are still different, and of the pairs: pairwise, the mean
distance of the pictures to each other; looks, the same of the defects alone, wherever they are; covered, the share of shots
that 32 pairs with a mask are expected to come near; density. These with their change against off and against found, and
the 95 % interval of that from redrawing the pairs; all four of pairs with a mask. Last, what a pair takes in seconds. A
sheet of each goes into --out.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dual_anodiff import regions as guide
from dual_anodiff.config import WhereConfig
from dual_anodiff.images import Shot, load_shot
from dual_anodiff.objective import encode
from dual_anodiff.pipeline import DualAnoDiffOutput, DualAnoDiffPipeline
from dual_anodiff.quality.features import Features, distance
from dual_anodiff.quality.figures import quality
from dual_anodiff.quality.neighbours import find_neighbours
from dual_anodiff.quality.pairs import FLIPS, PairSet, load_images, load_shots

SIZE_PX = 128
BATCH = 16
SHOWN = 24  # columns of a sheet
Matrix = NDArray[np.float32]
FIGURES = (
    "ic_distance_encoder", "ic_background_encoder", "kid_encoder", "near_copies", "mask_alignment", "mask_inside",
    "mask_outside", "placement_size",
)  # fmt: skip


def shots_of(category: Path, defect: str) -> list[Shot]:
    """The first third, as a run's split takes them."""
    images = sorted((category / "test" / defect).glob("*.png"))
    images = images[: max(1, len(images) // 3)]
    return [Shot(i, category / "ground_truth" / defect / f"{i.stem}_mask.png") for i in images]


@torch.no_grad()
def load(adapter: Path, shots: list[Shot]) -> DualAnoDiffPipeline:
    """The adapter; one made before cards had traces gets them here, as training would have made them."""
    pipe = DualAnoDiffPipeline.from_adapter(adapter)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.card is not None
    if pipe.card.shots is None:
        loaded = [load_shot(shot, pipe.card.size_px) for shot in shots]
        latents = torch.stack([encode(pipe.vae, torch.stack([i, i * m]))[0] for i, m in loaded])
        masks = torch.stack([mask[0] > 0.5 for _, mask in loaded])
        pipe.card = replace(pipe.card, shots=guide.trace_shots(latents, masks))
    return pipe


def lines_in(boxes: Tensor, seeds: list[int]) -> Tensor:
    """A line 2 px wide from one short side of each box to the other, as a user might draw a crack."""
    lines = []
    for box, seed in zip(boxes, seeds, strict=True):
        generator = np.random.default_rng(seed)
        top, left, bottom, right = (share * SIZE_PX for share in guide.box_of(box))
        along, across = np.linspace(0, 1, 6), np.linspace(generator.random(), generator.random(), 6)
        across = np.clip(across + generator.normal(0, 0.12, 6), 0, 1)
        x, y = (along, across) if right - left >= bottom - top else (across, along)
        points = np.stack([left + x * (right - left), top + y * (bottom - top)], 1)
        line = Image.new("L", (SIZE_PX, SIZE_PX))
        ImageDraw.Draw(line).line([(float(u), float(v)) for u, v in points], fill=255, width=2)
        lines.append(torch.from_numpy(np.asarray(line) > 0))
    return torch.stack(lines)


def as_pairs(drawn: list[DualAnoDiffOutput]) -> PairSet:
    def stack(pictures: list[Image.Image]) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))

    images, masks, anomalies = (
        stack([picture for each in drawn for picture in getattr(each, name)])
        for name in ("images", "masks", "anomalies")
    )
    return PairSet(
        images.permute(0, 3, 1, 2).contiguous(), masks > 127, anomalies.permute(0, 3, 1, 2).contiguous()
    )


def taken(pairs: PairSet, which: list[int] | slice) -> PairSet:
    assert pairs.anomaly is not None
    return PairSet(pairs.image[which], pairs.mask[which], pairs.anomaly[which])


def against_wish(masks: Tensor, regions: Tensor) -> dict[str, float]:
    some = masks.flatten(1).any(1)
    masks, regions = masks[some], regions[some]
    near = F.max_pool2d(masks[:, None].float(), 7, 1, 3)[:, 0] > 0
    boxes = [np.array([guide.box_of(m) for m in each]) for each in (masks, regions)]
    centres = [(box[:, :2] + box[:, 2:]) / 2 for box in boxes]
    sides = [np.log(box[:, 2:] - box[:, :2]).mean(1) for box in boxes]
    off = sides[0] - sides[1]
    return {
        "inside": float(((masks & regions).sum((1, 2)) / masks.sum((1, 2))).mean()),
        "reach": float(((near & regions).sum((1, 2)) / regions.sum((1, 2))).mean()),
        "centre": float(np.linalg.norm(centres[0] - centres[1], axis=1).mean()),
        "size": float(off.mean()), "|size|": float(np.abs(off).mean()),
        "empty": float(1 - some.float().mean()), "share": float(masks.float().mean()),
    }  # fmt: skip


def draw_sheet(pairs: PairSet, regions: Tensor, path: Path) -> None:
    """Image with the wish's outline, anomaly part and mask, a column a pair."""
    outline = regions & ~(F.max_pool2d((~regions)[:, None].float(), 3, 1, 1)[:, 0] < 0.5)
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    image = torch.where(outline[:, None], red, pairs.image)
    assert pairs.anomaly is not None
    mask = (pairs.mask * 255).byte()[:, None].expand(-1, 3, -1, -1)
    columns = torch.cat([image, pairs.anomaly, mask], dim=2)  # (n, 3, 3 h, w)
    Image.fromarray(torch.cat(list(columns), dim=2).permute(1, 2, 0).numpy()).save(path)


@dataclass(frozen=True)
class Spread:
    """How different the pairs are.

    Shape: pairwise and looks (n, n), distances between pairs, NaN where a mask is empty; near (m, n), whether a pair is as
    near to a shot as the nearest other shot, NaN where its mask is empty.
    """

    pairwise: Matrix
    looks: Matrix
    near: Matrix

    def figures(self, times: NDArray[Any]) -> dict[str, float]:
        """With each pair taken so many times. Shape: (n,)."""
        near = np.nansum(self.near * times, 1) / (times * np.isfinite(self.near[0])).sum()
        return {
            "pairwise": _mean_apart(self.pairwise, times),
            "looks": _mean_apart(self.looks, times),
            "covered": float((1 - (1 - near) ** 32).mean()),
            "density": float(near.sum()),
        }


def measure(
    pairs: PairSet, regions: Tensor, shots: PairSet, normals: Tensor, features: Features
) -> tuple[dict[str, Any], Spread]:
    figures = quality(pairs, shots, normals, features=features).figures.set_index("metric")["value"]
    found = find_neighbours(pairs, shots, features, tuple(FLIPS))
    seen = found.pairs
    empty = torch.where(seen.defect.any(1), 0, torch.nan)
    own = torch.stack([torch.cdist(found.shots[0].defect, each.defect) for each in found.shots]).amin(0)
    to_pairs = torch.stack([torch.cdist(each.defect, seen.defect) for each in found.shots]).amin(0)
    near = to_pairs < own.fill_diagonal_(torch.inf).amin(1, keepdim=True)
    spread = Spread(
        (distance(seen, seen, "everywhere") + empty + empty[:, None]).numpy(),
        (1 - seen.defect @ seen.defect.T + empty + empty[:, None]).numpy(),
        (near + empty).numpy(),
    )
    return {**against_wish(pairs.mask, regions), **{name: figures[name] for name in FIGURES}}, spread


def change(spread: Spread, before: Spread, against: str) -> dict[str, float]:
    """How the figures of the spread have changed, and the interval of that where the pairs of both are redrawn."""
    now, then = (some.figures(np.ones(some.near.shape[1])) for some in (spread, before))
    redrawn = _redrawn(spread, 1) - _redrawn(before, 0)
    changes: dict[str, float] = {}
    for name, value in now.items():
        low, high = redrawn[name].quantile([0.025, 0.975])
        changes |= {
            f"{name} against {against}": value - then[name],
            f"{name} against {against}, from": low,
            f"{name} against {against}, to": high,
        }
    return changes


def _redrawn(spread: Spread, seed: int) -> pd.DataFrame:
    n = spread.near.shape[1]
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        [spread.figures(np.bincount(generator.integers(n, size=n), minlength=n)) for _ in range(1000)]
    )


def find(masks: Tensor, regions: Tensor) -> list[int]:
    """Which mask overlaps each region most, each taken once. Shape: (m, h, w) bool, (n, h, w) bool with n ≤ m."""
    flat = [some.flatten(1).float() for some in (regions, masks)]
    both = flat[0] @ flat[1].T
    overlap = both / (flat[0].sum(1)[:, None] + flat[1].sum(1)[None] - both)
    found: list[int] = linear_sum_assignment(-overlap.numpy())[1].tolist()
    return found


def _mean_apart(apart: Matrix, times: NDArray[Any]) -> float:
    """Between different pairs, each taken so many times."""
    weight = np.outer(times, times) * (1 - np.eye(len(times))) * np.isfinite(apart)
    return float((weight * np.nan_to_num(apart)).sum() / weight.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("category", type=Path)
    parser.add_argument("defect")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--pool", type=int, help="Pairs without a wish; without: three times --pairs.")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=4)
    parser.add_argument("--size", type=float, nargs=2, help="Longer side in shares; without: as the shots'.")
    parser.add_argument("--strengths", type=float, nargs="+", action="append")
    parser.add_argument("--lines", action="store_true", help="Lines in place of boxes.")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    shots, features = shots_of(args.category, args.defect), Features()
    pipe = load(args.adapter, shots)
    assert pipe.card is not None
    seeds = list(range(args.first_seed, args.first_seed + (args.pool or 3 * args.pairs)))
    where = WhereConfig(size=tuple(args.size) if args.size else "shots")
    regions = guide.draw_regions(where, pipe.card, seeds, SIZE_PX)
    assert regions is not None
    if args.lines:
        regions = lines_in(regions, seeds)
    normals = load_images(sorted((args.category / "train" / "good").glob("*.png"))[:40], SIZE_PX)
    rows: dict[str, dict[str, Any]] = {}

    spreads: dict[str, Spread] = {}

    def tell(name: str, pairs: PairSet, seconds: float = np.nan) -> None:
        wished = regions[: len(pairs)]
        rows[name], spread = measure(pairs, wished, load_shots(shots, SIZE_PX), normals, features)
        rows[name] |= spread.figures(np.ones(len(pairs)))
        for before in ("off", "found"):
            if before in spreads:
                rows[name] |= change(spread, spreads[before], before)
        rows[name]["seconds a pair"] = seconds / len(pairs)
        spreads[name] = spread
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            few = slice(0, SHOWN)
            draw_sheet(taken(pairs, few), wished[few], args.out / f"{args.defect}, {name}.png")
        print(name, {key: round(float(value), 3) for key, value in rows[name].items()}, flush=True)

    def draw(seeds: list[int], regions: Tensor | None) -> tuple[PairSet, float]:
        start = perf_counter()
        pairs = as_pairs(
            [
                pipe(
                    len(seeds[part]), seeds=seeds[part], num_inference_steps=args.steps,
                    guidance_scale=args.guidance, regions=None if regions is None else regions[part], size_px=SIZE_PX,
                )
                for part in (slice(first, first + BATCH) for first in range(0, len(seeds), BATCH))
            ]
        )  # fmt: skip
        return pairs, perf_counter() - start

    pool, seconds = draw(seeds, None)
    tell("off", pool, seconds)
    tell("found", taken(pool, find(pool.mask, regions[: args.pairs])))
    for strengths in args.strengths or [guide.STRENGTHS]:
        vars(guide)["STRENGTHS"] = tuple(strengths)
        tell(
            f"strength {' '.join(f'{x:g}' for x in strengths)}",
            *draw(seeds[: args.pairs], regions[: args.pairs]),
        )
    print(
        f"{args.category.name}/{args.defect}, {args.pairs} pairs, {len(seeds)} without a wish, {args.steps} steps"
    )
    print(pd.DataFrame(rows).round(3).to_string())


if __name__ == "__main__":
    main()
