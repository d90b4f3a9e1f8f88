"""Plain masks against refined ones where the truth is known, and the worth of trust: `python -m benchmarks.masks`.

Drawn pairs through the VAE and back, by defect. With `--real FOLDER` (MVTec layout) real ones likewise. With
`--adapter FOLDER:CATEGORY:DEFECT` (a demo category; may be repeated) drawn pairs noised to a share of the schedule and
drawn back by that adapter, without guidance: there the truth still nearly holds; the more noise, the less.
Thin families are marked *. F1 is that of the mask's boundary, within 1 or 2 px.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DDIMScheduler
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from benchmarks.attention_maps import watch_attention, word_tokens
from dual_anodiff.base import MINI
from dual_anodiff.demo_data import DEMO_CATEGORIES, draw_demo
from dual_anodiff.images import Shot, load_shot
from dual_anodiff.masks import fit_threshold, iou, mask_from_part
from dual_anodiff.objective import decode, encode, encode_prompts
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.procedural import defects, draw, parts
from dual_anodiff.quality.trust import (
    FILLS_PICTURE,
    LARGEST_SHARE,
    MaskEvidence,
    failures,
    largest_share,
    mask_evidence,
    trust,
)
from dual_anodiff.refine import grown, refine

THIN = ("scratch", "crack", "thread pulled", "fray")
MIN_AREA_PX = 4
FEW_SHOTS = 8
# Pictures that no demo data holds, and none of which the constants of `refine` were chosen on.
SHOTS_SEED, HELD_OUT_SEED = 5, 2024
# Beyond 0.5 the defect moves: a right mask has a low IoU.
NOISE = (0.1, 0.3, 0.5)
NUM_STEPS = 20


@dataclass(frozen=True)
class Pairs:
    """Pairs whose truth is known. Shape: images, parts (n, 3, h, w) in [-1, 1]; truth (n, h, w) bool."""

    images: Tensor
    parts: Tensor
    truth: Tensor
    threshold: float
    max_share: float = LARGEST_SHARE
    objects: Tensor | None = None  # (n, h, w) bool, true ones
    attention: Tensor | None = None  # (n, f=2, h, w), 0 to 1

    def plain(self) -> Tensor:
        return mask_from_part(self.parts, self.threshold, MIN_AREA_PX)

    def refined(self) -> Tensor:
        return refine(self.images, self.parts, self.plain(), self.threshold)

    def evidence(self) -> MaskEvidence:
        return mask_evidence(self.images, self.parts, self.refined(), self.threshold, self.objects)


def boundary_f1(mask: NDArray[np.bool_], truth: NDArray[np.bool_], within_px: float) -> float:
    """F1 of the boundary's pixels, each right if the other boundary is that near. Shape: (h, w) bool."""
    edges = [m & ~ndimage.binary_erosion(m, border_value=1) for m in (mask, truth)]
    if not edges[0].any() or not edges[1].any():
        return float(edges[0].any() == edges[1].any())
    far = [ndimage.distance_transform_edt(~edge) for edge in edges]
    precision = float((far[1][edges[0]] <= within_px).mean())
    recall = float((far[0][edges[1]] <= within_px).mean())
    return 2 * precision * recall / max(precision + recall, 1e-9)


def figures(name: str, pairs: Pairs) -> dict[str, Any]:
    row: dict[str, Any] = {"": name + ("*" if name.split(" t=")[0].endswith(THIN) else "")}
    for kind, masks in (("plain", pairs.plain()), ("refined", pairs.refined())):
        row[f"IoU {kind}"] = float(iou(masks, pairs.truth).mean())
        both = list(zip(masks.numpy(), pairs.truth.numpy(), strict=True))
        for px in (1, 2):
            row[f"F1 {px} px {kind}"] = float(np.mean([boundary_f1(m, t, px) for m, t in both]))
    return row


