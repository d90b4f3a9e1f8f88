"""Stage generate: image–mask pairs of one defect type, drawn with its adapter."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from prefect import task

from dual_anodiff.config import GenerateConfig, WhereConfig
from tasks.artifacts import Artifact, Staged, file_digest, plan
from tasks.config import RunConfig
from tasks.device import resolve_device
from tasks.errors import ConfigError
from tasks.objects import normal_backgrounds, read_object_masks
from tasks.prepare import read_samples
from tasks.retries import halved
from tasks.runtime import STAGE, StageResult, run_stage

if TYPE_CHECKING:
    from dual_anodiff.images import Background

VERSION = 3
# A pair depends on its own seed alone, not on the batch that it is drawn in.
# Where the defects are to be counts where it is wished, a file of it by what is in it.
NOT_IN_KEY = {"batch_size", "where"}
PATHS = ("image_path", "anomaly_path", "mask_path")


def plan_generate(
    config: RunConfig,
    adapter: Artifact,
    *,
    first: int = 0,
    num_pairs: int | None = None,
    objects: Artifact | None = None,
) -> Artifact:
    """Name the pairs number `first` and after; None: as many as the config says.

    `objects`: masks of the objects in the normals, for an adapter with a background, else None.
    """
    count = config.generate.num_pairs if num_pairs is None else num_pairs
    return plan(
        config.store,
        "generate",
        VERSION,
        adapter.category,
        label=adapter.label + (f", from {first}" if first else ""),
        adapter=adapter,
        seed=config.seed,
        **({"first": first} if first else {}),
        **({} if objects is None else {"objects": objects}),
        **_where_key(config.generate.where),
        **(config.generate.model_dump(exclude=NOT_IN_KEY) | {"num_pairs": count}),
    )


def _where_key(where: WhereConfig) -> dict[str, Any]:
    """What is wished as a part of the pairs' key; nothing without a wish. Raises: ConfigError without the file."""
    if not where.on:
        return {}
    region: Any = where.region
    if isinstance(region, Path):
        if not region.is_file():
            raise ConfigError(
                f"generate.where.region: {region} is no file; give a mask, or a box x0,y0,x1,y1"
            )
        region = file_digest(region)
    return {"where": {"region": region, "size": where.size}}


@task(name="generate", **STAGE)
def generate(
    out: Artifact,
    adapter: Artifact,
    config: RunConfig,
    prepared: Artifact | None = None,
    objects: Artifact | None = None,
) -> StageResult:
    """Draw the pairs that `out` names; a killed run keeps those it has finished.

    With `objects` each pair gets a background: a normal of the training side of `prepared`.
    """

    def make(staged: Staged, device: str) -> None:
        backgrounds: list[Background] = []
        if prepared is not None and objects is not None:
            backgrounds = normal_backgrounds(read_samples(prepared, config.data), read_object_masks(objects))
        batch_size, _ = halved(config.generate.batch_size)
        asked = config.generate.model_copy(
            update={"num_pairs": out.inputs["num_pairs"], "batch_size": batch_size}
        )
        build_generate(
            adapter.path,
            asked,
            staged.out,
            device=device,
            seed=config.seed,
            first=out.inputs.get("first", 0),
            backgrounds=backgrounds,
        )

    return run_stage(out, config, make, heavy=True, resumable=True)


def build_generate(
    adapter: Path,
    config: GenerateConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    first: int = 0,
    backgrounds: Sequence["Background"] = (),
) -> None:
    """Draw pairs with an adapter's folder into `out`, which may hold some of them already."""
    from dual_anodiff.pipeline import generate_pairs

    generate_pairs(
        adapter,
        config,
        out,
        device=resolve_device(device),
        seed=seed,
        first=first,
        backgrounds=backgrounds,
    )


def read_pairs(generated: Mapping[str, Artifact]) -> pd.DataFrame:
    """The pairs of several defect types as one table, drawn, blended or curated ones.

    Columns: label (defect type), image_path, anomaly_path, mask_path (absolute), index, seed, mask_share,
    adapter_key (the adapter's name in any store), reasons (why refused, "" for a pair that passed or was not judged), and
    whatever else their stages wrote.
    """
    tables = []
    for defect, artifact in sorted(generated.items()):
        table = pd.read_parquet(artifact.path / "pairs.parquet").assign(label=defect)
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
