"""Real, generated and normal pictures as points on a plane: whether what was drawn lies where the shots do."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

MAX_NORMALS, MAX_PAIRS, MIN_PICTURES = 100, 40, 4
KINDS = ("normal", "generated", "real")


def pictures_to_place(samples: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Normals and shots of the training side, and accepted pairs of each defect type; many are thinned out evenly.

    Test pictures are left out: the run looks at them once, for its figures. Columns: kind, label, image_path.
    """
    known = samples[samples["split"] == "train"]
    normals = known[known["label"] == "good"]["image_path"].tolist()
    rows = [("normal", "good", path) for path in _evenly(normals, MAX_NORMALS)]
    for defect, of_type in pairs[pairs["reasons"] == ""].groupby("label", sort=True):
        paths = _evenly(of_type["image_path"].tolist(), MAX_PAIRS)
        rows += [("generated", str(defect), path) for path in paths]
    shots = known[known["label"].isin(pairs["label"].unique())]
    rows += [("real", label, path) for label, path in zip(shots["label"], shots["image_path"], strict=True)]
    return pd.DataFrame(rows, columns=["kind", "label", "image_path"])


def placed(pictures: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The pictures with their places x, y in 0..1: the ImageNet encoder's features by t-SNE, started from their PCA.

    Near points are alike; how far apart far ones are, and how dense, means nothing. Empty with too few pictures.
    """
    import torch
    from sklearn.manifold import TSNE

    from dual_anodiff.quality.features import BATCH, SIZE_PX, Features
    from dual_anodiff.quality.pairs import load_images

    if len(pictures) < MIN_PICTURES:
        return pictures.iloc[:0].assign(x=[], y=[])
    features = Features()
    paths = [Path(path) for path in pictures["image_path"]]
    with torch.no_grad():
        seen = [
            features(load_images(paths[i : i + BATCH], SIZE_PX)).numpy() for i in range(0, len(paths), BATCH)
        ]
    rows = np.concatenate(seen).astype(np.float64)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    at = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(rows)
    at = (at - at.min(0)) / np.maximum(np.ptp(at, axis=0), 1e-9)
    return pictures.assign(x=at[:, 0].round(4), y=at[:, 1].round(4))


def _evenly(paths: list[str], most: int) -> list[str]:
    if len(paths) <= most:
        return paths
    return [paths[i] for i in np.linspace(0, len(paths) - 1, most).round().astype(int)]


def dots(places: pd.DataFrame, category: str, size_px: int = 460) -> dict[str, Any]:
    """The places as dots of a drawing: x, y in px, defect types by colour, kinds by shape; with its alt text."""
    defects = sorted(set(places.loc[places["kind"] != "normal", "label"]))
    rows = [
        {
            "kind": row["kind"],
            "series": None if row["kind"] == "normal" else 1 + defects.index(row["label"]) % 7,
            "x": round(12 + row["x"] * (size_px - 24), 1),
            "y": round(12 + (1 - row["y"]) * (size_px - 24), 1),
        }
        for row in places.to_dict("records")
    ]
    counts = {kind: int((places["kind"] == kind).sum()) for kind in KINDS}
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return {
        "size": size_px,
        "dots": sorted(rows, key=lambda row: KINDS.index(row["kind"])),
        "legend": [(defect, 1 + place % 7) for place, defect in enumerate(defects)],
        "counts": counts,
        "alt": f"Map of the pictures of {category}: {said}; near points look alike to the ImageNet encoder",
    }
