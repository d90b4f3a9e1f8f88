"""What is found to be object, against the truth of drawn parts: `python -m benchmarks.objects [FOLDER ...] [--sheet PNG]`.

Without folders: IoU on the demo's parts; then the verdict on all kinds that can be drawn, each with two looks, one
turned at will and one lying as on a line. With folders of normal pictures: their verdicts. `--sheet` shows masks' edges.
"""

import argparse
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from dual_anodiff.config import ObjectsConfig
from dual_anodiff.demo_data import DEMO_CATEGORIES, draw_demo
from dual_anodiff.images import load_image, mask_to_pil, to_pil
from dual_anodiff.masks import iou
from dual_anodiff.objects.masks import Objects, find_objects, object_mask
from dual_anodiff.procedural import draw, parts
from tasks.data.pictures import picture_files
from tasks.data.sheets import fit, overlay

SIZE_PX = 128
ON_SHEET = 6


def filled(masks: Tensor) -> Tensor:
    """Holes count as object on both sides: a washer's bore is no place for a background. Shape: (n, h, w) bool."""
    return torch.stack([torch.from_numpy(ndimage.binary_fill_holes(mask.numpy())) for mask in masks])


def found_in(images: Tensor, seed: int = 0) -> tuple[Objects, float]:
    """Write pictures down, learn from them; and the seconds of processor time that the learning took."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i:03}.png" for i in range(len(images))]
        for image, path in zip(images, paths, strict=True):
            to_pil(image).save(path)
        start = time.process_time()
        return find_objects(paths, ObjectsConfig(), size_px=SIZE_PX, seed=seed), time.process_time() - start


def row(name: str, objects: Objects, images: Tensor) -> Image.Image:
    """A few pictures side by side, the masks' edges drawn."""
    sheet = Image.new("RGB", (ON_SHEET * SIZE_PX, SIZE_PX))
    for i, image in enumerate(images[:ON_SHEET]):
        marked = overlay(to_pil(image), mask_to_pil(object_mask(objects, image)))
        sheet.paste(fit(marked, SIZE_PX), (i * SIZE_PX, 0))
    return sheet


def kinds(names: list[str], count: int) -> Iterator[tuple[str, draw.Drawn]]:
    for number, name in enumerate(names):
        for shapes, turn in ((parts.PRETRAIN_RANGE, math.pi), (parts.DEMO_RANGE, 0.1)):
            generator = torch.Generator().manual_seed(number)
            look = draw.random_look(1, generator, shapes)
            fields = (look.u, look.colour, look.accent, look.table)
            look = draw.Look(*(field.expand(count, -1) for field in fields))
            yield f"{name}, turn {turn:.1f}", draw.draw(name, None, look, generator, max_turn=turn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument(
        "--kinds", nargs="*", default=list(parts.KINDS), help="only these; none: the demo alone"
    )
    parser.add_argument("--pictures", type=int, default=16, help="of each kind; the demo has 60")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Image.Image] = []

    for folder in args.folders:
        paths = list(picture_files(folder))
        objects = find_objects(paths, ObjectsConfig(), size_px=SIZE_PX, seed=0)
        print(f"{folder}: {objects.kind}: {objects.reason}", flush=True)
        shown = [paths[i * len(paths) // ON_SHEET] for i in range(ON_SHEET)]
        images = torch.stack([square(load_image(path)) for path in shown])
        rows.append(row(folder.name, objects, images))

    if not args.folders:
        for name in DEMO_CATEGORIES:
            drawn = draw_demo(name, None, 60, torch.Generator().manual_seed(1))
            rows.append(judge(f"demo {name}", drawn)[1])
        verdicts: Counter[str] = Counter()
        for label, drawn in kinds(args.kinds, args.pictures):
            objects, picture = judge(label, drawn)
            truth = "texture" if label.split(",")[0] in parts.TEXTURES else "object"
            verdicts[f"{truth} held for {'texture' if objects.kind == 'texture' else 'object'}"] += 1
            rows.append(picture)
        for verdict, count in sorted(verdicts.items()):
            print(f"{count:3} {verdict}")

    if args.sheet:
        sheet = Image.new("RGB", (rows[0].width, len(rows) * SIZE_PX))
        for i, picture in enumerate(rows):
            sheet.paste(picture, (0, i * SIZE_PX))
        sheet.save(args.sheet)


def square(image: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(image[None], (SIZE_PX, SIZE_PX), mode="bilinear", antialias=True)[
        0
    ]


def judge(label: str, drawn: draw.Drawn) -> tuple[Objects, Image.Image]:
    """Print a drawn category's verdict, and the IoU of its masks where there is an object."""
    objects, seconds = found_in(drawn.image)
    figures = ", ".join(f"{name} {value:.2f}" for name, value in objects.figures.items())
    inside = drawn.sound.inside > 0.5
    text = ""
    if not inside.all() and objects.kind != "texture":
        found = torch.stack([object_mask(objects, image) for image in drawn.image])
        scores = iou(found, filled(inside))
        text = f" IoU {scores.mean():.3f}, least {scores.min():.2f};"
    print(f"{label:28} {objects.kind:8}{text} {figures}; {seconds:.1f} s", flush=True)
    return objects, row(label, objects, drawn.image)


if __name__ == "__main__":
    main()
