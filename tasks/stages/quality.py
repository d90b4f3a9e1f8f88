"""Stage quality: figures of one defect type's pairs, and whether they copy the shots."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from prefect import task

from dual_anodiff.config import QualityConfig
from dual_anodiff.image_encoder import SHA256 as ENCODER
from tasks.config import RunConfig
from tasks.data.sheets import SheetRow, draw_sheet
from tasks.errors import ConfigError, DataError
from tasks.runtime.stage import STAGE, StageResult, run_stage
from tasks.stages.prepare import read_samples
from tasks.store.artifacts import Artifact, Staged, file_digest, plan
from tasks.tables.pairs import as_seen, read_pairs

if TYPE_CHECKING:
    from torch import Tensor

    from dual_anodiff.pairs import PairSet

VERSION = 4
FIGURES, NEIGHBOURS, SHEET = "quality.parquet", "neighbours.parquet", "neighbours.png"
# Neither the ImageNet encoder (128 px) nor LPIPS (256 px) sees more, and thousands of pairs are held at once.
MAX_SIDE_PX = 256
SHEET_ROWS, SHEET_PX = 8, 160
WEIGHTS = ("inception_weights", "lpips_weights")
LPIPS_NET = QualityConfig.model_fields["lpips_net"].default


def plan_quality(config: RunConfig, prepared: Artifact, generated: Artifact, defect: str) -> Artifact:
    """Name the figures of one defect type's pairs. Raises: ConfigError if weights are asked for that are not there."""
    given = {name: getattr(config.quality, name) for name in WEIGHTS}
    for name, path in given.items():
        if path is not None and not path.is_file():
            raise ConfigError(f"quality.{name}: no file {path}; correct the path, or leave it empty")
    return plan(
        config.store,
        "quality",
        VERSION,
        prepared.category,
        label=generated.label,
        defect=defect,
        samples=prepared,
        pairs=generated,
        encoder=ENCODER,
        size_px=side_px(config),
        # Mirrored copies are copies where the generator saw the shots mirrored.
        **config.finetune.model_dump(include={"horizontal_flip", "vertical_flip"}),
        **config.quality.model_dump(exclude={*WEIGHTS, "lpips_net"}),
        # Without weights no network is built.
        lpips_net=config.quality.lpips_net if config.quality.lpips_weights else LPIPS_NET,
        **{name: None if path is None else file_digest(path) for name, path in given.items()},
    )


def side_px(config: RunConfig) -> int:
    """Side that all pictures are scaled to."""
    return min(config.finetune.size_px, MAX_SIDE_PX)


@task(name="quality", **STAGE)
def quality(
    out: Artifact,
    prepared: Artifact,
    generated: Artifact,
    defect: str,
    config: RunConfig,
) -> StageResult:
    """Measure one defect type's pairs against the shots and the normals of the training side."""

    def make(staged: Staged, _: str) -> None:
        samples = read_samples(prepared, config.data)
        build_quality(samples, read_pairs({defect: generated}), config, staged.out)

    return run_stage(out, config, make, heavy=False)


