"""What the workflow itself costs: `python -m benchmarks.workflow`.

Overhead of a task: small stages as Prefect tasks against the same calls made plainly. Memory: the orchestrating process
after many such tasks. A wholly cached run: 15 categories × 5 defect types, in a new process; one category is made by real
but tiny stages (bundled base, 64 px, one step), the others have its pictures, and its artifacts copied under their names.
`--share-of RUN_FOLDER`: overhead as a share of that run's time.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import pandas as pd
import psutil  # type: ignore[import-untyped]
import yaml
from prefect import flow, task

from flows.planning import plan_run
from tasks.config import RunConfig, load_config
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.server import start_server
from tasks.runtime.stage import OPTIONS, Started, run, run_stage
from tasks.store.artifacts import Artifact, Staged, plan, publish
from tests.tasks.data_folders import save, square_mask, texture

NORMALS, TEST_NORMALS, DEFECTS = 6, 2, 4  # pictures: of a category, of a category, of each defect type
PX = 48
PLAIN = 200  # calls without Prefect


def write_config(folder: Path, categories: int, defects: int) -> Path:
    """Draw the categories, and write a configuration of stages that take seconds."""
    first, seed = folder / "data" / "part00", 0
    for split, count in (("train", NORMALS), ("test", TEST_NORMALS)):
        for i in range(count):
            seed += 1
            save(first / split / "good" / f"{i:03}.png", texture(seed, PX))
    for defect in range(defects):
        for i in range(DEFECTS):
            seed += 1
            save(first / "test" / f"defect{defect}" / f"{i:03}.png", texture(seed, PX))
            save(first / "ground_truth" / f"defect{defect}" / f"{i:03}_mask.png", square_mask(PX))
    for category in range(1, categories):
        shutil.copytree(first, folder / "data" / f"part{category:02}")
    config = {
        "data": str(folder / "data"),
        "store": str(folder / "store"),
        "finetune": {
            "size_px": 64,
            "train_steps": 1,
            "batch_size": 1,
            "adapt_to_normals": False,
            "adapter": {"lora_rank": 2, "saim_rank": 2, "text_encoder_lora_rank": 0},
        },
        "generate": {"num_pairs": 8, "num_inference_steps": 1, "guidance_scale": 1},
        "curate": {"rules": [], "max_draws": 1},
        "localize": {"size_px": 32, "train_steps": 1, "batch_size": 2, "decoder_channels": [8, 8, 8, 8, 8]},
        "report": {"bootstrap_samples": 100, "sheet_rows": 2, "sheet_size_px": 32},
        "track": {"enabled": False},  # else the last run is still being logged while the next one is timed
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def copy_artifacts(config: RunConfig) -> None:
    """Give each category what the first one has."""
    planned = [each.out for each in plan_run(config)]
    first = {f"{each.stage} {each.label}": each for each in planned if each.category == "part00"}
    for out in planned:
        source = first[f"{out.stage} {out.label.replace(out.category, 'part00')}"].path

        def copy(staged: Staged, source: Path = source, category: str = out.category) -> None:
            shutil.copytree(source, staged.out, dirs_exist_ok=True)
            for path in staged.out.glob("*.parquet"):
                table = pd.read_parquet(path)
                if "category" in table:
                    table.assign(category=category).to_parquet(path, index=False)

        publish(out, copy, device="cpu")


SMALL = Stage("small", version=1)


@task(name="small", **OPTIONS)
def small(out: Artifact, config: RunConfig) -> StageResult:
    """A stage that hardly does anything."""
    return run_stage(SMALL, out, config, lambda staged, _: write(staged.out))


def write(folder: Path) -> None:
    (folder / "note").write_text(folder.as_posix())


@flow(name="small stages")
def many(config: RunConfig, count: int) -> list[Started]:
    """So many small stages, one after the other."""
    return [
        run(Call(SMALL, small, config, SMALL.plan(config.store, "benchmark", number=i), {}))
        for i in range(count)
    ]


def measure_tasks(config: RunConfig, count: int) -> dict[str, float]:
    """Seconds a task and a plain call, and memory, in this process."""
    start_server()()
    started = time.perf_counter()
    for i in range(PLAIN):
        publish(
            plan(config.store, "plain", 1, "benchmark", number=i),
            lambda staged: write(staged.out),
            device="cpu",
        )
    plainly = (time.perf_counter() - started) / PLAIN
    many(config, 5)  # what is imported and opened once
    started = time.perf_counter()
    done = many(config.model_copy(update={"store": config.store / "again"}), count)
    as_tasks = (time.perf_counter() - started) / count
    assert all(each.outcome.status == "ran" for each in done)
    memory = psutil.Process().memory_info().rss
    return {"plain_s": plainly, "task_s": as_tasks, "memory_bytes": memory}


def in_own_process(*arguments: str) -> tuple[str, float, float]:
    """Output, seconds of wall clock and peak memory in GiB of a command of ours."""
    started = time.perf_counter()
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{output}")
    return output, time.perf_counter() - started, usage.ru_maxrss / 2**20


def share_of(run_folder: Path, overhead_s: float) -> str:
    """The overhead of a run's tasks as a share of its time."""
    told = json.loads((run_folder / "run.json").read_text())
    ended, began = (datetime.fromisoformat(told[name]) for name in ("ended", "started"))
    seconds, tasks = (ended - began).total_seconds(), len(told["stages"])
    return f"run {told['run']}: {tasks} tasks in {seconds:.0f} s, overhead {tasks * overhead_s / seconds:.2%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--categories", type=int, default=15)
    parser.add_argument("--defects", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--share-of", type=Path, help="folder of a run that was not cached")
    parser.add_argument("--measure-tasks", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure_tasks:
        print(json.dumps(measure_tasks(load_config(args.measure_tasks), args.tasks)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = write_config(Path(folder), args.categories, args.defects)
        output, _, _ = in_own_process(
            "-m", "benchmarks.workflow", "--tasks", str(args.tasks), "--measure-tasks", str(path)
        )
        told = json.loads(next(line for line in output.splitlines() if line.startswith('{"plain_s')))
        overhead = told["task_s"] - told["plain_s"]
        print(f"a small stage, called plainly: {1000 * told['plain_s']:.0f} ms")
        print(f"a small stage, as a task:      {1000 * told['task_s']:.0f} ms")
        print(f"overhead of a task:            {1000 * overhead:.0f} ms")
        print(f"memory after {args.tasks} tasks:     {told['memory_bytes'] / 2**30:.2f} GiB")
        if args.share_of:
            print(share_of(args.share_of, overhead))
        command = ("-m", "flows.cli", "run", "--config", str(path))
        in_own_process(*command, "--categories", "part00")
        copy_artifacts(load_config(path))
        in_own_process(*command)  # Prefect has no record yet of what was copied
        output, again, peak = in_own_process(*command)
        done = output.split("stages cached")[0].split()[-3:]
        size = sum(file.stat().st_size for file in (Path(folder) / "store").rglob("*") if file.is_file())
        print(f"{args.categories} categories x {args.defects} defect types, wholly cached:")
        print(
            f"  {' '.join(done)} stages, store of {size / 2**20:.0f} MB: {again:.0f} s, peak {peak:.2f} GiB"
        )


if __name__ == "__main__":
    main()
