"""Stage objects: which pixels of one category's training pictures are object, and which mirrorings they bear."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image
from prefect import task

from dual_anodiff.config import ObjectsConfig
from dual_anodiff.image_encoder import SHA256 as ENCODER
from dual_anodiff.objects.card import read_card as read_objects
from tasks.config import RunConfig
from tasks.data.pictures import load_image, picture_files
from tasks.data.sheets import GAP_PX, PAPER, fit, overlay
from tasks.errors import DataError
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.stage import OPTIONS, run_stage
from tasks.store.artifacts import Artifact, Staged, folder_digest
from tasks.tables.object_masks import ObjectMasks, mask_name, normal_backgrounds
from tasks.tables.prepared import read_samples
from tasks.tables.symmetries import SYMMETRIES, symmetries_text

if TYPE_CHECKING:
    from dual_anodiff.images import Background

log = logging.getLogger("anodiff")


OBJECTS = Stage("objects", version=3, sections=("objects", "finetune"))
SHEET = "objects.png"
COLUMNS, ON_SHEET, CELL_PX = 6, 12, 160


def plan_objects(config: RunConfig, prepared: Artifact) -> Call:
    """Name the category's object masks. Raises: DataError if the folder of given masks is missing."""
    given = _for_category(config.objects, prepared.category).masks
    if given is not None and not given.is_dir():
        raise DataError(
            f"objects.masks: {given} is no folder; correct the path, or leave it out to find the objects"
        )
    out = OBJECTS.plan(
        config.store,
        prepared.category,
        samples=prepared,
        masks=None if given is None else folder_digest(given),
        encoder=ENCODER,
        size_px=config.finetune.size_px,
        seed=config.seed,
        **config.objects.model_dump(exclude={"masks"}),
    )
    return Call(OBJECTS, objects, config, out, {"prepared": prepared})


@task(name="objects", **OPTIONS)
def objects(out: Artifact, prepared: Artifact, config: RunConfig) -> StageResult:
    """Tell object from background in one category's training pictures, or find that it has no background."""

    def make(staged: Staged, _: str) -> None:
        samples = read_samples(prepared, config.data)
        named = _for_category(config.objects, prepared.category)
        build_objects(samples, named, staged.out, size_px=config.finetune.size_px, seed=config.seed)
        build_symmetries(samples, prepared.category, staged.out)

    return run_stage(OBJECTS, out, config, make)


