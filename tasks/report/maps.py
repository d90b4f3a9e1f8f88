"""Heat maps on test pictures: where a model sees a defect, from its best picture to its worst."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tasks.data.pictures import load_image
from tasks.data.sheets import GAP_PX, INK, PAPER, fit

if TYPE_CHECKING:
    from downstream.figures.predictions import Predictions

PANEL_PX, HEADER_PX = 176, 16
EACH = 2  # pictures of each rank
TRUTH, MARKED = (40, 230, 90), (255, 255, 255)
RANKS = ("best", "median", "worst")


@dataclass(frozen=True)
class Shown:
    """A test picture to show, and why it is."""

    index: int  # in the predictions
    rank: str  # best, median, worst, or "good part with a high score"
    figure: float  # what the ranks are by: pixel AP of the picture; NaN for a good part


def pictures_to_show(predictions: "Predictions", each: int = EACH) -> list[Shown]:
    """The defective pictures with the highest, the middle and the lowest pixel AP of their own, and the good ones that
    score highest; a picture once, fewer of each where there are few.
    """
    from sklearn.metrics import average_precision_score

    truth = predictions.gt_mask.reshape(len(predictions.gt_mask), -1)
    defective = np.flatnonzero(truth.any(1))
    own = {
        int(i): float(average_precision_score(truth[i], predictions.anomaly_map[i].ravel()))
        for i in defective
    }
    order = sorted(own, key=lambda i: (-own[i], i))
    k = min(each, max(1, len(order) // 3))
    middle = (len(order) - k) // 2
    chosen = {"best": order[:k], "median": order[middle : middle + k], "worst": order[k:][-k:]}
    shown, seen = [], set()
    for rank in RANKS:
        for i in chosen[rank]:
            if i not in seen:
                seen.add(i)
                shown.append(Shown(i, rank, own[i]))
    good = np.flatnonzero(predictions.label_index == 0)
    highest = good[np.argsort(-predictions.pred_score[good], kind="stable")][:k]
    return shown + [Shown(int(i), "good part with a high score", float("nan")) for i in highest]


def colour_range(predictions: "Predictions") -> tuple[float, float]:
    """The map's values that are shown as no and as full colour: the good pictures' median, the 99.9th percentile of all."""
    maps = predictions.anomaly_map
    good = maps[predictions.label_index == 0]
    low = float(np.median(good)) if len(good) else float(maps.min())
    high = float(np.percentile(maps, 99.9))
    return low, max(high, low + 1e-6)


def heat_strip(picture: Path, models: Mapping[str, "Predictions"], index: int) -> Image.Image:
    """The picture with the truth's outline, then each model's heat map over it with the outline of what it marks."""
    first = next(iter(models.values()))
    plain = fit(load_image(picture), PANEL_PX)
    panels = [("picture and truth", outlined(plain, first.gt_mask[index], TRUTH))]
    for name, predictions in models.items():
        heated = heat(plain, predictions.anomaly_map[index], colour_range(predictions))
        marked = predictions.anomaly_map[index] >= predictions.pixel_threshold
        panels.append((name, outlined(heated, marked, MARKED)))
    width = len(panels) * (PANEL_PX + GAP_PX) - GAP_PX
    strip = Image.new("RGB", (width, HEADER_PX + plain.height), PAPER)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(12)
    for column, (name, panel) in enumerate(panels):
        left = column * (PANEL_PX + GAP_PX)
        draw.text((left + 2, 0), name, fill=INK, font=font)
        strip.paste(panel, (left + (PANEL_PX - panel.width) // 2, HEADER_PX))
    return strip


def heat(picture: Image.Image, anomaly_map: NDArray[np.floating], values: tuple[float, float]) -> Image.Image:
    """The picture in grey under the map's colours, which are the stronger the higher the map."""
    from matplotlib import colormaps

    low, high = values
    scaled = Image.fromarray(np.clip((anomaly_map - low) / (high - low), 0, 1).astype(np.float32))
    share = np.asarray(scaled.resize(picture.size, Image.Resampling.BILINEAR))[..., None]
    colours = colormaps["inferno"](share[..., 0])[..., :3] * 255
    grey = np.asarray(picture.convert("L").convert("RGB")).astype(np.float32)
    weight = 0.15 + 0.6 * np.sqrt(share)
    return Image.fromarray((grey * (1 - weight) + colours * weight).clip(0, 255).astype(np.uint8))


def outlined(picture: Image.Image, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> Image.Image:
    """The picture with the outline of a mask of another size."""
    inside = np.asarray(Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST))
    padded = np.pad(inside, 1)
    around = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    pixels = np.asarray(picture.convert("RGB")).copy()
    pixels[around & ~inside] = colour
    return Image.fromarray(pixels)


def heat_rows(predictions: "Predictions", shown: list[Shown], model: str, training_set: str) -> pd.DataFrame:
    """What is shown, as a table. Columns: model, training_set, rank, image_path, label, pixel_ap, score, refused."""
    rows = [
        {
            "model": model,
            "training_set": training_set,
            "rank": each.rank,
            "image_path": str(predictions.image_path[each.index]),
            "label": str(predictions.label[each.index]),
            "pixel_ap": each.figure,
            "score": float(predictions.pred_score[each.index]),
            "refused": bool(predictions.pred_score[each.index] >= predictions.image_threshold),
        }
        for each in shown
    ]
    return pd.DataFrame(rows)
