"""What augmentation costs and looks like: `python -m benchmarks.augmentation [CATEGORY_FOLDER] [--sheet PNG]`.

Milliseconds a picture on one core, for all changes at once and for each alone. `--sheet` draws the first pictures that
have a defect (of the demo's tiles without a folder), each eight times, the masks' edges marked.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from downstream.augmentation import augment
from downstream.config import AugmentConfig
from downstream.images import load_pictures
from dual_anodiff.demo_data import write_demo_data
from dual_anodiff.images import mask_to_pil, to_pil
from tasks.data.samples import read_dataset
from tasks.data.sheets import overlay

BATCH, ROUNDS, ROWS, COLUMNS = 8, 20, 6, 8
OFF = {
    "horizontal_flip": False, "vertical_flip": False, "rotate90": False, "rotation": 0.0, "scale": 0.0, "shift": 0.0,
    "perspective": 0.0, "brightness": 0.0, "contrast": 0.0, "gamma": 0.0, "blur": 0.0, "noise": 0.0,
}  # fmt: skip
EVERYTHING = AugmentConfig(horizontal_flip=True, vertical_flip=True, rotate90=True, rotation=15)


def milliseconds(images: torch.Tensor, masks: torch.Tensor, config: AugmentConfig) -> float:
    """Processor time a picture."""
    generator = torch.Generator().manual_seed(0)
    augment(images, masks, config, generator)
    start = time.process_time()
    for _ in range(ROUNDS):
        augment(images, masks, config, generator)
    return (time.process_time() - start) * 1000 / ROUNDS / len(images)


def sheet(images: torch.Tensor, masks: torch.Tensor) -> Image.Image:
    """A picture as it is, then changed, a row each. Shape: images (n, 3, s, s) 0..1, masks (n, 1, s, s)."""
    side = images.shape[-1]
    drawn = Image.new("RGB", (COLUMNS * side, len(images) * side))
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        copies = image.expand(COLUMNS - 1, -1, -1, -1), mask.expand(COLUMNS - 1, -1, -1, -1)
        changed, moved = augment(*copies, EVERYTHING, torch.Generator().manual_seed(row))
        pictures, marks = torch.cat([image[None], changed]), torch.cat([mask[None], moved])
        for column, (picture, mark) in enumerate(zip(pictures, marks, strict=True)):
            marked = overlay(to_pil(picture * 2 - 1), mask_to_pil(mark[0] > 0.5))
            drawn.paste(marked, (column * side, row * side))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--size-px", type=int, default=128)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as place:
        folder = args.folder
        if folder is None:
            (folder,) = write_demo_data(
                Path(place), categories=["tile"], num_train=1, num_test_good=1, num_defects=8
            )
        table = read_dataset(folder)
        defects = table[table["mask_path"] != ""].groupby("label").head(2).head(BATCH)
        pixels, marked = load_pictures(
            defects["image_path"].tolist(), defects["mask_path"].tolist(), [1] * len(defects), args.size_px
        )
    images, masks = pixels.float() / 255, marked.float()
    print("milliseconds a picture")
    print(f"  everything       {milliseconds(images, masks, EVERYTHING):5.2f}")
    for name in OFF:
        alone = AugmentConfig.model_validate(OFF | {name: getattr(EVERYTHING, name)})
        print(f"  {name:16} {milliseconds(images, masks, alone):5.2f}")
    if args.sheet is not None:
        sheet(images[:ROWS], masks[:ROWS]).save(args.sheet)


if __name__ == "__main__":
    main()
