"""What each rule of curation refuses of real defects, and of planted faults: `python -m benchmarks.curation`.

Real ones are pictures of the test side, which thresholds know nothing of, put forward as if they had been generated. Each
kind of fault is planted in as many: the mask lies elsewhere; a normal with a mask on it; a shot itself, or mirrored;
another type's picture; a spot beside the defect that is noise, tinted, or another place's. `--data FOLDER` adds a
category in MVTec AD layout to the demo's. A rule not in force refuses nothing; how often that is, the table says.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.demo_data import DEMO_CATEGORIES, draw_demo
from dual_anodiff.images import Shot
from dual_anodiff.quality.curation import REASONS, curate
from dual_anodiff.quality.features import Features
from dual_anodiff.quality.pairs import PairSet, flipped, load_images, load_shots, to_bytes
from tasks.data.samples import read_dataset
from tasks.data.split import SplitConfig, split_samples

SIZE_PX, SPOT_PX = 128, 24
# What a fault is planted for; "empty" and "too_large" need none.
MEANT = {
    "mask elsewhere": ("unrelated", "unseen"),
    "normal": ("unseen", "unrelated"),
    "copied shot": ("copy_of_shot",),
    "other type": ("wrong_type",),
    "noise beside": ("damaged",),
    "tint beside": ("damaged",),
    "another place beside": ("damaged",),
}
Category = tuple[dict[str, PairSet], dict[str, PairSet], Tensor, Tensor]


def drawn(category: str, num_shots: int, count: int) -> Category:
    """Shots, held-out pictures, normals and held-out normals of a demo category."""

    def of(defect: str | None, many: int, seed: int) -> PairSet:
        found = draw_demo(category, defect, many, torch.Generator().manual_seed(seed))
        return PairSet(to_bytes(found.image), found.mask[:, 0] > 0.5)

    types = DEMO_CATEGORIES[category].defect_types
    shots = {each: of(each, num_shots, 10 + i) for i, each in enumerate(types)}
    held = {each: of(each, count, 20 + i) for i, each in enumerate(types)}
    return shots, held, of(None, 60, 30).image, of(None, count, 40).image


def read(folder: Path, num_shots: int, count: int) -> Category:
    """The same of a folder, split as a run does: no part is on both sides, and none is held out twice."""
    samples = split_samples(read_dataset(folder), SplitConfig(shots=num_shots))

    def of(side: str, most: int) -> dict[str, PairSet]:
        rows = samples[(samples["split"] == side) & (samples["label_index"] == 1)].sort_values("image_path")
        return {
            str(label): load_shots(
                [
                    Shot(Path(image), Path(mask))
                    for image, mask in zip(few["image_path"], few["mask_path"], strict=True)
                ],
                SIZE_PX,
            )
            for label, of_type in rows.groupby("label")
            for parts in [of_type if side == "train" else of_type.drop_duplicates("group")]
            for few in [parts.iloc[:: max(1, len(parts) // most)].head(most)]
        }

    def good(side: str, most: int) -> Tensor:
        rows = samples[(samples["split"] == side) & (samples["label"] == "good")]["image_path"].sort_values()
        return load_images(
            [Path(path) for path in rows.iloc[:: max(1, len(rows) // most)].head(most)], SIZE_PX
        )

    return of("train", num_shots), of("test", count), good("train", 60), good("test", count)


def as_pairs(images: Tensor, masks: Tensor) -> PairSet:
    """With the part that fits: the picture in the mask on mid-grey."""
    return PairSet(images, masks, images.where(masks[:, None], images.new_tensor(128)))


def planted(
    fault: str, defect: str, shots: dict[str, PairSet], held: dict[str, PairSet], normals: Tensor
) -> PairSet:
    """As many pairs with one fault as there are held-out pictures."""
    real = held[defect]
    n = len(real)
    match fault:
        case "mask elsewhere":
            return PairSet(
                real.image, real.mask.roll((SIZE_PX // 2, SIZE_PX // 2), (1, 2)), as_pairs(*_of(real)).anomaly
            )
        case "normal":
            return as_pairs(normals[torch.arange(n) % len(normals)], real.mask)
        case "copied shot":
            few = [flipped(shots[defect], flip) for flip in ("", "horizontal")]
            return as_pairs(torch.cat([e.image for e in few]), torch.cat([e.mask for e in few]))
        case "other type":
            others = [of for name, of in held.items() if name != defect]
            chosen = torch.randperm(sum(map(len, others)), generator=torch.Generator().manual_seed(0))[:n]
            return as_pairs(
                torch.cat([e.image for e in others])[chosen], torch.cat([e.mask for e in others])[chosen]
            )
    return as_pairs(spotted(real, fault), real.mask)


def spotted(pairs: PairSet, fault: str) -> Tensor:
    """The pictures with one damaged square clear of the mask, where there is room for one. Shape: (n, 3, h, w) uint8."""
    g = torch.Generator().manual_seed(1)
    images = pairs.image.float()
    margin = SPOT_PX + 16
    for image, mask in zip(images, pairs.mask, strict=True):
        free = F.max_pool2d(mask[None, None].float(), margin, stride=1)[0, 0] == 0
        if not free.any():
            continue
        corner = free.nonzero()[int(torch.randint(int(free.sum()), (1,), generator=g))] + 8
        y, x = (int(v) for v in corner)
        spot = image[:, y : y + SPOT_PX, x : x + SPOT_PX]
        if fault == "noise beside":
            spot += 38 * torch.randn(spot.shape, generator=g)
        elif fault == "tint beside":
            spot += (255 * torch.rand(3, 1, 1, generator=g) - spot) / 2
        else:
            spot.copy_(0.7 * spot.flip(-1).roll(SPOT_PX // 2, -2))
    return images.clamp(0, 255).byte()


def judge(name: str, category: Category, features: Features) -> list[dict[str, object]]:
    """One row for each defect type, kind of pair and rule: share refused, of how many, in force."""
    shots, held, normals, good = category
    rows: list[dict[str, object]] = []
    for defect in shots:
        # The real ones first: what is planted is no earlier pair to them.
        sets = {"real": as_pairs(*_of(held[defect]))}
        faults = [fault for fault in MEANT if fault != "other type" or len(shots) > 1]
        sets |= {fault: planted(fault, defect, shots, held, good) for fault in faults}
        parts = [s.anomaly for s in sets.values() if s.anomaly is not None]
        everything = PairSet(
            torch.cat([s.image for s in sets.values()]),
            torch.cat([s.mask for s in sets.values()]),
            torch.cat(parts),
        )
        start = time.process_time()
        found = curate(everything, shots, defect, normals, features=features)
        seconds = time.process_time() - start
        why = dict(zip(found.thresholds["rule"], found.thresholds["why_not"], strict=True))
        kinds = [kind for kind, of in sets.items() for _ in range(len(of))]
        reasons = found.pairs["reasons"].str.split("; ").groupby(kinds)
        off = "; ".join(f"{rule}: {text}" for rule, text in why.items() if text and "object" not in rule)
        print(
            f"{name}/{defect}: {len(everything)} pairs in {seconds:.1f} s; not in force: {off or 'none'}",
            flush=True,
        )
        for kind, of_kind in reasons:
            counts = Counter(reason for each in of_kind for reason in each)
            refused: dict[str, int] = {rule: counts[text] for rule, text in REASONS.items()}
            # A planted one may also be like the real one that it was made of: that is no merit.
            by_chance = counts[REASONS["copy_of_pair"]] if str(kind) != "real" else 0
            refused["any"] = len(of_kind) - counts[""] - by_chance
            rows += [
                {"category": name, "defect": defect, "kind": kind, "rule": rule, "refused": count,
                 "pairs": len(of_kind), "in_force": rule == "any" or not why.get(rule, "")}
                for rule, count in refused.items()
            ]  # fmt: skip
    return rows


def _of(pairs: PairSet) -> tuple[Tensor, Tensor]:
    return pairs.image, pairs.mask


def print_tables(rows: pd.DataFrame) -> None:
    """False refusals by rule; what is caught of each fault, by the rules meant for it and by any."""
    demo = rows["category"].where(~rows["category"].isin(DEMO_CATEGORIES), "demo")
    for group, of_group in rows.groupby(demo):
        print(f"\n{group}: real defects refused, by rule")
        real = of_group[of_group["kind"] == "real"].groupby("rule", sort=False)
        table = real.agg(refused=("refused", "sum"), pairs=("pairs", "sum"), in_force=("in_force", "mean"))
        print(table.assign(share=table["refused"] / table["pairs"]).round(3).to_string())
        print(f"\n{group}: share refused of each fault, by rule")
        sums = of_group.groupby(["kind", "rule"], sort=False)[["refused", "pairs"]].sum()
        print((sums["refused"] / sums["pairs"]).unstack("rule").round(2).to_string(), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", default=[], metavar="FOLDER")
    parser.add_argument("--demo", nargs="*", default=list(DEMO_CATEGORIES), help="only these")
    parser.add_argument("--shots", type=int, default=5, help="of each defect type")
    parser.add_argument("--count", type=int, default=12, help="held-out pictures of each defect type")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    features, rows = Features(), []
    for name in args.demo:
        rows += judge(name, drawn(name, args.shots, args.count), features)
    for folder in args.data:
        rows += judge(folder.name, read(folder, args.shots, args.count), features)
    print_tables(pd.DataFrame(rows))


if __name__ == "__main__":
    main()
