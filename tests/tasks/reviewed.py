"""A small run with curated pairs to review: drawn by hand, judged by the real stage, written down as a run."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from tasks.config import RunConfig, load_config
from tasks.report.run_folder import RunSummary, write_run
from tasks.review.decisions import Decision, picture_hashes
from tasks.runtime.stage import StageOutcome
from tasks.stages.curate import curate, plan_curate
from tasks.stages.prepare import build_prepare, plan_prepare
from tasks.store.artifacts import Artifact, Staged, plan, publish
from tests.tasks.data_folders import healthy_category, texture

PX = 48


def run_config(folder: Path, store: Path | None = None) -> RunConfig:
    """A category of two defect types; only empty masks are refused."""
    healthy_category(folder / "data" / "bolt", normals=6, tests=2, defects=6)
    changes = ["split.shots=2", "curate.rules=[empty]", "generate.num_pairs=4", "generate.mask.threshold=0.2"]
    return load_config(
        "demo",
        changes,
        data=folder / "data",
        categories=("bolt",),
        defects=("dent", "stain"),
        store=store or folder / "store",
    )


def prepared(config: RunConfig) -> Artifact:
    artifact = plan_prepare(config, "bolt").out
    publish(artifact, lambda staged: build_prepare(config, "bolt", staged), device="cpu")
    return artifact


def drawn(config: RunConfig, first: int, areas: Sequence[int], seed: int = 0) -> Artifact:
    """What generate would have drawn: pairs with square masks of these sides, 0 for an empty one."""

    def make(staged: Staged) -> None:
        rows = []
        for index, side in enumerate(areas, first):
            names = {f"{kind}_path": f"{kind}/{index:06}.png" for kind in ("image", "anomaly", "mask")}
            mask = np.zeros((PX, PX), np.uint8)
            mask[8 : 8 + side, 8 : 8 + side] = 255
            grey = np.rint(texture(500 + index + 100 * seed, PX)).astype(np.uint8)
            image = np.stack([grey] * 3, axis=-1)
            part = np.where(mask[..., None] > 0, image, np.uint8(128))
            for kind, pixels in (("image", image), ("anomaly", part), ("mask", mask)):
                path = staged.out / names[f"{kind}_path"]
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(pixels).save(path)
            rows.append(
                {"index": index, "seed": index, **names, "mask_area_px": side**2,
                 "mask_share": side**2 / PX**2, "background": ""}
            )  # fmt: skip
        pd.DataFrame(rows).to_parquet(staged.out / "pairs.parquet", index=False)

    artifact = plan(config.store, "generate", 1, "bolt", label="bolt/dent", adapter="some", first=first)
    publish(artifact, make, device="cpu")
    return artifact


def judged(config: RunConfig, prepared: Artifact, draws: list[Artifact]) -> Artifact:
    """The pairs of these draws, curated."""
    out = plan_curate(config, prepared, draws, "dent").out
    curate.fn(out, prepared, draws, "dent", config)
    return out


def written_run(config: RunConfig, *artifacts: Artifact) -> RunSummary:
    """A run that ended with these artifacts."""
    stages = [StageOutcome(each.stage, each.label, each.ref, "ran") for each in artifacts]
    return write_run(config, stages, {}, started=datetime(2026, 1, 1, tzinfo=UTC))


def said_of(
    artifact: Artifact, index: int, verdict: str | None, mask: str | None = None, at: str = "1"
) -> Decision:
    """A decision on a pair that an artifact drew."""
    picture = picture_hashes(artifact)[index]
    return Decision.model_validate({"verdict": verdict, "mask": mask, "picture": picture, "at": at})


def square(top: int, side: int) -> np.ndarray:
    """A mask as one would paint it."""
    mask = np.zeros((PX, PX), bool)
    mask[top : top + side, top : top + side] = True
    return mask
