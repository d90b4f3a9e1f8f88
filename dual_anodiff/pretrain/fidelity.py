"""What the VAE and the image encoder are worth: contrast kept, PSNR, KID of samples, linear probes."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from dual_anodiff.images import Shot, load_image, load_shot, square
from dual_anodiff.objective import decode, encode
from dual_anodiff.pretrain.corpus import (
    DEFECT_NAMES,
    KIND_NAMES,
    SHIFT,
    ZOOM,
    image_caption,
    suitable_defects,
)
from dual_anodiff.procedural import draw, parts
from dual_anodiff.quality import distribution
from dual_anodiff.quality.features import Features as Features
from dual_anodiff.quality.pairs import to_bytes

SIZE_PX = 128
BATCH = 16
HELD_OUT_SEED = 2**40  # the corpus' blocks are seeded below


def draw_held_out(kind: int, defect: int, number: int) -> draw.Drawn:
    """A block of pictures that no training saw. Shape: 8 pictures of 128 px."""
    generator = torch.Generator().manual_seed(HELD_OUT_SEED + number)
    look = draw.random_look(8, generator, parts.PRETRAIN_RANGE)
    name = DEFECT_NAMES[defect] if defect else None
    return draw.draw(
        KIND_NAMES[kind], name, look, generator, size_px=SIZE_PX, zoom_range=ZOOM, max_shift=SHIFT
    )


@torch.no_grad()
def reconstruct(vae: AutoencoderTiny, images: Tensor) -> Tensor:
    """Shape: (b, 3, h, w) in [-1, 1] → the same, on the CPU."""
    return torch.cat([decode(vae, encode(vae, part.to(vae.device))[0]).cpu() for part in images.split(BATCH)])


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal to noise of each picture, dB. Shape: (b, 3, h, w) in [-1, 1] → (b,)."""
    return -10 * ((a - b) / 2).square().mean((1, 2, 3)).log10()


def contrast_kept(contrast: Tensor, returned: Tensor, mask: Tensor) -> Tensor:
    """The share of a defect's contrast that is left: the returned contrast projected on the original's, in the mask.

    Shape: contrast, returned (b, 3, h, w), defect minus sound; mask (b, 1, h, w) → (b,). 1 is all of it, 0 none.
    """
    original = contrast * mask
    return (original * returned).sum((1, 2, 3)) / original.square().sum((1, 2, 3))