def build_quality(samples: pd.DataFrame, pairs: pd.DataFrame, config: RunConfig, out: Path) -> None:
    """Write the figures, the nearest shot of each pair and a sheet of the nearest of these.

    `samples`: the split, of which only the training side is read; `pairs`: of one defect type, as `read_pairs` gives
    them. Raises: DataError if there are no pairs, or the training side has no shot of this type, or no normal.
    """
    import torch

    from dual_anodiff.quality import quality as measure

    if pairs.empty:
        raise DataError("quality: there are no pairs to measure; look at why they were refused")
    defect = str(pairs["label"].iloc[0])
    size_px = side_px(config)
    few, normals, flips = known_side(samples, defect, config, size_px)
    drawn = as_seen(pairs, size_px)
    measured = measure(drawn, few, normals, config.quality, flips=flips)
    figures = [measured.figures.assign(pairs="drawn")]
    passed = torch.tensor((pairs["reasons"] == "").tolist())
    if passed.all():
        figures.append(measured.figures.assign(pairs="accepted"))
    elif passed.any():
        of_passed = measure(drawn[passed], few, normals, config.quality, flips=flips)
        figures.append(of_passed.figures.assign(pairs="accepted"))
    known = samples[samples["split"] == "train"]
    shots = known[known["label"] == defect]
    names = [Path(path).name for path in shots["image_path"]]
    numbers = pairs["index"].tolist()
    # By name and number in the artifacts: positions within this stage mean nothing elsewhere.
    neighbours = measured.pairs.assign(
        pair=numbers,
        nearest_shot=[names[i] for i in measured.pairs["nearest_shot"]],
        earlier_pair=[-1 if i < 0 else numbers[i] for i in measured.pairs["earlier_pair"]],
    )
    category = str(known["category"].iloc[0])
    for table, name in ((pd.concat(figures, ignore_index=True), FIGURES), (neighbours, NEIGHBOURS)):
        table.insert(0, "category", category)
        table.insert(1, "defect", defect)
        table.to_parquet(out / name, index=False)
    files_of = dict(zip(names, (Path(path) for path in shots["image_path"]), strict=True))
    draw_neighbours(neighbours, pairs, files_of, out / SHEET)


def known_side(
    samples: pd.DataFrame, defect: str, config: RunConfig, size_px: int
) -> tuple["PairSet", "Tensor", tuple[str, ...]]:
    """The shots of a defect type, the normals, and how the generator saw them mirrored; of the training side alone.

    Shape: normals (k, 3, size_px, size_px) uint8. Raises: DataError if there is no shot of this type, or no normal.
    """
    from dual_anodiff.images import Shot
    from dual_anodiff.normals import evenly_spaced
    from dual_anodiff.pairs import flip_names, load_images, load_shots

    # Test pictures would make these figures a peek at the result.
    known = samples[samples["split"] == "train"]
    shots, good = known[known["label"] == defect], known[known["label"] == "good"]
    for label, rows in ((defect, shots), ("good", good)):
        if rows.empty:
            raise DataError(f"quality of {defect!r}: the split has no picture of {label!r} to train on")
    files = zip(shots["image_path"], shots["mask_path"], strict=True)
    few = load_shots([Shot(Path(image), Path(mask)) for image, mask in files], size_px)
    chosen = evenly_spaced([Path(path) for path in good["image_path"]], config.quality.max_normals)
    flips = flip_names(config.finetune.horizontal_flip, config.finetune.vertical_flip)
    return few, load_images(chosen, size_px), flips


def draw_neighbours(
    neighbours: pd.DataFrame, pairs: pd.DataFrame, shots: Mapping[str, Path], out: Path
) -> None:
    """Draw the pairs that come nearest to a shot, each beside that shot: if any copies, these do."""
    files = {row["index"]: row for row in pairs.to_dict("records")}
    rows = [
        SheetRow(
            real=shots[row["nearest_shot"]],
            image=Path(files[row["pair"]]["image_path"]),
            anomaly=Path(files[row["pair"]]["anomaly_path"]),
            mask=Path(files[row["pair"]]["mask_path"]),
            note=f"pair {row['pair']}, distance {row['distance']:.2f}"
            + (f", shot mirrored ({row['flip']})" if row["flip"] else "")
            + (", a copy" if row["copy"] else ""),
        )
        for row in neighbours.nsmallest(SHEET_ROWS, "distance").to_dict("records")
    ]
    first = neighbours.iloc[0]
    title = f"{first['category']} / {first['defect']}: the pairs nearest to a shot, beside it; "
    title += f"{int(neighbours['copy'].sum())} of {len(neighbours)} are copies"
    draw_sheet(rows, title, SHEET_PX).save(out)


def read_quality(measured: Mapping[str, Artifact]) -> pd.DataFrame:
    """The figures of several defect types as one table.

    Columns: category, defect, metric, value, std, n, n_reference, note, pairs ("drawn" or "accepted").
    """
    tables = [pd.read_parquet(artifact.path / FIGURES) for _, artifact in sorted(measured.items())]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
