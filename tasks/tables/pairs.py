"""Tables of pairs, as the stages that draw, judge, blend and review them hand them on."""

import os
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from numpy.typing import NDArray

from tasks.store.artifacts import Artifact

if TYPE_CHECKING:
    from torch import Tensor

    from dual_anodiff.quality.pairs import PairSet

PAIRS, THRESHOLDS = "pairs.parquet", "thresholds.parquet"
PATHS = ("image_path", "anomaly_path", "mask_path")


def read_pairs(generated: Mapping[str, Artifact]) -> pd.DataFrame:
    """The pairs of several defect types as one table, drawn, blended or curated ones.

    Columns: label (defect type), image_path, anomaly_path, mask_path (absolute), index, seed, mask_share,
    adapter_key (the adapter's name in any store), reasons (why refused, "" for a pair that passed or was not judged), and
    whatever else their stages wrote.
    """
    tables = []
    for defect, artifact in sorted(generated.items()):
        table = pd.read_parquet(artifact.path / PAIRS).assign(label=defect)
        if "adapter_key" not in table:
            table["adapter_key"] = artifact.inputs["adapter"]
        if "reasons" not in table:
            table["reasons"] = ""
        for column in PATHS:
            # A curated pair lies in the artifact that drew it: "../../../generate/...".
            table[column] = [os.path.normpath(artifact.path.resolve() / path) for path in table[column]]
        tables.append(table)
    columns = ["label", *PATHS, "index", "seed", "mask_share", "adapter_key", "reasons"]
    if not tables:
        return pd.DataFrame(columns=columns)
    joined = pd.concat(tables, ignore_index=True)
    return joined[[*columns, *(name for name in joined if name not in columns)]]


def as_seen(pairs: pd.DataFrame, size_px: int) -> "PairSet":
    """Pairs as the model saw them: the window around the largest defect, where there is one. Paths absolute.

    A small defect of a large picture keeps its mask's heaviest pixel. Shape: of `size_px`.
    """
    import torch

    from dual_anodiff.crops.native import Box, cut
    from dual_anodiff.images import square_mask
    from dual_anodiff.pictures import DRAWN_SHARE, read_mask, read_picture
    from dual_anodiff.quality.pairs import PairSet, resized, to_bytes

    rows = pairs.to_dict("records")

    def window(pixels: NDArray[Any], row: Mapping[Hashable, Any]) -> "Tensor":
        if "top" in row:
            pixels = cut(pixels, Box(*(int(row[name]) for name in ("top", "left", "height", "width"))))
        return torch.from_numpy(pixels.copy())

    def pictures(column: str) -> "Tensor":
        seen = (window(read_picture(row[column]), row).permute(2, 0, 1) / 127.5 - 1 for row in rows)
        return torch.stack([to_bytes(resized(each, size_px)) for each in seen])

    masks = []
    for row in rows:
        mask = window(read_mask(row["mask_path"]), row).float()
        masks.append(square_mask(mask[None], size_px, DRAWN_SHARE)[0] > 0)
    return PairSet(pictures("image_path"), torch.stack(masks), pictures("anomaly_path"))
