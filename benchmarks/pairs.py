"""What refined masks, curation and search make of pairs: `python -m benchmarks.pairs EVALUATED [--base mini]`.

EVALUATED is the folder that `python -m dual_anodiff.pretrain evaluate` wrote: its judge, which was trained on drawn
pictures alone, names what a pair shows and says where; its adapters draw pairs of new seeds, which nothing was chosen on.
Curation and search see the same few shots and normals as the adapter did.
"""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
import yaml
from torch import Tensor

from dual_anodiff.adapter_card import read_card
from dual_anodiff.base import MINI
from dual_anodiff.config import GenerateConfig, SearchConfig
from dual_anodiff.generation import generate_pairs
from dual_anodiff.images import Shot, load_image
from dual_anodiff.masks import iou, mask_from_part
from dual_anodiff.normals import evenly_spaced
from dual_anodiff.pretrain.evaluate import DEMO_PRESET, FEW_SHOTS
from dual_anodiff.pretrain.judge import Judge, train_judge
from dual_anodiff.quality.curation import curate
from dual_anodiff.quality.pairs import PairSet, load_images, load_pairs, load_shots
from dual_anodiff.search import SETTINGS, search

CATEGORY, FIRST, MIN_AREA_PX, NORMALS = "tile", 10_000, 4, 60


def judged(what: str, pairs: PairSet, defect: str, judge: Judge, seconds: float) -> dict[str, object]:
    """One row of the table. A pair without a mask counts 0."""
    pictures = pairs.image.float() / 127.5 - 1
    names, found = judge.names(pictures), judge.masks(pictures)
    some = pairs.mask.flatten(1).any(1)
    agreement = torch.where(some, iou(pairs.mask, found), 0.0)
    return {
        "defect": defect,
        "pairs": what,
        "n": len(pairs),
        "shows it": names.count(defect) / max(1, len(names)),
        "mask IoU": float(agreement.mean()),
        "empty": int((~some).sum()),
        "seconds": seconds,
    }


def drawn(adapter: Path, config: GenerateConfig) -> tuple[PairSet, Tensor, float]:
    """Pairs as they come, the masks that they would have without refinement, and the time."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        table = generate_pairs(adapter, config, out, first=FIRST, progress=False)
        images, masks, parts = ([out / p for p in table[f"{k}_path"]] for k in ("image", "mask", "anomaly"))
        took = time.perf_counter() - start
        size_px = read_card(adapter).size_px
        pairs = load_pairs(images, masks, parts, size_px)
        plain = mask_from_part(
            torch.stack([load_image(p) for p in parts]), read_card(adapter).mask_threshold, MIN_AREA_PX
        )
    return pairs, plain, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluated", type=Path)
    parser.add_argument("--base", type=Path, default=MINI, help="The base that was evaluated there.")
    parser.add_argument("--defects", nargs="+", default=["hole", "stain"])
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--judge-steps", type=int, default=600)
    args = parser.parse_args()
    judge = train_judge(CATEGORY, args.evaluated / "judge", num_steps=args.judge_steps, device="cpu")
    print(f"judge, held out: IoU {judge.iou}, recall {judge.recall}")
    data = args.evaluated / "demo-data" / CATEGORY
    preset = yaml.safe_load(DEMO_PRESET.read_text())["generate"]
    given = GenerateConfig(**preset | {"num_pairs": args.pairs})
    rows = []
    for defect in args.defects:
        adapter = args.evaluated / f"{args.base.name}-{CATEGORY}-{defect}" / "adapter"
        shots = {
            name: load_shots(
                [
                    Shot(i, data / "ground_truth" / name / f"{i.stem}_mask.png")
                    for i in sorted((data / "test" / name).iterdir())[:FEW_SHOTS]
                ],
                read_card(adapter).size_px,
            )
            for name in args.defects
        }
        good = evenly_spaced(sorted((data / "train/good").iterdir()), NORMALS)
        normals = load_images(good, read_card(adapter).size_px)
        start = time.perf_counter()
        candidates = search(adapter, given, SearchConfig(rounds=2), shots[defect], normals)
        searched = time.perf_counter() - start
        print(candidates.round(3).to_string())
        best = {
            name: candidates.loc[candidates["chosen"], name].item()
            for name in SETTINGS
            if name != "adapter_step"
        }
        for name, config, extra in (
            ("", given, 0.0),
            ("searched, ", given.model_copy(update=best), searched),
        ):
            pairs, plain, took = drawn(adapter, config)
            without = PairSet(pairs.image, plain, pairs.anomaly)
            rows.append(judged(f"{name}plain masks", without, defect, judge, took + extra))
            rows.append(judged(f"{name}refined masks", pairs, defect, judge, took + extra))
            start = time.perf_counter()
            found = curate(pairs, shots, defect, normals, mask_threshold=read_card(adapter).mask_threshold)
            took += time.perf_counter() - start
            kept = pairs[torch.tensor(found.accepted)]
            rows.append(judged(f"{name}refined, curated", kept, defect, judge, took + extra))
            print(found.pairs["reasons"].value_counts().to_dict())
    print(pd.DataFrame(rows).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
