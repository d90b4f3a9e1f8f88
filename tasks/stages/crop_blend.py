"""Stages crop and blend: a defect type's shots as crops at their own resolution, and pairs back in whole pictures."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from prefect import task

from dual_anodiff.config import NativeConfig
from dual_anodiff.crops.native import (
    Box,
    Place,
    crop_side_px,
    cut,
    find_defects,
    frame_of,
    normal_window,
    place_of,
    shot_window,
)
from dual_anodiff.pictures import picture_size
from tasks.config import RunConfig, start_of
from tasks.data.check import WIDE
from tasks.data.pictures import load_image, load_mask, sha256_of
from tasks.data.samples import COLUMNS
from tasks.data.small_defects import read_extents, small_defects, works_on_crops
from tasks.data.split import ShotChoice, choice_key, choice_label, chosen_shots, write_split
from tasks.errors import DataError
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.stage import OPTIONS, run_stage
from tasks.store.artifacts import Artifact, Staged
from tasks.tables.crops import CROPS
from tasks.tables.object_masks import ObjectMask, object_masks_in
from tasks.tables.pairs import read_pairs
from tasks.tables.prepared import SPLIT, read_samples

CROP = Stage("crop", version=2, sections=("native", "finetune"))
BLEND = Stage(
    "blend", version=2, resumable=True, time_by=("pairs",), bytes_by=("pairs",), sections=("native",)
)
# With generate.start: shot a defect type goes through crops where they are at most so large a share of the picture, the
# picture so many times larger than the model's, and so many of the shots are whole in them.
LARGEST_CROP, LARGE_PICTURE, FITTING = 0.9, 1.5, 0.75
PAIRS = "pairs.parquet"
# What the crops are made by, beside their side; the rest of NativeConfig is blend's.
CROPS_BY = {"crops_per_shot", "normal_crops"}

log = logging.getLogger("anodiff")


@dataclass(frozen=True)
class _Shot:
    """A shot's row of the table, its mask (h, w) and its defects."""

    row: dict[str, Any]
    mask: NDArray[np.bool_]
    defects: list[Box]

    def fitting(self, side_px: int) -> list[Box]:
        """The defects that a crop can hold."""
        return [box for box in self.defects if _extent_px(box) <= side_px]


def side_of_crops(config: RunConfig, prepared: Artifact, defect: str) -> int | None:
    """Side of the crops that a defect type goes through, px of the pictures; None where it is seen in whole pictures.

    By all shots of the training side, whichever a fold or a dose leaves, so that their crops' normals are the same.
    Raises: DataError if there is no shot.
    """
    samples = read_samples(prepared, config.data)
    size_px, native = config.finetune.size_px, config.native
    if native.enabled is False:
        return None
    shots = samples[(samples["split"] == "train") & (samples["label"] == defect)]
    found = [read_extents(Path(path), size_px) for path in sorted(shots["mask_path"])]
    extents = [extent for extents, _ in found for extent in extents]
    if not extents:
        raise DataError(f"defect type {defect!r}: the split gives it no shot to cut crops from")
    shortest_px = int(np.median([shortest for _, shortest in found]))
    side_px = crop_side_px(extents, shortest_px, size_px, native)
    if native.enabled == "auto" and not works_on_crops(samples, defect, native, size_px):
        # A pair drawn into a normal loses nothing by a crop that shows its defect, and a whole picture costs detail.
        whole = [all(extent <= side_px for extent in extents) for extents, _ in found]
        small = side_px <= LARGEST_CROP * shortest_px and shortest_px >= LARGE_PICTURE * size_px
        if start_of(config) == "noise" or not small or np.mean(whole) < FITTING:
            return None
    return side_px


def warn_of_small_defects(config: RunConfig, prepared: Artifact, defects: Sequence[str]) -> None:
    """A line for each defect type whose shots the generator would hardly see, and one for pictures squeezed out of shape.

    Not for those that go through crops.
    """
    samples = read_samples(prepared, config.data)
    whole = [defect for defect in defects if side_of_crops(config, prepared, defect) is None]
    shots = samples[(samples["split"] == "train") & samples["label"].isin(whole)]
    for fault in small_defects(shots, config.finetune.size_px):
        log.warning("%s/%s: %s; %s", prepared.category, fault.path.name, fault.what, fault.fix)
    sizes = [picture_size(path) for path in shots["image_path"]]
    wide = [size for size in sizes if max(size) > WIDE * min(size)]
    if wide:
        what = f"{len(wide)} of {len(sizes)} shots are far from square, such as {wide[0][1]}×{wide[0][0]}"
        fix = "set native.enabled=true, or live with defects of another shape"
        log.warning("%s: %s: all are squeezed into one; %s", prepared.category, what, fix)


