"""A run's curated pairs as `anodiff review` shows them: pictures, what curation says of them, shots to compare with."""

import base64
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageChops, ImageFilter

from tasks.data.pictures import load_image, load_mask
from tasks.data.split import choice_of, chosen_shots
from tasks.errors import AnodiffError, DataError
from tasks.review.decisions import drawn_by, picture_hashes
from tasks.runs.ended import Run, artifacts_of, categories_run
from tasks.store.artifacts import Artifact, artifact_of, verified
from tasks.tables.pairs import THRESHOLDS, read_pairs
from tasks.tables.prepared import read_samples

log = logging.getLogger("anodiff")

THUMB_PX, SHOT_PX = 96, 240
SHOTS = 6
OUTLINE = (255, 45, 85)


@dataclass(frozen=True)
class Shown:
    """A pair as the page shows it."""

    category: str
    defect: str  # with the dose of shots that drew it, where that is not all
    drawn: str  # digest of the artifact that drew it
    index: int  # there
    number: int  # in the run's table of curated pairs
    image: Path
    anomaly: Path
    mask: Path
    picture: str  # SHA-256 of the image
    reasons: str  # curation's, "" for a pair that passed
    mask_share: float
    trust: float | None
    facts: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """Its name on the page."""
        return f"{self.category}/{self.drawn}/{self.index}"


@dataclass(frozen=True)
class Shot:
    """A real picture of a defect type, and its mask."""

    image: Path
    mask: Path


def pairs_of(run: Run, category: str | None = None) -> list[Shown]:
    """Every pair that a run drew and curated, by category and defect type, in the order drawn.

    Raises: AnodiffError if there are none; ArtifactError if pictures are gone or damaged.
    """
    found = []
    for each in categories_run(run, category):
        hashes = {
            artifact.digest: picture_hashes(artifact)
            for artifact in artifacts_of(run, "generate", each).values()
        }
        for name, curated in curated_of(run, each).items():
            limits = read_limits(curated)
            for row in read_pairs({name: curated}).to_dict("records"):
                drawn, index = drawn_by(row["image_path"])
                found.append(_shown(each, row, drawn, index, hashes[drawn][index], limits))
    if not found:
        raise AnodiffError(f"run {run.name}: it drew no pairs to review; see `anodiff runs {run.name}`")
    return found


def curated_of(run: Run, category: str) -> dict[str, Artifact]:
    """The judgement of all pairs of each defect type, and of those that its doses of shots drew: "dent, 3 shots"."""
    by_label = artifacts_of(run, "curate", category)
    return {label.removeprefix(f"{category}/"): each for label, each in by_label.items()}


def shots_of(run: Run, category: str) -> dict[str, list[Shot]]:
    """Some of the pictures that each defect type was learnt from, at the pairs' scale; none where they moved away."""
    found = {}
    for name, curated in curated_of(run, category).items():
        defect = str(curated.inputs["defect"])
        source = artifact_of(run.config.store, str(curated.inputs["samples"]))
        try:
            samples = read_samples(source, run.config.data) if verified(source) else pd.DataFrame()
        except (DataError, KeyError, OSError) as error:
            log.warning("review: no real shots beside the pairs of %s/%s: %s", category, name, error)
            continue
        if samples.empty:
            continue
        samples = chosen_shots(samples, choice_of(curated.inputs))
        of_type = samples[(samples["split"] == "train") & (samples["label"] == defect)]
        rows = of_type.sort_values("image_path").to_dict("records")
        chosen = [rows[i * len(rows) // SHOTS] for i in range(SHOTS)] if len(rows) > SHOTS else rows
        found[name] = [Shot(Path(row["image_path"]), Path(row["mask_path"])) for row in chosen]
    return found


def read_limits(curated: Artifact) -> dict[str, float]:
    """The thresholds of the rules that were in force."""
    table = pd.read_parquet(curated.path / THRESHOLDS)
    kept = table[table["in_force"]]
    return {str(rule): float(limit) for rule, limit in zip(kept["rule"], kept["threshold"], strict=True)}


def facts(row: Mapping[Any, Any], limits: Mapping[str, float]) -> list[tuple[str, str]]:
    """What curation measured of a pair, in words, each beside the limit that it was compared with."""

    def measured(name: str, text: str, rule: str, bound: str) -> str | None:
        value = row.get(name)
        if value is None or math.isnan(value):
            return None
        limit = limits.get(rule, math.nan)
        return text.format(value) + ("" if math.isnan(limit) else f" ({bound.format(limit)})")

    lines = {
        "Mask covers": measured("mask_share", "{:.1%} of the picture", "too_large", "at most {:.0%}"),
        "Trust in the mask": measured("trust", "{:.2f} of 1", "", ""),
        "Part agrees with image": measured("agreement", "{:.0%}", "", ""),
        "Mask on the part": measured("containment", "{:.0%}", "off_object", "at least {:.0%}"),
        "Defect stands out": measured("seen", "{:.2f} × a normal", "unseen", "at least {:.2f}"),
        "Background differs": measured("damage", "{:.2f} × a normal", "damaged", "at most {:.2f}"),
        "Nearest shot": measured("copy_distance", "distance {:.2f}", "copy_of_shot", "a copy up to {:.2f}"),
        "Looks like this type": measured("type_probability", "{:.0%}", "wrong_type", "at least {:.0%}"),
    }
    if row.get("earlier_pair", -1) >= 0:
        distance = measured("earlier_distance", "{:.2f}", "copy_of_pair", "a copy up to {:.2f}")
        lines["Nearest earlier pair"] = f"{row['earlier_pair']}, distance {distance}"
    return [(name, text) for name, text in lines.items() if text is not None]


def thumbnail(image: Path, mask: Path, side_px: int = THUMB_PX) -> str:
    """A small picture with its mask's outline, as a data URL."""
    small = load_image(image)
    small.thumbnail((side_px, side_px))
    # Any touched pixel counts: a scratch one pixel wide is still seen.
    area = (
        Image.fromarray(load_mask(mask))
        .resize(small.size, Image.Resampling.BOX)
        .point(lambda v: 255 * (v > 0))
    )
    outline = ImageChops.subtract(area.filter(ImageFilter.MaxFilter(3)), area)
    small.paste(OUTLINE, mask=outline)
    content = BytesIO()
    small.save(content, "JPEG", quality=85)
    return _data_url(content.getvalue(), "jpeg")


def picture(path: Path) -> str:
    """A picture as a data URL: the page asks for pairs, never for files."""
    content = BytesIO()
    load_image(path).save(content, "PNG", compress_level=1)
    return _data_url(content.getvalue(), "png")


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _shown(
    category: str, row: Mapping[Any, Any], drawn: str, index: int, hashed: str, limits: Mapping[str, float]
) -> Shown:
    trust = row.get("trust")
    return Shown(
        category,
        str(row["label"]),
        drawn,
        index,
        int(row["index"]),
        Path(row["image_path"]),
        Path(row["anomaly_path"]),
        Path(row["mask_path"]),
        hashed,
        str(row["reasons"]),
        float(row["mask_share"]),
        None if trust is None or math.isnan(trust) else float(trust),
        tuple(facts(row, limits)),
    )
