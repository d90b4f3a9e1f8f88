"""Pairs streamed to disk: a folder that a killed run goes on with, and its table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image

from dual_anodiff.adapter import read_card
from dual_anodiff.background import check_backgrounds, pick_background
from dual_anodiff.base import fingerprint
from dual_anodiff.conditioning import check_where, draw_regions
from dual_anodiff.config import GenerateConfig
from dual_anodiff.errors import AdapterError
from dual_anodiff.images import Background
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.progress import progress as progress_of

SCHEDULERS: dict[str, Any] = {
    "dpmsolver++": DPMSolverMultistepScheduler,
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "euler": EulerDiscreteScheduler,
    "unipc": UniPCMultistepScheduler,
}


def generate_pairs(
    adapter: Path,
    config: GenerateConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    first: int = 0,
    backgrounds: Sequence[Background] = (),
    progress: bool = True,
) -> pd.DataFrame:
    """Draw `config.num_pairs` pairs into `out`: image/, anomaly/, mask/ and pairs.parquet with one row a pair.

    The pairs are number `first` and those after it. Files that a killed run has finished are kept, pair i's pixels
    depend on (seed, i) and its background alone, which is one of `backgrounds`, chosen by (seed, i), and named in the
    table's column `background`.
    Raises: AdapterError, BaseModelError; InputError for backgrounds that the adapter doesn't take or can't be read, or
    a region that can't be had.
    """
    card = read_card(adapter)
    check_backgrounds(card, config.num_pairs, config.num_pairs if backgrounds else 0)
    check_where(config.where, card)
    numbers = range(first, first + config.num_pairs)
    chosen = {i: pick_background(backgrounds, pair_seed(seed, i)) for i in numbers}
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    pipe = DualAnoDiffPipeline.from_adapter(
        adapter, dtype=dtype, step=config.adapter_step, strength=config.adapter_strength
    ).to(device)
    if fingerprint(card.base) != card.base_fingerprint:
        raise AdapterError(
            f"{adapter}: was trained on another version of base '{card.base}'; fine-tune again"
        )
    pipe.scheduler = SCHEDULERS[config.scheduler].from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    for kind in ("image", "anomaly", "mask"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    missing = {i for i in numbers if not (out / "mask" / f"{i:06}.png").is_file()}
    with progress_of("generate", len(numbers), "pair", shown=progress) as told:
        for start in range(0, len(numbers), config.batch_size):
            # Whole batches, though some of it may be there: in a smaller one a pixel may round to the next grey level.
            index = numbers[start : start + config.batch_size]
            if missing.isdisjoint(index):
                continue
            pairs = pipe(
                len(index),
                seeds=[pair_seed(seed, i) for i in index],
                backgrounds=[b for i in index if (b := chosen[i]) is not None],
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
                mask_threshold=None if config.mask.threshold == "auto" else config.mask.threshold,
                min_area_px=config.mask.min_area_px,
                refine_masks=config.mask.refine,
                background=config.background,
                unguided_background=config.unguided_background,
                regions=draw_regions(config.where, card, [pair_seed(seed, i) for i in index], card.size_px),
            )
            for i, image, anomaly, mask in zip(
                index, pairs.images, pairs.anomalies, pairs.masks, strict=True
            ):
                if i not in missing:
                    continue
                for kind, picture in (("image", image), ("anomaly", anomaly), ("mask", mask)):
                    # The mask comes last and is renamed into place: a pair with a mask is whole.
                    staged = out / kind / f"{i:06}.part"
                    picture.save(staged, format="PNG")
                    staged.replace(staged.with_suffix(".png"))
            told(start + len(index), None)
    table = pd.DataFrame([_row(out, i, seed, chosen[i]) for i in numbers])
    table.to_parquet(out / "pairs.parquet", index=False)
    return table


def pair_seed(seed: int, index: int) -> int:
    """The seed of pair `index` of a run."""
    return seed * 1_000_003 + index


def _row(out: Path, index: int, seed: int, background: Background | None) -> dict[str, Any]:
    with Image.open(out / "mask" / f"{index:06}.png") as mask:
        area = mask.histogram()[255]
        pixels = mask.width * mask.height
    paths = {f"{kind}_path": f"{kind}/{index:06}.png" for kind in ("image", "anomaly", "mask")}
    return {
        "index": index,
        "seed": pair_seed(seed, index),
        **paths,
        "mask_area_px": area,
        "mask_share": area / pixels,
        "background": "" if background is None else background.image.name,
    }