def plan_crop(
    config: RunConfig,
    prepared: Artifact,
    defect: str | None,
    side_px: int,
    choice: ShotChoice | None = None,
    objects: Artifact | None = None,
) -> Call:
    """Name the crops of one defect type and of the normals; None: of normals alone.

    `objects` holds the parts' masks, where there are any.
    """
    named = f"{defect}{choice_label(choice)}" if defect else f"normals at {side_px} px"
    out = CROP.plan(
        config.store,
        prepared.category,
        label=f"{prepared.category}/{named}",
        samples=prepared,
        objects=objects,
        side_px=side_px,
        size_px=config.finetune.size_px,
        seed=config.seed,
        **({"defect": defect, **choice_key(choice)} if defect else {}),
        **config.native.model_dump(include=CROPS_BY),
    )
    inputs = {
        "prepared": prepared,
        "defect": defect,
        "side_px": side_px,
        "choice": choice,
        "objects": objects,
    }
    return Call(CROP, crop, config, out, inputs)


@task(name="crop", **OPTIONS)
def crop(
    out: Artifact,
    prepared: Artifact,
    defect: str | None,
    side_px: int,
    config: RunConfig,
    choice: ShotChoice | None = None,
    objects: Artifact | None = None,
) -> StageResult:
    """Cut the shots and normals of the training side into crops that finetune and adapt read like a prepared folder."""

    def make(staged: Staged, _: str) -> None:
        samples = chosen_shots(read_samples(prepared, config.data), choice)
        build_crop(
            samples,
            defect,
            config.native,
            staged.out,
            side_px=side_px,
            size_px=config.finetune.size_px,
            seed=config.seed,
            object_mask=object_masks_in(objects),
        )

    return run_stage(CROP, out, config, make)


def build_crop(
    samples: pd.DataFrame,
    defect: str | None,
    config: NativeConfig,
    out: Path,
    *,
    side_px: int,
    size_px: int,
    seed: int = 0,
    object_mask: ObjectMask | None = None,
) -> pd.DataFrame:
    """Write the crops in MVTec AD layout, split.csv, and crops.json: side_px, places, left_out.

    `side_px`: of the crops, px of the pictures; `defect` None: of the normals alone. Only rows of split "train" are read.
    A crop keeps its picture's category, label, split and group. Returns the table of the crops, paths absolute.
    Raises: DataError if the defect type has no shot, or none that fits its crops.
    """
    train = samples[samples["split"] == "train"].sort_values("image_path", ignore_index=True)
    shots = [_read_shot(row, size_px) for row in _records(train[train["label"] == defect])]
    normals = _records(train[train["label_index"] == 0])
    extents = [_extent_px(box) for shot in shots for box in shot.defects]
    left_out = [_name(shot.row["image_path"]) for shot in shots if not shot.fitting(side_px)]
    if defect is not None and not extents:
        raise DataError(f"defect type {defect!r}: the split gives it no shot to cut crops from")
    if shots and len(left_out) == len(shots):
        raise DataError(
            f"native.crop_px: no shot of {defect!r} fits into crops of {side_px} px, the smallest defect spans "
            f"{min(extents)} px; set it higher"
        )
    if left_out:
        log.warning("%s: left out, larger than a crop of %d px: %s", defect, side_px, ", ".join(left_out))

    rows, places = [], []
    for position, shot in enumerate(shots):
        fitting, generator = shot.fitting(side_px), np.random.default_rng([seed, 0, position])
        for number in range(config.crops_per_shot if fitting else 0):
            target = fitting[number % len(fitting)]
            others = [box for box in shot.defects if box != target]
            window = shot_window(target, others, shot.mask.shape, side_px, generator)
            rows.append(_save_crop(shot.row, number, window, out))
        frame = frame_of(shot.mask.shape, _object(object_mask, shot.row))
        places += [place_of(box, frame) for box in fitting]
    for position, number in _in_turns(len(normals), config.normal_crops):
        generator, row = np.random.default_rng([seed, 1, position, number]), normals[position]
        shape = picture_size(row["image_path"])
        rows.append(
            _save_crop(row, number, normal_window(shape, side_px, generator, _object(object_mask, row)), out)
        )
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"label_index": "int64", "group": "int64"})
    write_split(table, out, out / SPLIT)
    card = {"side_px": side_px, "places": [[place.y, place.x] for place in places], "left_out": left_out}
    (out / CROPS).write_text(json.dumps(card, indent=1) + "\n")
    return table


def plan_blend(
    config: RunConfig, prepared: Artifact, cropped: Artifact, pairs: Artifact, objects: Artifact | None = None
) -> Call:
    """Name the whole pictures that pairs of crop size are put into; read like the pairs of `generate`."""
    out = BLEND.plan(
        config.store,
        pairs.category,
        label=pairs.label,
        pairs=pairs,
        crops=cropped,
        samples=prepared,
        objects=objects,
        places=config.native.places,
        horizontal_flip=config.finetune.horizontal_flip,
        vertical_flip=config.finetune.vertical_flip,
        max_mask_share=config.curate.max_mask_share,
        seed=config.seed,
    )
    inputs = {"prepared": prepared, "cropped": cropped, "pairs": pairs, "objects": objects}
    return Call(BLEND, blend, config, out, inputs)


