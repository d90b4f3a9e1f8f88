"""The baselines that need no generator, as image–mask pairs on disk like generated ones: copy-paste and Perlin."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from downstream.copy_paste import Cut, Mask, PartMask, Pixels, cut_out, paste_defect
from downstream.errors import TrainingSetError
from downstream.images import read_image, read_pair, resize_image

COLUMNS = ["index", "seed", "label", "image_path", "mask_path", "mask_area_px", "mask_share"]
COLUMNS += ["source", "normal", "shot"]
# Each Perlin draw comes out empty with a few percent, so that this many in a row say that something is wrong.
MAX_DRAWS = 100

# Pair number and its random numbers → picture (h, w, 3) in 0..1 and mask (h, w) bool.
Draw = Callable[[int, np.random.Generator], tuple[Pixels, Mask]]


def copy_paste_pairs(
    samples: pd.DataFrame,
    out: Path,
    num_pairs: int,
    *,
    seed: int,
    first: int = 0,
    part_of: PartMask | None = None,
) -> pd.DataFrame:
    """Cut the real defects of split "train" out by their masks and paste them into its normals, at the normals' own size.

    `samples`: rows of one category as for training_set. Pairs are number `first` and after. Labels take turns, and within
    a label its shots. `part_of`: where the part is in a normal, for defects to lie on it; None where it is everywhere.
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
    def cut(image_path: str, mask_path: str) -> Cut:
        return cut_out(*read_pair(image_path, mask_path))

    def draw(index: int, generator: np.random.Generator) -> tuple[Pixels, Mask]:
        shot = shot_of(index)
        normal = Path(_normal_of(normals, seed, index))
        part = None if part_of is None else part_of(normal)
        return paste_defect(read_image(normal), cut(shot["image_path"], shot["mask_path"]), generator, part)

    numbers = range(first, first + num_pairs)
    _write_pairs(out, numbers, seed, draw)
    rows = {
        i: {
            "label": shot_of(i)["label"],
            "normal": _short(_normal_of(normals, seed, i)),
            "shot": _short(shot_of(i)["image_path"]),
        }
        for i in numbers
    }
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

    def draw(index: int, generator: np.random.Generator) -> tuple[Pixels, Mask]:
        normal = resize_image(read_image(_normal_of(normals, seed, index)), size_px)
        image, mask = perlin_anomaly(normal, textures, generator)
        pixels: Pixels = image.permute(1, 2, 0).float().div(255).numpy()
        return pixels, mask[0].numpy()

    _write_pairs(out, range(num_pairs), seed, draw)
    normal_of = {i: _short(_normal_of(normals, seed, i)) for i in range(num_pairs)}
    rows = {i: {"label": "perlin", "normal": name, "shot": ""} for i, name in normal_of.items()}
    return _write_table(out, rows, seed, "perlin")


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


def _write_pairs(out: Path, numbers: Iterable[int], seed: int, draw: Draw) -> None:
    """Draw the pairs that are not there yet; one with an empty mask is drawn again from the next sub-seed."""
    for kind in ("image", "mask"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    for index in numbers:
        if (out / "mask" / f"{index:06}.png").is_file():
            continue
        for attempt in range(1, MAX_DRAWS + 1):
            image, mask = draw(index, _generator(seed, index, attempt))
            if mask.any():
                break
        else:
            raise TrainingSetError(f"pair {index}: {MAX_DRAWS} draws in a row had an empty mask.")
        files = {
            "image": Image.fromarray((image * 255).round().astype(np.uint8)),
            "mask": Image.fromarray(mask.astype(np.uint8) * 255),
        }
        for kind, picture in files.items():
            # The mask comes last and is renamed into place: a pair with a mask is whole.
            staged = out / kind / f"{index:06}.part"
            picture.save(staged, format="PNG", compress_level=1)  # a third of the time, hardly larger
            staged.replace(staged.with_suffix(".png"))


def _write_table(out: Path, rows: Mapping[int, dict[str, str]], seed: int, source: str) -> pd.DataFrame:
    """One row a pair into pairs.parquet, with relative paths; the same back with absolute ones."""
    table = []
    for index, row in rows.items():
        paths = {f"{kind}_path": f"{kind}/{index:06}.png" for kind in ("image", "mask")}
        mask = np.asarray(Image.open(out / paths["mask_path"])) > 0
        area = {"mask_area_px": int(mask.sum()), "mask_share": float(mask.mean())}
        table.append({"index": index, "seed": seed, "source": source, **paths, **area, **row})
    pairs = pd.DataFrame(table, columns=COLUMNS)
    pairs.to_parquet(out / "pairs.parquet", index=False)
    return pairs.assign(
        **{name: [str(out.resolve() / path) for path in pairs[name]] for name in ("image_path", "mask_path")}
    )
