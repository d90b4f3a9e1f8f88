"""Pairs at a wished place and size: `python -m benchmarks.where ADAPTER CATEGORY_FOLDER DEFECT [--pairs 16] [--lines]`.

Each pair gets a box of a shot's size, anywhere, or with --lines a crooked line through it. The same seeds are drawn
without conditioning; with the anomaly branch held flat outside the region and bumps of the noise levelled there, but the
noise not raised within; and with all of it, raised as far as the code does, or as --aims says. Of the masks: inside, the
mean share in the region; reach, of the region the share within 3 px of the mask; centre, mean distance of the
centres in shares of the side; size, mean logarithm of the mask's box's side over the wished one's, and its mean size
without sign. Then the quality figures that say whether the pairs are still different, and their mean distance to each
other: pairwise of the pictures, looks of the defects alone, wherever they are; each with its change against off and the
95 % interval of that from redrawing the seeds. A sheet of each goes into --out.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from dual_anodiff import conditioning
from dual_anodiff.config import WhereConfig
from dual_anodiff.features import Features, distance, look
from dual_anodiff.images import Shot, load_shot
from dual_anodiff.objective import encode
from dual_anodiff.pairs import PairSet, load_images, load_shots
from dual_anodiff.pipeline import DualAnoDiffOutput, DualAnoDiffPipeline
from dual_anodiff.quality import quality

SIZE_PX = 128
Apart = NDArray[np.float32]
FIGURES = (
    "ic_distance_encoder", "ic_background_encoder", "kid_encoder", "coverage", "near_copies", "near_copies_earlier",
    "mask_alignment", "mask_inside", "mask_outside", "placement_size",
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
        pipe.card = replace(pipe.card, shots=conditioning.trace_shots(latents, masks))
    return pipe


def lines_in(boxes: Tensor, seeds: list[int]) -> Tensor:
    """A line 2 px wide from one short side of each box to the other, as a user might draw a crack."""
    lines = []
    for box, seed in zip(boxes, seeds, strict=True):
        generator = np.random.default_rng(seed)
        top, left, bottom, right = (share * SIZE_PX for share in conditioning.box_of(box))
        along, across = np.linspace(0, 1, 6), np.linspace(generator.random(), generator.random(), 6)
        across = np.clip(across + generator.normal(0, 0.12, 6), 0, 1)
        x, y = (along, across) if right - left >= bottom - top else (across, along)
        points = np.stack([left + x * (right - left), top + y * (bottom - top)], 1)
        line = Image.new("L", (SIZE_PX, SIZE_PX))
        ImageDraw.Draw(line).line([(float(u), float(v)) for u, v in points], fill=255, width=2)
        lines.append(torch.from_numpy(np.asarray(line) > 0))
    return torch.stack(lines)


def as_pairs(drawn: DualAnoDiffOutput) -> PairSet:
    def stack(pictures: list[Image.Image]) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))

    images, anomalies = (stack(some).permute(0, 3, 1, 2) for some in (drawn.images, drawn.anomalies))
    return PairSet(images.contiguous(), stack(drawn.masks) > 127, anomalies.contiguous())


def against_wish(masks: Tensor, regions: Tensor) -> dict[str, float]:
    some = masks.flatten(1).any(1)
    masks, regions = masks[some], regions[some]
    near = F.max_pool2d(masks[:, None].float(), 7, 1, 3)[:, 0] > 0
    boxes = [np.array([conditioning.box_of(m) for m in each]) for each in (masks, regions)]
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


def measure(
    pairs: PairSet, regions: Tensor, shots: PairSet, normals: Tensor, features: Features
) -> tuple[dict[str, Any], dict[str, Apart]]:
    """The figures, and how far the pairs are apart in two respects. Shape: (n, n) each, NaN where a mask is empty."""
    figures = quality(pairs, shots, normals, features=features).figures.set_index("metric")["value"]
    seen = look(features, pairs.image, pairs.mask)
    looks = torch.where(seen.defect.any(1), 0, torch.nan)[:, None]
    apart = {
        "pairwise": distance(seen, seen, "everywhere").numpy(),
        "looks": (1 - seen.defect @ seen.defect.T + looks + looks.T).numpy(),
    }
    told = {**against_wish(pairs.mask, regions), **{name: figures[name] for name in FIGURES}}
    return told, apart


def change(apart: dict[str, Apart], off: dict[str, Apart]) -> dict[str, float]:
    """The mean distances, and their change where pairs of the same seeds are redrawn together."""
    told = {}
    generator = np.random.default_rng(0)
    for name, distances in apart.items():
        n = len(distances)
        times = [np.bincount(generator.integers(n, size=n), minlength=n) for _ in range(2000)]
        redrawn = [_mean_apart(distances - off[name], each) for each in times]
        low, high = np.quantile(redrawn, [0.025, 0.975])
        told[name] = _mean_apart(distances, np.ones(n))
        told[f"{name} change"] = _mean_apart(distances - off[name], np.ones(n))
        told |= {f"{name} from": float(low), f"{name} to": float(high)}
    return told


def _mean_apart(apart: Apart, times: NDArray[Any]) -> float:
    """Between different pairs, each taken so many times."""
    weight = np.outer(times, times) * (1 - np.eye(len(times))) * np.isfinite(apart)
    return float((weight * np.nan_to_num(apart)).sum() / weight.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("category", type=Path)
    parser.add_argument("defect")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=4)
    parser.add_argument("--size", type=float, nargs=2, help="Longer side in shares; without: as the shots'.")
    parser.add_argument("--aims", type=float, nargs="+", default=[conditioning.AIM])
    parser.add_argument("--lines", action="store_true", help="Lines in place of boxes.")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    shots, features = shots_of(args.category, args.defect), Features()
    pipe = load(args.adapter, shots)
    assert pipe.card is not None
    seeds = list(range(args.pairs))
    where = WhereConfig(size=tuple(args.size) if args.size else "shots")
    regions = conditioning.draw_regions(where, pipe.card, seeds, SIZE_PX)
    assert regions is not None
    if args.lines:
        regions = lines_in(regions, seeds)
    normals = load_images(sorted((args.category / "train" / "good").glob("*.png"))[:40], SIZE_PX)
    forms = {"off": None, "held alone": -torch.inf} | {f"aim {aim:g}": aim for aim in args.aims}
    rows: dict[str, dict[str, Any]] = {}
    off: dict[str, Apart] = {}
    for name, aim in forms.items():
        conditioning.AIM = aim or 0.0
        pairs = as_pairs(
            pipe(
                len(seeds), seeds=seeds, num_inference_steps=args.steps, guidance_scale=args.guidance,
                regions=None if aim is None else regions, size_px=SIZE_PX,
            )
        )  # fmt: skip
        rows[name], apart = measure(pairs, regions, load_shots(shots, SIZE_PX), normals, features)
        off = off or apart
        rows[name] |= change(apart, off)
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            draw_sheet(pairs, regions, args.out / f"{args.defect}, {name}.png")
        print(name, {key: round(float(value), 3) for key, value in rows[name].items()}, flush=True)
    print(f"{args.category.name}/{args.defect}, {args.pairs} pairs, {args.steps} steps")
    print(pd.DataFrame(rows).round(3).to_string())


if __name__ == "__main__":
    main()