@task(name="blend", **OPTIONS)
def blend(
    out: Artifact,
    prepared: Artifact,
    cropped: Artifact,
    pairs: Artifact,
    config: RunConfig,
    objects: Artifact | None = None,
) -> StageResult:
    """Put each pair into a whole normal picture of the training side; a killed run keeps those it has finished."""

    def make(staged: Staged, _: str) -> None:
        build_blend(
            read_samples(prepared, config.data),
            cropped.path,
            read_pairs({"": pairs}),
            config,
            staged.out,
            place=out.path.resolve(),
            object_mask=object_masks_in(objects),
        )

    return run_stage(BLEND, out, config, make)


def build_blend(
    samples: pd.DataFrame,
    cropped: Path,
    pairs: pd.DataFrame,
    config: RunConfig,
    out: Path,
    *,
    place: Path,
    object_mask: ObjectMask | None = None,
) -> pd.DataFrame:
    """Blend the `pairs` that passed (paths absolute) into normals of split "train"; which and where is in pairs.parquet.

    The refused ones stay as they are, of crop size, with their reasons. `place`: the folder that `out` will become.
    """
    from dual_anodiff.crops.blend import blend_pairs

    normals = samples[(samples["split"] == "train") & (samples["label_index"] == 0)]
    card = json.loads((cropped / CROPS).read_text())
    passed = pairs["reasons"] == ""
    if not passed.any():
        log.warning("blend: no pair passed, so none is put into a whole picture")
    blended = blend_pairs(
        pairs[passed],
        [Path(path) for path in sorted(normals["image_path"])],
        [Place(y, x) for y, x in card["places"]] if config.native.places == "shots" else [],
        card["side_px"],
        out,
        seed=config.seed,
        horizontal=config.finetune.horizontal_flip,
        vertical=config.finetune.vertical_flip,
        max_mask_share=config.curate.max_mask_share,
        object_mask=object_mask,
    )
    scored = pairs[["index", *(name for name in pairs.columns if name not in {*blended.columns, "label"})]]
    refused = pairs[~passed].drop(columns="label")
    for column in ("image_path", "anomaly_path", "mask_path"):
        # From where the artifact will lie: `out` is its staging folder.
        refused[column] = [os.path.relpath(path, place) for path in refused[column]]
    blended = blended.merge(scored, on="index")
    blended.loc[blended["mask_area_px"] == 0, "reasons"] = "mask too large"  # for its crop: put nowhere
    table = pd.concat([blended, refused]).sort_values("index", ignore_index=True)
    table.to_parquet(out / PAIRS, index=False)
    return table


def _in_turns(num_pictures: int, count: int) -> Iterator[tuple[int, int]]:
    """`count` times a picture's position and the number of its crop: evenly spaced, or each several times."""
    for turn in range(0, count, max(1, num_pictures)):
        wanted = min(num_pictures, count - turn)
        yield from ((k * num_pictures // wanted, turn // num_pictures) for k in range(wanted))


def _save_crop(row: dict[str, Any], number: int, window: Box, out: Path) -> dict[str, Any]:
    """Write one crop, and its mask if it has one; its row of the table is its picture's, but for files and hash."""
    label, name = row["label"], f"{Path(row['image_path']).stem}_{number:03}"
    files = {"image_path": f"{'test' if row['mask_path'] else 'train'}/{label}/{name}.png", "mask_path": ""}
    pixels = {"image_path": np.asarray(load_image(Path(row["image_path"])))}
    if row["mask_path"]:
        files["mask_path"] = f"ground_truth/{label}/{name}_mask.png"
        pixels["mask_path"] = np.where(load_mask(Path(row["mask_path"])) > 127, np.uint8(255), np.uint8(0))
    for key, whole in pixels.items():
        files[key] = str(out.resolve() / files[key])
        Path(files[key]).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cut(whole, window)).save(files[key])
    return row | files | {"sha256": sha256_of(Path(files["image_path"]))}


def _read_shot(row: dict[str, Any], size_px: int) -> _Shot:
    mask = load_mask(Path(row["mask_path"])) > 127
    return _Shot(row, mask, find_defects(mask, size_px))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _extent_px(box: Box) -> int:
    return max(box.height, box.width)


def _object(object_mask: ObjectMask | None, row: dict[str, Any]) -> NDArray[np.bool_] | None:
    return None if object_mask is None else object_mask(Path(row["image_path"]))


def _name(path: str) -> str:
    """CATEGORY/split/label/name."""
    return "/".join(Path(path).parts[-4:])