def build_objects(
    samples: pd.DataFrame, config: ObjectsConfig, out: Path, *, size_px: int, seed: int = 0
) -> None:
    """Learn from the training side's normals alone; write objects.json, objects.npz, masks/ and objects.png.

    Raises: DataError without normals; InputError for a picture or a given mask that can't be used.
    """
    from dual_anodiff.images import Shot, load_shot, mask_to_pil
    from dual_anodiff.images import load_image as load_tensor
    from dual_anodiff.objects.masks import find_objects, given_mask, object_mask, save_objects, square

    rows = samples[samples["split"] == "train"].sort_values("image_path")
    normals = [Path(path) for path in rows.loc[rows["label"] == "good", "image_path"]]
    shots = [Path(path) for path in rows.loc[rows["label"] != "good", "image_path"]]
    if not normals:
        raise DataError("objects: the split has no normal picture to learn from; add some to train/good")
    if config.masks is not None:
        _check_given(config.masks, [*normals, *shots])
    found = find_objects(normals, config, size_px=size_px, seed=seed)
    save_objects(found, out)
    defects = dict(zip(rows["image_path"], rows["mask_path"], strict=True))
    for picture in [*normals, *shots]:
        if config.masks is not None:
            mask = given_mask(config.masks, picture, size_px)
        elif defects[str(picture)]:
            image, defect = load_shot(Shot(picture, Path(defects[str(picture)])), size_px)
            mask = object_mask(found, image, defect[0] > 0.5)
        else:
            mask = object_mask(found, square(load_tensor(picture), size_px))
        path = out / mask_name(str(picture))
        path.parent.mkdir(parents=True, exist_ok=True)
        mask_to_pil(mask).save(path)
    shown = [*_spread(normals, ON_SHEET - min(len(shots), ON_SHEET // 2)), *_spread(shots, ON_SHEET // 2)]
    draw_objects(shown, [out / mask_name(str(picture)) for picture in shown]).save(out / SHEET)


def draw_objects(pictures: list[Path], masks: list[Path]) -> Image.Image:
    """Lay pictures out in rows, the objects' insides tinted and their edges drawn; squashed as they are worked on."""
    num_rows = -(-len(pictures) // COLUMNS)
    step = CELL_PX + GAP_PX
    sheet = Image.new("RGB", (GAP_PX + COLUMNS * step, GAP_PX + num_rows * step), PAPER)
    for i, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
        with Image.open(mask) as opened:
            worked_on = load_image(picture).resize(opened.size, Image.Resampling.BILINEAR)
            drawn = fit(overlay(worked_on, opened), CELL_PX)
        sheet.paste(drawn, (GAP_PX + i % COLUMNS * step, GAP_PX + i // COLUMNS * step))
    return sheet


def _for_category(config: ObjectsConfig, category: str) -> ObjectsConfig:
    """Fill {category} into the folder of masks."""
    if config.masks is None:
        return config
    return config.model_copy(update={"masks": Path(str(config.masks).replace("{category}", category))})


def _check_given(folder: Path, pictures: list[Path]) -> None:
    """Raises: DataError if one mask would serve two pictures, as one of a name that several folders have."""
    from dual_anodiff.objects.masks import given_path

    serves: dict[Path, Path] = {}
    for picture in pictures:
        other = serves.setdefault(given_path(folder, picture), picture)
        if other != picture:
            raise DataError(
                f"objects.masks: {given_path(folder, picture)} would serve {other} and {picture}; put the masks into "
                f"sub-folders named like the pictures': {folder / picture.parent.name}"
            )


def _spread(pictures: list[Path], most: int) -> list[Path]:
    places = np.linspace(0, len(pictures) - 1, min(most, len(pictures))).round().astype(int)
    return [pictures[i] for i in places]


def build_symmetries(samples: pd.DataFrame, category: str, out: Path) -> None:
    """Look at the training side's normals alone; write symmetries.json and say what was found.

    Raises: InputError for a picture that can't be read.
    """
    from dual_anodiff.objects.symmetries import find_symmetries, load_normals
    from dual_anodiff.quality.features import Features

    normals = samples[(samples["split"] == "train") & (samples["label"] == "good")]
    found = find_symmetries(Features(), load_normals([Path(path) for path in normals["image_path"]]))
    (out / SYMMETRIES).write_text(json.dumps(asdict(found), indent=2) + "\n")
    log.info("%s: %s", category, symmetries_text(asdict(found)))


def find_backgrounds(
    folder: Path, adapter: Path, config: ObjectsConfig, out: Path, *, seed: int = 0
) -> list["Background"]:
    """The normals in `folder` (or its train/good) as backgrounds for an adapter's pairs, found as a run finds them.

    `out` gets what the stage objects writes: the masks, and objects.png to look at.
    Raises: AdapterError, InputError if the adapter can't be read or takes no backgrounds; DataError if there are no
    normals, or no background in them; InputError for a picture that can't be read.
    """
    from dual_anodiff.adapter_card import read_card
    from dual_anodiff.background import check_backgrounds

    card = read_card(adapter)
    check_backgrounds(card, num_pairs=1, given=1)
    good = folder.resolve() / "train" / "good"
    normals = list(picture_files(good if good.is_dir() else folder.resolve()))
    if not normals:
        raise DataError(
            f"backgrounds: {folder} holds no picture; give a folder of normal pictures, or one category with train/good"
        )
    if len({path.stem for path in normals}) < len(normals):
        raise DataError(f"backgrounds: {normals[0].parent} has two pictures of one name; give each its own")
    rows = {"image_path": [str(path) for path in normals], "mask_path": "", "label": "good", "label_index": 0}
    samples = pd.DataFrame(rows).assign(split="train")
    out.mkdir(parents=True, exist_ok=True)
    build_objects(samples, config, out, size_px=card.size_px, seed=seed)
    found = read_objects(out)
    masks = ObjectMasks(found["kind"], found["reason"], out)
    if not masks.has_background:
        raise DataError(
            f"backgrounds: no background in the pictures of {folder}: {masks.reason}; give others, your own masks "
            "(--set objects.masks=FOLDER), or say what they show (--set objects.kind=aligned, or placed)"
        )
    return normal_backgrounds(samples, masks)
