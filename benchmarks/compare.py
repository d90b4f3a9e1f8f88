"""What comparing many runs costs: `python -m benchmarks.compare RUN_FOLDER`, the folder of a finished run in its store.

Twenty runs of fifteen categories are made out of one category of that run: its manifests, tables and predictions under
other names, a run's predictions shifted a little at random, its weights as links. So this measures cost and layout and
nothing about quality; the differences between these runs mean nothing. Printed: time and memory of `anodiff compare`
the first time, when each model's test pictures are redrawn, and again, when that is kept; and the sizes of its files.
`--keep FOLDER` leaves the store and the page there, to look at.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.workflow import in_own_process
from downstream.figures.class_predictions import read_class_predictions, write_class_predictions
from downstream.figures.lift import bootstrap, metrics_of
from downstream.figures.predictions import read_predictions, write_predictions
from tasks.compare.redraws import PREDICTIONS
from tasks.runs.ended import Run, categories_run, find_run
from tasks.store.artifacts import DIGEST_LENGTH, MANIFEST, file_digest
from tasks.store.place import DESCRIPTION
from tasks.tables.figures import METRICS, PAIRS

MODELS = ("localize", "classify", "detect")
SHIFT = 0.1  # of the scores' own spread


def stages_to_copy(run: Run, category: str, seeds: int) -> Iterator[Any]:
    """The category's stages that left something, models of the first seeds alone."""
    kept = {f"seed {seed}" for seed in run.config.compare.seeds[:seeds]}
    for each in run.stages:
        parts = each.label.split("/")
        if parts[0] == category and each.artifact and (each.stage not in MODELS or parts[-1] in kept):
            yield each


def shifted(source: Path, out: Path, classes: bool, seed: int) -> dict[str, float]:
    """Write predictions with scores moved a little, picture by picture; their figures."""
    generator = np.random.default_rng(seed)
    read: Any
    if classes:
        read = read_class_predictions(source)
        odds = read.probability * np.exp(generator.normal(0, SHIFT, read.probability.shape))
        read = replace(read, probability=(odds / odds.sum(1, keepdims=True)).astype(np.float32))
        write_class_predictions(read, out)
    else:
        read = read_predictions(source)
        moved = SHIFT * generator.standard_normal(len(read.label))
        maps = read.anomaly_map + moved[:, None, None] * read.anomaly_map.std()
        low, high = read.anomaly_map.min(), read.anomaly_map.max()
        maps = maps.clip(low, high).astype(np.float16).astype(np.float32)
        scores = (read.pred_score + moved * read.pred_score.std()).astype(read.pred_score.dtype)
        read = replace(read, anomaly_map=maps, pred_score=scores)
        write_predictions(read, out)
    (values,) = bootstrap([[read]], metrics_of([read]), resamples=1, seed=0)
    return {metric: float(drawn[0]) for metric, drawn in values.items()}


