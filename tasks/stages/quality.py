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
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.stage import OPTIONS, run_stage
from tasks.store.artifacts import Artifact, Staged, file_digest
from tasks.tables.figures import FIGURES, NEIGHBOURS
from tasks.tables.known_side import known_side, side_px
from tasks.tables.pairs import as_seen, read_pairs
from tasks.tables.prepared import read_samples

if TYPE_CHECKING:
    pass

QUALITY = Stage("quality", version=4, time_by=("pairs",), sections=("quality", "finetune"))
SHEET = "neighbours.png"
SHEET_ROWS, SHEET_PX = 8, 160
WEIGHTS = ("inception_weights", "lpips_weights")
LPIPS_NET = QualityConfig.model_fields["lpips_net"].default


def plan_quality(config: RunConfig, prepared: Artifact, generated: Artifact, defect: str) -> Call:
    """Name the figures of one defect type's pairs. Raises: ConfigError if weights are asked for that are not there."""
    given = {name: getattr(config.quality, name) for name in WEIGHTS}
    for name, path in given.items():
        if path is not None and not path.is_file():
            raise ConfigError(f"quality.{name}: no file {path}; correct the path, or leave it empty")
    out = QUALITY.plan(
        config.store,
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
    inputs = {"prepared": prepared, "generated": generated, "defect": defect}
    return Call(QUALITY, quality, config, out, inputs)


@task(name="quality", **OPTIONS)
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

    return run_stage(QUALITY, out, config, make)


def build_quality(samples: pd.DataFrame, pairs: pd.DataFrame, config: RunConfig, out: Path) -> None:
    """Write the figures, the nearest shot of each pair and a sheet of the nearest of these.

    `samples`: the split, of which only the training side is read; `pairs`: of one defect type, as `read_pairs` gives
    them. Raises: DataError if there are no pairs, or the training side has no shot of this type, or no normal.
    """
    import torch

    from dual_anodiff.quality.figures import quality as measure

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