def print_table(rows: list[dict[str, Any]]) -> None:
    table = pd.DataFrame(rows).set_index("")
    thin = table.index.str.endswith("*")
    for name, some in (("mean, thin*", thin), ("mean, others", ~thin)):
        if some.any():
            table.loc[name] = table.iloc[: len(some)][some].mean()
    print(table[sorted(table.columns, key=lambda c: str(c)[:6])].round(3).to_string(), flush=True)


@torch.no_grad()
def through_vae(vae: Any, images: Tensor) -> Tensor:
    return torch.cat([decode(vae, encode(vae, i[None])[0]) for i in images])


def as_pairs(
    vae: Any, shots: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], objects: Tensor | None = None
) -> Pairs:
    """Shape: each (n, 3, h, w) in [-1, 1] and (n, h, w) bool; the threshold is fitted on the shots, as in training."""
    parts_of_shots = through_vae(vae, shots[0] * shots[1][:, None])
    threshold, _ = fit_threshold(parts_of_shots, shots[1], MIN_AREA_PX)
    images, truth = others
    seen, parts_ = through_vae(vae, images), through_vae(vae, images * truth[:, None])
    return Pairs(seen, parts_, truth, threshold, largest_share(shots[1]), objects)


def drawn(vae: Any, category: str, defect: str, count: int) -> Pairs:
    def some(count: int, seed: int) -> draw.Drawn:
        generator = torch.Generator().manual_seed(seed)
        if category in DEMO_CATEGORIES:
            return draw_demo(category, defect, count, generator)
        look = draw.random_look(1, torch.Generator().manual_seed(0), parts.DEMO_RANGE)
        look = replace(look, **{k: v.expand(count, -1) for k, v in vars(look).items()})
        return draw.draw(category, defect, look, generator, size_range=defects.DEMO_SIZE)

    shots, held_out = some(FEW_SHOTS, SHOTS_SEED), some(count, HELD_OUT_SEED)
    return as_pairs(
        vae,
        (shots.image, shots.mask[:, 0]),
        (held_out.image, held_out.mask[:, 0]),
        held_out.sound.inside > 0.5,
    )


def verdicts(vae: Any, pairs: Pairs) -> list[dict[str, str]]:
    """What `failures` says of the pairs as they are, and of each broken in every way that it knows."""
    cases = {
        "right": pairs.parts,
        "empty": through_vae(vae, torch.zeros_like(pairs.images)),
        "full": through_vae(vae, pairs.images),
        "unrelated": pairs.parts.roll(1, 0),
    }
    # On a texture the object is the whole picture.
    if pairs.objects is not None and pairs.objects.float().mean() < FILLS_PICTURE:
        cases["object"] = through_vae(vae, pairs.images * pairs.objects[:, None])
    found = []
    for case, parts_ in cases.items():
        broken = replace(pairs, parts=parts_)
        found += [{"pair": case, "said": f or "right"} for f in failures(broken.evidence(), pairs.max_share)]
    return found


def print_verdicts(found: list[dict[str, str]]) -> None:
    table = pd.DataFrame(found)
    print("\nwhat `failures` says (columns) of pairs right and broken (rows), share")
    print(pd.crosstab(table["pair"], table["said"], normalize="index").round(3).to_string())
    print("pairs:", table["pair"].value_counts().to_dict(), flush=True)


