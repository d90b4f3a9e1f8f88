"""Pairs streamed to disk: a folder that a killed run goes on with, and its table."""

from collections.abc import Hashable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
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

from dual_anodiff.adapter_card import AdapterCard, read_card
from dual_anodiff.background import check_backgrounds, pick_background
from dual_anodiff.base import fingerprint
from dual_anodiff.config import GenerateConfig
from dual_anodiff.errors import AdapterError
from dual_anodiff.guided import Pasted, guided_pairs
from dual_anodiff.images import Background
from dual_anodiff.pair_files import is_whole, make_folders, row_of, write_pair
from dual_anodiff.pictures import read_mask, read_picture
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.progress import progress as progress_of
from dual_anodiff.regions import check_where, draw_regions

SCHEDULERS: dict[str, Any] = {
    "dpmsolver++": DPMSolverMultistepScheduler,
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "euler": EulerDiscreteScheduler,
    "unipc": UniPCMultistepScheduler,
}


def generate_pairs(
    adapter: Path,  # folder of a finished fine-tuning
    config: GenerateConfig,
    out: Path,  # may hold some of the pairs already
    *,
    device: str = "cpu",
    seed: int = 0,  # of the run; each pair has its own from it
    first: int = 0,  # number of the first pair
    backgrounds: Sequence[Background] = (),  # to choose from; none for an adapter without
    progress: bool = True,  # a bar on the terminal
) -> pd.DataFrame:
    """Draw `config.num_pairs` pairs into `out`: image/, anomaly/, mask/ and pairs.parquet with one row a pair.

    The pairs are number `first` and those after it. Files that a killed run has finished are kept, pair i's pixels
    depend on (seed, i) and its background alone, which is one of `backgrounds`, chosen by (seed, i), and named in the
    table's column `background`; mask_threshold is what the masks were cut at.
    Raises: AdapterError, BaseModelError; InputError for backgrounds that the adapter doesn't take or can't be read, or
    a region that can't be had.
    """
    card = read_card(adapter)
    check_backgrounds(card, config.num_pairs, config.num_pairs if backgrounds else 0)
    check_where(config.where, card)
    numbers = range(first, first + config.num_pairs)
    chosen = {i: pick_background(backgrounds, pair_seed(seed, i)) for i in numbers}
    threshold = mask_threshold(config, card)
    pipe = _open(adapter, config, device)
    make_folders(out)
    missing = {i for i in numbers if not is_whole(out, i)}
    with progress_of("generate", len(numbers), "pair", shown=progress) as report_progress:
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
                mask_threshold=threshold,
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
                write_pair(out, i, image, anomaly, mask)
            report_progress(start + len(index), None)
    rows = [
        row_of(out, i, pair_seed(seed, i)) | {"background": "" if (b := chosen[i]) is None else b.image.name}
        for i in numbers
    ]
    table = pd.DataFrame(rows).assign(mask_threshold=threshold)
    table.to_parquet(out / "pairs.parquet", index=False)
    return table


def redraw_pairs(
    adapter: Path,  # folder of a finished fine-tuning
    pasted: pd.DataFrame,  # index, seed, normal_path, image_path, mask_path
    config: GenerateConfig,
    out: Path,  # may hold some of the pairs already
    *,
    side_px: int | None = None,  # of the crops that the adapter was trained on; None: whole pictures
    device: str = "cpu",
    progress: bool = True,  # a bar on the terminal
) -> pd.DataFrame:
    """Draw defects that were pasted into normals anew (`guided_pairs`), each to a pair at its normal's size.

    Files and table as of `generate_pairs`; further columns: strength, mask_agreement (0 to 1), and top, left, height,
    width, px, of the window around the largest defect. Files that a killed run has finished are kept; pair i depends on
    its row alone.
    Raises: AdapterError, BaseModelError; InputError for a file that can't be read.
    """
    threshold = mask_threshold(config, read_card(adapter))
    pipe = _open(adapter, config, device)
    make_folders(out)
    rows = pasted.to_dict("records")
    with progress_of("generate", len(rows), "pair", shown=progress) as report_progress:
        for start in range(0, len(rows), config.batch_size):
            some = rows[start : start + config.batch_size]
            if all(is_whole(out, row["index"]) for row in some):
                continue
            pairs = guided_pairs(
                pipe,
                [_read_pasted(row) for row in some],
                side_px=side_px,
                strength=config.strength,
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
                mask_threshold=threshold,
                min_area_px=config.mask.min_area_px,
                refine_masks=config.mask.refine,
                batch_size=config.batch_size,
            )
            for row, pair in zip(some, pairs, strict=True):
                if is_whole(out, row["index"]):
                    continue
                facts = {
                    "strength": pair.strength,
                    "mask_agreement": pair.agreement,
                    **asdict(pair.windows[0]),
                }
                image, anomaly, mask = (
                    Image.fromarray(pixels)
                    for pixels in (pair.image, pair.anomaly, pair.mask.astype(np.uint8) * 255)
                )
                write_pair(out, row["index"], image, anomaly, mask, facts)
            report_progress(start + len(some), None)
    table = pd.DataFrame([row_of(out, row["index"], row["seed"]) for row in rows])
    table = table.assign(mask_threshold=threshold)
    table.to_parquet(out / "pairs.parquet", index=False)
    return table


def mask_threshold(config: GenerateConfig, card: AdapterCard) -> float:
    """The distance from the background that masks begin at: the user's, else what fine-tuning chose.

    Settled here, once: previews and masks go by it, and each pair's row holds it, for whoever judges the pair.
    """
    return card.mask_threshold if config.mask.threshold == "auto" else config.mask.threshold


def pair_seed(seed: int, index: int) -> int:
    """The seed of pair `index` of a run."""
    return seed * 1_000_003 + index


def _open(adapter: Path, config: GenerateConfig, device: str) -> DualAnoDiffPipeline:
    """The adapter on its base, with the sampler of the config. Raises: AdapterError, BaseModelError."""
    card = read_card(adapter)
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
    return pipe


def _read_pasted(row: dict[Hashable, Any]) -> Pasted:
    normal, image = (read_picture(row[name]) for name in ("normal_path", "image_path"))
    return Pasted(normal, image, read_mask(row["mask_path"]), row["seed"])