def vae_on_drawn(vae: AutoencoderTiny, blocks_each: int = 4) -> pd.DataFrame:
    """One row a defect family: PSNR and contrast kept, against the same exposure without the defect."""
    rows = []
    for defect in range(1, len(DEFECT_NAMES)):
        kinds = [k for k in range(len(KIND_NAMES)) if defect in suitable_defects(k)]
        for i in range(blocks_each):
            kind = kinds[(defect + i * max(1, len(kinds) // blocks_each)) % len(kinds)]
            drawn = draw_held_out(kind, defect, 100 * defect + i)
            image, normal, mask = drawn.image, drawn.normal, drawn.mask.float()
            output, output_normal = reconstruct(vae, torch.cat([image, normal])).chunk(2)
            kept = contrast_kept(image - normal, output - output_normal, mask)
            for p, k in zip(psnr(output, image), kept, strict=True):
                rows.append({"defect": DEFECT_NAMES[defect], "psnr": float(p), "contrast_kept": float(k)})
    return pd.DataFrame(rows).dropna().groupby("defect", sort=False).mean()


def vae_on_real(vae: AutoencoderTiny, category: Path, limit: int = 32) -> pd.DataFrame:
    """One row a defect type of a folder in MVTec layout; sound is what surrounds the defect, within 8 px."""
    rows = []
    for folder in sorted(p for p in (category / "test").iterdir() if p.name != "good"):
        shots = [
            Shot(image, category / "ground_truth" / folder.name / f"{image.stem}_mask.png")
            for image in sorted(folder.iterdir())
        ][:limit]
        loaded = [load_shot(shot, SIZE_PX) for shot in shots]
        image, mask = torch.stack([i for i, _ in loaded]), torch.stack([m for _, m in loaded])
        output = reconstruct(vae, image)
        ring = F.max_pool2d(mask, 17, stride=1, padding=8) - F.max_pool2d(mask, 5, stride=1, padding=2)
        around = [
            (x * ring).sum((2, 3), keepdim=True) / ring.sum((2, 3), keepdim=True).clamp_min(1)
            for x in (image, output)
        ]
        kept = contrast_kept(image - around[0], output - around[1], mask)
        rows.append(
            {"defect": folder.name, "psnr": float(psnr(output, image).mean()), "contrast_kept": float(kept.mean())}
        )  # fmt: skip
    return pd.DataFrame(rows).set_index("defect")


def sharpness(images: Tensor) -> Tensor:
    """Standard deviation of the Laplacian over 4 neighbours, in grey levels of 0 to 255. Shape: (b, 3, h, w) → (b,)."""
    grey = images.mean(1, keepdim=True) * 127.5
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    return F.conv2d(grey, kernel).flatten(1).std(1)


@torch.no_grad()
def sharpness_kept(vae: AutoencoderTiny, category: Path, limit: int = 64) -> dict[str, float]:
    """Of real sound pictures: their sharpness, and the share that encoding and decoding leaves."""
    folder = category / "train" / "good"
    images = torch.stack([square(load_image(path), SIZE_PX) for path in sorted(folder.iterdir())[:limit]])
    before, after = sharpness(images), sharpness(reconstruct(vae, images))
    return {"sharpness": float(before.mean()), "kept": float((after / before).mean())}


def caption_mix(kinds: Sequence[int], count: int, seed: int) -> list[tuple[int, int]]:
    """Kind and defect of each block of 8: kinds in turn, every fourth good, else a random suitable defect."""
    rng = np.random.default_rng(seed)
    blocks = [(kinds[i % len(kinds)], i) for i in range((count + 7) // 8)]
    return [(k, 0 if i % 4 == 0 else int(rng.choice(suitable_defects(k)))) for k, i in blocks]


def sample_pictures(
    pipe: Any, captions: Sequence[str], *, guidance_scale: float, steps: int = 20, seed: int = 0
) -> Iterator[Tensor]:
    """Pictures of a plain pipeline, 16 at a time. Shape: (b, 3, h, w) in [-1, 1]."""
    for start in range(0, len(captions), BATCH):
        images = pipe(
            list(captions[start : start + BATCH]),
            num_inference_steps=steps, guidance_scale=guidance_scale, height=SIZE_PX, width=SIZE_PX,
            output_type="pt", generator=torch.Generator().manual_seed(seed + start),
        ).images  # fmt: skip
        yield images.cpu() * 2 - 1


def kid(features: Features, real: Iterable[Tensor], fake: Iterable[Tensor], size: int) -> tuple[float, float]:
    """Kernel inception distance in the encoder's features, mean and spread over subsets; lower is better."""

    def seen(pictures: Iterable[Tensor]) -> Tensor:
        return torch.cat([features(to_bytes(batch)) for batch in pictures])

    return distribution.kid(seen(real), seen(fake), subset_size=size // 2)


def kid_of_samples(
    pipe: Any, features: Features, kinds: Sequence[int], *, count: int, guidance_scale: float
) -> dict[str, float]:
    """KID of `count` samples against as many held-out drawn pictures; beside it that of two drawn sets: the floor."""
    mix = caption_mix(kinds, count, seed=0)
    captions = [image_caption(k, d) for k, d in mix for _ in range(8)][:count]

    def drawn(offset: int) -> Iterator[Tensor]:
        return (draw_held_out(k, d, offset + i).image for i, (k, d) in enumerate(mix))

    of_samples = kid(
        features, drawn(10_000), sample_pictures(pipe, captions, guidance_scale=guidance_scale), count
    )
    of_drawn = kid(features, drawn(10_000), drawn(20_000), count)
    return {"kid": of_samples[0], "kid_spread": of_samples[1], "kid_of_drawn": of_drawn[0]}


def probe(features: NDArray[np.float32], labels: Sequence[Any], seed: int = 0) -> float:
    """Balanced accuracy of a linear classifier on frozen features, five-fold."""
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.1, max_iter=1000, tol=1e-2, class_weight="balanced")
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    predicted = cross_val_predict(model, features, np.asarray(labels), cv=folds)
    return float(balanced_accuracy_score(np.asarray(labels), predicted))


@torch.no_grad()
def probe_drawn(features: Features, count: int = 2400) -> dict[str, float]:
    """Linear probes for the kind and for the defect on held-out drawn pictures, and what guessing would give."""
    mix = caption_mix(range(len(KIND_NAMES)), count, seed=1)
    blocks = [features(draw_held_out(k, d, 30_000 + i).image).numpy() for i, (k, d) in enumerate(mix)]
    kinds, defects = ([m[j] for m in mix for _ in range(8)] for j in (0, 1))
    vectors = np.concatenate(blocks)
    return {
        "probe_kind": probe(vectors, kinds), "guess_kind": 1 / len(set(kinds)),
        "probe_defect": probe(vectors, defects), "guess_defect": 1 / len(set(defects)),
    }  # fmt: skip


@torch.no_grad()
def probe_real(features: Features, category: Path, limit: int = 60) -> dict[str, float]:
    """Linear probe for the defect type (with `good`) on real pictures. Near-duplicates may lie in several folds."""
    vectors, labels = [], []
    for folder in sorted((category / "test").iterdir()):
        images = [load_image(path) for path in sorted(folder.iterdir())[:limit]]
        small = [F.interpolate(i[None], (SIZE_PX, SIZE_PX), mode="bilinear", antialias=True) for i in images]
        vectors += [features(torch.cat(small[n : n + BATCH])).numpy() for n in range(0, len(small), BATCH)]
        labels += [folder.name] * len(images)
    return {
        f"probe_{category.name}": probe(np.concatenate(vectors), labels),
        f"guess_{category.name}": 1 / len(set(labels)),
    }