def real(vae: Any, folder: Path, defect: str, count: int) -> Pairs:
    """The first pictures are the shots, as many evenly taken of the others the pairs."""
    images = sorted((folder / "test" / defect).iterdir())
    step = max(1, (len(images) - FEW_SHOTS) // count)
    images = images[:FEW_SHOTS] + images[FEW_SHOTS::step][:count]
    shots = [Shot(i, folder / "ground_truth" / defect / f"{i.stem}_mask.png") for i in images]
    loaded = [load_shot(shot, 128) for shot in shots]
    pictures, masks = torch.stack([i for i, _ in loaded]), torch.stack([m[0] > 0.5 for _, m in loaded])
    return as_pairs(vae, (pictures[:FEW_SHOTS], masks[:FEW_SHOTS]), (pictures[FEW_SHOTS:], masks[FEW_SHOTS:]))


@torch.no_grad()
def drawn_back(adapter: Path, category: str, defect: str, count: int, noise: float) -> Pairs:
    """Drawn pairs, noised to that share of the schedule and denoised by the adapter."""
    pipe = DualAnoDiffPipeline.from_adapter(adapter)
    card = pipe._card()
    words = [
        word_tokens(pipe.tokenizer, p, card.anomaly_prompt) for p in (card.image_prompt, card.anomaly_prompt)
    ]
    found = draw_demo(category, defect, count, torch.Generator().manual_seed(HELD_OUT_SEED))
    both = torch.stack([found.image, found.image * found.mask], 1).flatten(0, 1)
    # The range of latents is not that of pictures: clipped to ±1, as is DDIM's default, all colours go grey.
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(NUM_STEPS)
    steps = [t for t in scheduler.timesteps if t <= noise * scheduler.config.num_train_timesteps]
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    latents = encode(pipe.vae, both)[0]
    latents = scheduler.add_noise(
        latents, torch.randn(latents.shape, generator=generator), steps[0].expand(len(both))
    )
    text = encode_prompts(pipe.tokenizer, pipe.text_encoder, [card.image_prompt, card.anomaly_prompt])
    context = text.repeat(count, 1, 1)
    with watch_attention(pipe.unet, words[0], words[1]) as watched:
        for t in steps:
            predicted = pipe.unet(latents, t, encoder_hidden_states=context).sample
            latents = scheduler.step(predicted, t, latents).prev_sample
    pictures = decode(pipe.vae, latents).unflatten(0, (count, 2))
    return Pairs(
        pictures[:, 0], pictures[:, 1], found.mask[:, 0], card.mask_threshold,
        objects=found.sound.inside > 0.5, attention=watched.maps(pictures.shape[-1]),
    )  # fmt: skip


def stands_out(attention: Tensor, masks: Tensor) -> Tensor:
    """AUROC of the mask's pixels against those beyond 2 px, by attention. Shape: (n, h, w) → (n,)."""
    found = []
    for values, mask in zip(attention.numpy(), masks.numpy(), strict=True):
        inside, outside = values[mask], values[~grown(mask, 2)]
        if not len(inside) or not len(outside):
            found.append(0.0)
            continue
        ranks = rankdata(np.concatenate([inside, outside]))[: len(inside)].sum()
        found.append((ranks - len(inside) * (len(inside) + 1) / 2) / (len(inside) * len(outside)))
    return torch.tensor(found)


def evidence(pairs: Pairs) -> pd.DataFrame:
    """One row a pair: true IoU, trust, its evidence, and the trust with another piece of it."""
    w, masks = pairs.evidence(), pairs.refined()
    columns = {
        "IoU": iou(masks, pairs.truth), "trust": trust(w), "agreement": w.agreement, "stability": w.stability,
        "visibility": w.visibility,
    }  # fmt: skip
    others = {"visibility": w.visibility}
    if pairs.attention is not None:
        # Within the defect the anomaly branch looks less at its words than elsewhere.
        others |= {
            "attention, image": stands_out(pairs.attention[:, 0], masks),
            "attention, part": stands_out(1 - pairs.attention[:, 1], masks),
        }
    for name, seen in others.items():
        columns |= {name: seen, f"trust & {name}": (trust(w) ** 2 * seen) ** (1 / 3)}
    table = pd.DataFrame({name: value.numpy() for name, value in columns.items()})
    return table.assign(failure=failures(w, pairs.max_share))


def print_trust(rows: pd.DataFrame) -> None:
    """Rank correlation with the true IoU, of all pairs and within each group; and IoU by trust."""
    score = {
        name: {
            group: spearmanr(some[name], some["IoU"])[0]
            for group, some in [("all", rows), *rows.groupby("group")]
        }
        for name in rows.columns.drop(["group", "IoU", "failure"])
    }
    print("\nSpearman's correlation with the true IoU")
    print(pd.DataFrame(score).T.round(2).to_string())
    bins = pd.cut(rows["trust"], [-0.01, 0.2, 0.4, 0.6, 0.8, 1])
    print(rows.groupby(bins, observed=True)["IoU"].agg(["size", "mean"]).round(2).to_string())
    print(rows.groupby("failure")["IoU"].agg(["size", "mean"]).round(2).to_string(), flush=True)


def milliseconds(pairs: Pairs, size_px: int) -> tuple[float, float]:
    """Processor time of `refine` and of the trust score, one pair."""
    images, parts_ = (
        F.interpolate(x, (size_px, size_px), mode="bilinear") for x in (pairs.images, pairs.parts)
    )
    masks = mask_from_part(parts_, pairs.threshold, MIN_AREA_PX)
    refine(images[:1], parts_[:1], masks[:1], pairs.threshold)
    start = time.process_time()
    refine(images, parts_, masks, pairs.threshold)
    between = time.process_time()
    mask_evidence(images, parts_, masks, pairs.threshold)
    end = time.process_time()
    return (between - start) * 1e3 / len(images), (end - between) * 1e3 / len(images)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", action="append", default=[], metavar="FOLDER:CATEGORY:DEFECT")
    parser.add_argument("--real", type=Path, metavar="FOLDER")
    parser.add_argument("--count", type=int, default=12, help="pairs of each defect")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    vae = AutoencoderTiny.from_pretrained(MINI / "vae").float()

    for entry in args.adapter:
        if entry.count(":") < 2:
            parser.error(f"--adapter {entry}: give FOLDER:CATEGORY:DEFECT")
    vae = AutoencoderTiny.from_pretrained(MINI / "vae").float()
    if args.adapter:
        drawn_back_report([entry.rsplit(":", 2) for entry in args.adapter], args.count)
    elif args.real:
        names = sorted(f.name for f in (args.real / "ground_truth").iterdir())
        through_vae_report(
            vae, {(args.real.name, name): real(vae, args.real, name, args.count) for name in names}
        )
    else:
        named = [(c, d) for c, of in DEMO_CATEGORIES.items() for d in of.defect_types]
        named += [("tile", "scratch"), (parts.CLOTHS[0], "thread pulled"), ("washer", "burr")]
        pairs = {(c, d): drawn(vae, c, d, args.count) for c, d in named}
        through_vae_report(vae, pairs)
        for size_px in (128, 512):
            spent = milliseconds(pairs["tile", "crack"], size_px)
            print("{} px: refine {:.1f} ms, evidence {:.1f} ms a pair".format(size_px, *spent))


def through_vae_report(vae: Any, sets: Mapping[tuple[str, str], Pairs]) -> None:
    print_table([figures("/".join(name), pairs) for name, pairs in sets.items()])
    print_verdicts([found for pairs in sets.values() for found in verdicts(vae, pairs)])
    tables = [
        evidence(pairs).assign(group="thin" if defect.endswith(THIN) else "others")
        for (_, defect), pairs in sets.items()
    ]
    print_trust(pd.concat(tables))


def drawn_back_report(adapters: Sequence[Sequence[str]], count: int) -> None:
    rows, tables = [], []
    for folder, category, defect in adapters:
        for noise in NOISE:
            pairs = drawn_back(Path(folder), category, defect, count, noise)
            rows.append(figures(f"{category}/{defect} t={noise}", pairs))
            tables.append(evidence(pairs).assign(group=f"{category}/{defect}"))
    print_table(rows)
    print_trust(pd.concat(tables))


if __name__ == "__main__":
    main()