def copied(source: Path, out: Path, changes: dict[str, Any], predictions: Path | None) -> None:
    """An artifact under another name: links to its files, its manifest with what changed."""
    out.mkdir(parents=True)
    manifest = json.loads((source / MANIFEST).read_text())
    for name in manifest["files"]:
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        new = predictions is not None and name == PREDICTIONS
        os.link(predictions if new and predictions else source / name, path)
        if new:
            manifest["files"][name] = {"sha256": file_digest(path), "bytes": path.stat().st_size}
    (out / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def make_runs(run: Run, category: str, store: Path, count: int, categories: int, seeds: int) -> list[str]:
    """Write so many runs of so many categories to a store; their names. The first is the run as it was."""
    stages = list(stages_to_copy(run, category, seeds))
    artifacts = run.config.store / "artifacts"
    metrics = pd.read_parquet(run.folder / METRICS)
    metrics = metrics[
        (metrics["category"] == category) & metrics["seed"].isin(run.config.compare.seeds[:seeds])
    ]
    pairs = pd.read_parquet(run.folder / PAIRS)
    pairs = pairs[pairs["category"] == category]
    # A variant of the predictions a run; each category of a run has another one, so that no two columns are alike.
    variants, figures = store / "variants", []
    for variant in range(count):
        table = metrics.copy()
        for each in stages:
            if each.stage in MODELS and variant:
                path = variants / str(variant) / each.artifact
                path.parent.mkdir(parents=True, exist_ok=True)
                values = shifted(
                    artifacts / each.artifact / PREDICTIONS, path, each.stage == "classify", variant
                )
                _, training_set, seed = each.label.split("/")
                mine = (table["model"] == each.stage) & (table["training_set"] == training_set)
                mine &= (table["seed"] == int(seed.removeprefix("seed "))) & (table["defect_type"] == "all")
                mine &= table["size"] == "all"
                table.loc[mine, "value"] = table["metric"].map(values).fillna(table["value"])[mine]
        figures.append(table)
        print(f"  predictions of run {variant + 1} of {count}", flush=True)
    told = json.loads((run.folder / DESCRIPTION).read_text())
    names, parts = [], [f"part{place:02}" for place in range(categories)]
    for number in range(count):
        name = f"{datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number):%Y%m%d}-020000-{number:04x}"
        outcomes, tables = [], []
        for place, part in enumerate(parts):
            variant = (number + place) % count
            tables.append(figures[variant].assign(category=part))
            for each in stages:
                # The split is of the data alone: one for all runs.
                of = 0 if each.stage == "prepare" else variant + 1
                digest = f"{of:02x}" + each.artifact.rpartition("/")[2][2:DIGEST_LENGTH]
                ref, label = f"{each.stage}/{part}/{digest}", each.label.replace(category, part, 1)
                changes = {"category": part, "label": label, "digest": digest}
                path = variants / str(variant) / each.artifact
                if not (store / "artifacts" / ref).is_dir():
                    own = path if path.is_file() else None
                    copied(artifacts / each.artifact, store / "artifacts" / ref, changes, own)
                outcomes.append({**vars(each), "label": label, "artifact": ref})
        config = json.loads(json.dumps(told["config"]))
        config["categories"], config["compare"]["seeds"] = parts, config["compare"]["seeds"][:seeds]
        config["finetune"]["train_steps"] += 100 * (number % 3)
        config["curate"]["max_draws"] += number % 2
        folder = store / "runs" / name
        folder.mkdir(parents=True)
        pd.concat(tables).assign(run=name).to_parquet(folder / METRICS, index=False)
        of_parts = [pairs.assign(category=part) for part in parts]
        pd.concat(of_parts).assign(run=name).to_parquet(folder / PAIRS, index=False)
        (folder / DESCRIPTION).write_text(
            json.dumps({**told, "run": name, "config": config, "stages": outcomes})
        )
        names.append(name)
    return names


def measure(store: Path, names: list[str], out: Path) -> None:
    """Compare them as one does it, twice."""
    files = {name: out / f"compare.{name}" for name in ("html", "csv", "parquet")}
    command = ["-m", "flows.cli", "compare", *names, "--store", str(store)]
    command += [f"--{name}={path}" for name, path in files.items()]
    for when in ("the first time", "again"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        output, seconds, peak = in_own_process(*command)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{when}: {seconds:.1f} s, {spent:.1f} s of processor time, peak {peak:.2f} GiB", flush=True)
    (out / "compare.txt").write_text(output)
    kept = sum(file.stat().st_size for file in (store / "artifacts" / "redraws").rglob("*") if file.is_file())
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in files.values())
    print(f"{len(output.splitlines())} lines printed; {sizes}; kept in the store {kept / 1e6:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run, in its store")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--categories", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=1, help="of each model, as far as the run has them")
    parser.add_argument("--keep", type=Path, help="leave store, page and tables in this new folder")
    args = parser.parse_args()
    run = find_run(args.run.resolve().parents[1], str(args.run))
    category = categories_run(run)[0]
    # Beside the run's store: links do not reach another disk.
    folder = args.keep or Path(tempfile.mkdtemp(prefix="compare-", dir=run.config.store.resolve().parent))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        models = sum(each.stage in MODELS for each in stages_to_copy(run, category, args.seeds))
        print(
            f"{args.runs} runs x {args.categories} categories x {models} models, copies of {category} of run "
            f"{run.name} with scores shifted at random: cost and layout, nothing about quality"
        )
        names = make_runs(run, category, folder / "store", args.runs, args.categories, args.seeds)
        measure(folder / "store", names, folder)
    finally:
        if args.keep is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
