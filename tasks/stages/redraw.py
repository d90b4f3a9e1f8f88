"""Pairs that start from shots: their defects pasted into normals, then drawn anew with an adapter."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dual_anodiff.config import GenerateConfig
from tasks.config import RunConfig
from tasks.data.samples import defect_types, read_dataset
from tasks.data.split import ShotChoice, choice_key
from tasks.errors import ConfigError, DataError
from tasks.runtime.device import resolve_device
from tasks.store.artifacts import Artifact
from tasks.tables.crops import read_side_px
from tasks.tables.object_masks import ObjectMask

VERSION = 1  # of pairs that start from shots: those from noise stay as they are
STARTS = "starts"  # within the pairs' folder until all are drawn; of one name, so that a killed run leaves none behind
SEED = 1_000_000_007  # beside the run's, so that no pair starts from a pair of the copy-paste baseline


@dataclass(frozen=True)
class ShotStarts:
    """What pairs start from with generate.start: shot.

    `crops`: that the adapter was trained on, None for whole pictures; `choice`: of the shots of `prepared`.
    """

    prepared: Artifact
    objects: Artifact | None
    crops: Artifact | None
    choice: ShotChoice | None


def starts_key(config: RunConfig, starts: ShotStarts) -> dict[str, Any]:
    """What such pairs read, as a part of their key."""
    return {
        "start": {"version": VERSION, "strength": config.generate.strength},
        "samples": starts.prepared,
        "parts": starts.objects,
        **choice_key(starts.choice),
    }


def build_redraw(
    samples: pd.DataFrame,  # of which split "train" alone is read
    defect: str,
    adapter: Path,  # folder of a finished fine-tuning
    config: GenerateConfig,
    out: Path,  # may hold some of the pairs already
    *,
    side_px: int | None = None,  # of the crops that the adapter was trained on; None: whole pictures
    part_of: ObjectMask | None = None,  # which pixels of a picture are part; None: all
    device: str = "cpu",
    seed: int = 0,  # of the run
    first: int = 0,  # number of the first pair
) -> pd.DataFrame:
    """Paste shots of one defect type into normals, draw them anew with an adapter's folder, into `out`; its table.

    Further columns: shot and normal, by their last four path parts. Raises: DataError if there is no shot or no normal;
    AdapterError, InputError.
    """
    from downstream.errors import TrainingSetError
    from downstream.synthesis import copy_paste_pairs
    from dual_anodiff.generation import pair_seed, redraw_pairs

    known = samples[(samples["label_index"] == 0) | (samples["label"] == defect)]
    starts = out / STARTS
    try:
        pasted = copy_paste_pairs(
            known, starts, config.num_pairs, seed=seed + SEED, first=first, part_of=part_of
        )
    except TrainingSetError as error:
        raise DataError(f"generate {defect!r}: {error}") from error
    files = {"/".join(Path(path).parts[-4:]): path for path in known["image_path"]}
    pasted = pasted.assign(
        normal_path=pasted["normal"].map(files), seed=[pair_seed(seed, int(i)) for i in pasted["index"]]
    )
    table = redraw_pairs(adapter, pasted, config, out, side_px=side_px, device=resolve_device(device))
    shutil.rmtree(starts)
    table = table.merge(pasted[["index", "normal", "shot"]], on="index")
    table.to_parquet(out / "pairs.parquet", index=False)
    return table


def redraw_shots(
    folder: Path,
    defect: str | None,
    adapter: Path,
    config: GenerateConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Draw the shots of one category's folder anew in its normals, without a run; all its pictures of the type are shots.

    Defect type and crops are those that the adapter's stage trained on; `defect` is for an adapter that lies in no store.
    Raises: DataError, ConfigError if the type is not known; else as `build_redraw`.
    """
    made_of, side_px = {}, None
    if (adapter / "manifest.json").is_file():
        made_of = json.loads((adapter / "manifest.json").read_text())["inputs"]
        crops = adapter.resolve().parents[2] / str(made_of["samples"])
        if crops.parts[-3] == "crop":
            side_px = read_side_px(crops)
    named = defect or made_of.get("defect")
    if named is None:
        raise ConfigError(f"{adapter}: does not say which defect type it was trained on; give --defect")
    samples = read_dataset(folder)
    known = defect_types(samples)
    if samples["category"].nunique() > 1 or named not in known:
        has = ", ".join(known) or "none"
        raise DataError(
            f"{folder}: has the defect types {has}; give the folder of one category with test/{named}"
        )
    out.mkdir(parents=True, exist_ok=True)
    train = samples[(samples["label"] == named) | (samples["split"] == "train")].assign(split="train")
    build_redraw(train, named, adapter, config, out, side_px=side_px, device=device, seed=seed)
