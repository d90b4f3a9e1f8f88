"""The baselines that need no generator, as image–mask pairs on disk like generated ones: copy-paste and Perlin."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from downstream.errors import TrainingSetError
from downstream.images import load_pictures, read_image, resize_image

COLUMNS = ["index", "seed", "label", "image_path", "mask_path", "mask_area_px", "mask_share"]
COLUMNS += ["source", "normal", "shot"]
# A pasted defect keeps its place up to this share of the side: where the part ends is not known here, and a
# scratch beside the part is no defect.
JITTER = 0.1
SCALE = (0.7, 1.3)
# Each Perlin draw comes out empty with a few percent, so that this many in a row say that something is wrong.
MAX_DRAWS = 100

# Pair number and its random numbers → picture (3, s, s) uint8 and mask (1, s, s) bool.
Draw = Callable[[int, np.random.Generator], tuple[Tensor, Tensor]]


def copy_paste_pairs(
    samples: pd.DataFrame, out: Path, num_pairs: int, *, size_px: int, seed: int
) -> pd.DataFrame:
    """Cut the real defects of split "train" out by their masks and paste them onto its normals.

    `samples`: rows of one category as for training_set. Labels take turns, and within a label its shots.
    Writes image/, mask/ and pairs.parquet (paths relative to `out`); returns that table with absolute paths:
    index, seed, label, image_path, mask_path, mask_area_px, mask_share, source ("copy-paste"), and by their
    last four path parts the normal and the shot. A killed run goes on at the missing pair; pair i depends
    on the samples and (seed, i) alone.
    Raises: TrainingSetError without shots or normals; PictureError for a shot whose mask is missing or empty.
    """
    shots, normals = _train_rows(samples, 1), _train_rows(samples, 0)
    of_label = {str(label): rows for label, rows in sorted(shots.groupby("label"))}

    def shot_of(index: int) -> "pd.Series[Any]":
        rows = list(of_label.values())[index % len(of_label)]
        return rows.iloc[index // len(of_label) % len(rows)]

    @cache  # a handful of shots, each pasted again and again
    def load(image_path: str, mask_path: str) -> tuple[Tensor, Tensor]:
        images, masks = load_pictures([image_path], [mask_path], [1], size_px)
        return images[0], masks[0]

    def draw(index: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        shot, shot_mask = load(shot_of(index)["image_path"], shot_of(index)["mask_path"])
        normal = resize_image(read_image(_normal_of(normals, seed, index)), size_px)
        return paste(normal, shot, shot_mask, generator)

    _write_pairs(out, num_pairs, seed, draw)
    rows = [
        {
            "label": shot_of(i)["label"],
            "normal": _short(_normal_of(normals, seed, i)),
            "shot": _short(shot_of(i)["image_path"]),
        }
        for i in range(num_pairs)
    ]
    return _write_table(out, rows, seed, "copy-paste")


def perlin_pairs(
    samples: pd.DataFrame,
    out: Path,
    num_pairs: int,
    *,
    size_px: int,
    seed: int,
    texture_folder: Path | None = None,
) -> pd.DataFrame:
    """Blend anomalib's Perlin-shaped anomalies into the normals of split "train".

    They are filled with pictures of `texture_folder`, or without one with the noise itself, augmented. Such
    an anomaly is of no defect type: its label is "perlin". Files, table, resuming and seeds as in
    copy_paste_pairs; "shot" is "".
    Raises: TrainingSetError without normals, or if the texture folder holds no picture.
    """
    normals = _train_rows(samples, 0)
    textures = [] if texture_folder is None else _textures(texture_folder)

    def draw(index: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        normal = resize_image(read_image(_normal_of(normals, seed, index)), size_px)
        return perlin_anomaly(normal, textures, generator)

    _write_pairs(out, num_pairs, seed, draw)
    normal_of = [_short(_normal_of(normals, seed, i)) for i in range(num_pairs)]
    return _write_table(
        out, [{"label": "perlin", "normal": name, "shot": ""} for name in normal_of], seed, "perlin"
    )


def paste(
    normal: Tensor, shot: Tensor, shot_mask: Tensor, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Put the masked part of `shot`, flipped, turned, scaled and shifted, onto `normal`; nothing outside the
    returned mask changes.

    Shape: pictures (3, s, s) uint8, masks (1, s, s) bool; picture and mask out.
    """
    size_px = normal.shape[-1]
    lines, columns = (torch.nonzero(shot_mask[0].any(dim))[:, 0] for dim in (1, 0))
    box = (slice(int(lines[0]), int(lines[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    centre = [(part.start + part.stop) / 2 for part in box]
    cut = torch.cat([shot, shot_mask * 255])[:, *box].float()  # (3 colours + mask, h, w)
    cut = cut.flip([axis for axis in (1, 2) if generator.random() < 0.5])
    cut = torch.rot90(cut, int(generator.integers(4)), (1, 2))
    factor = min(generator.uniform(*SCALE), size_px / max(cut.shape[1:]))
    height, width = (max(1, round(side * factor)) for side in cut.shape[1:])
    colours = F.interpolate(
        cut[None, :3], (height, width), mode="bilinear", antialias=True, align_corners=False
    )[0]
    # As in resize_mask, a cell counts that the defect touches: no hairline is lost.
    cells = F.adaptive_max_pool2d(cut[None, 3:], (height, width))[0] > 0

    jitter = generator.uniform(-JITTER, JITTER, 2) * size_px
    top, left = (
        int(np.clip(round(middle + shift - side / 2), 0, size_px - side))
        for middle, shift, side in zip(centre, jitter, (height, width), strict=True)
    )
    place = (slice(None), slice(top, top + height), slice(left, left + width))
    mask = torch.zeros_like(shot_mask)
    mask[place] = cells
    pasted = normal.float()
    pasted[place] = colours
    alpha = torch.from_numpy(feather(mask[0].numpy()))
    image = alpha * pasted + (1 - alpha) * normal
    return image.round().clamp(0, 255).to(torch.uint8), mask


def feather(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How much of a pasted defect shows: 1 inside, 0.5 on the mask's outermost pixel, 0 outside.

    Feathered inwards, so that the mask is exactly what was changed; where it has no inside (a hairline), all
    of it is 1. Shape: (h, w). Units: share 0..1.
    """
    inside = ndimage.binary_erosion(mask, border_value=1)
    edge = mask & ~inside & ndimage.binary_dilation(inside)
    return mask.astype(np.float32) - 0.5 * edge.astype(np.float32)


def perlin_anomaly(
    normal: Tensor, textures: Sequence[Path], generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """One draw of anomalib's PerlinAnomalyGenerator, which may come out empty.

    Shape: (3, s, s) uint8 → picture (3, s, s) uint8, mask (1, s, s) bool.
    """
    from anomalib.data.utils.generators import PerlinAnomalyGenerator

    with torch.random.fork_rng(devices=[]):
        # anomalib draws from torch's global generator, one number (solarize) already in the constructor.
        torch.manual_seed(int(generator.integers(2**63)))
        transform = PerlinAnomalyGenerator(probability=1.0)
        # Not by anomaly_source_path: it lists a folder in the file system's order, so that the same seed
        # takes another texture on another machine.
        transform.anomaly_source_paths = list(textures)
        image, mask = transform(normal.float() / 255)
    return (image * 255).round().clamp(0, 255).to(torch.uint8), mask > 0.5


def _train_rows(samples: pd.DataFrame, label_index: int) -> pd.DataFrame:
    """The normals (0) or defects (1) of split "train", in an order of their own."""
    rows = samples[(samples["split"] == "train") & (samples["label_index"] == label_index)]
    if rows.empty:
        what = "defect picture" if label_index else "normal picture"
        raise TrainingSetError(f'samples hold no {what} with split "train": nothing to make pairs from.')
    return rows.sort_values("image_path", ignore_index=True)


def _generator(seed: int, index: int, draw: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, draw])


def _normal_of(normals: pd.DataFrame, seed: int, index: int) -> str:
    """The normal of pair `index`: known without any pixel, and kept when the pair is drawn again."""
    return str(normals["image_path"].iloc[int(_generator(seed, index, 0).integers(len(normals)))])


def _short(path: str) -> str:
    """CATEGORY/split/label/name: an artifact holds no absolute path."""
    return "/".join(Path(path).parts[-4:])


def _textures(folder: Path) -> list[Path]:
    suffixes = {".jpg", ".jpeg", ".png"}  # what torchvision.io reads for anomalib
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    if not found:
        raise TrainingSetError(
            f"texture_folder: {folder} holds no .jpg or .png picture. Give a folder of textures (DTD), or none."
        )
    return found


def _write_pairs(out: Path, num_pairs: int, seed: int, draw: Draw) -> None:
    """Draw the pairs that are not there yet; one with an empty mask is drawn again from the next sub-seed."""
    for kind in ("image", "mask"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    for index in range(num_pairs):
        if (out / "mask" / f"{index:06}.png").is_file():
            continue
        for attempt in range(1, MAX_DRAWS + 1):
            image, mask = draw(index, _generator(seed, index, attempt))
            if mask.any():
                break
        else:
            raise TrainingSetError(f"pair {index}: {MAX_DRAWS} draws in a row had an empty mask.")
        files = {
            "image": Image.fromarray(image.permute(1, 2, 0).numpy()),
            "mask": Image.fromarray(mask[0].numpy().astype(np.uint8) * 255),
        }
        for kind, picture in files.items():
            # The mask comes last and is renamed into place: a pair with a mask is whole.
            staged = out / kind / f"{index:06}.part"
            picture.save(staged, format="PNG")
            staged.replace(staged.with_suffix(".png"))


def _write_table(out: Path, rows: list[dict[str, str]], seed: int, source: str) -> pd.DataFrame:
    """One row a pair into pairs.parquet, with relative paths; the same back with absolute ones."""
    table = []
    for index, row in enumerate(rows):
        paths = {f"{kind}_path": f"{kind}/{index:06}.png" for kind in ("image", "mask")}
        mask = np.asarray(Image.open(out / paths["mask_path"])) > 0
        area = {"mask_area_px": int(mask.sum()), "mask_share": float(mask.mean())}
        table.append({"index": index, "seed": seed, "source": source, **paths, **area, **row})
    pairs = pd.DataFrame(table, columns=COLUMNS)
    pairs.to_parquet(out / "pairs.parquet", index=False)
    return pairs.assign(
        **{name: [str(out.resolve() / path) for path in pairs[name]] for name in ("image_path", "mask_path")}
    )
