"""Pairs by the thousand: memory while they stream to disk, and a kill in the middle: `python -m benchmarks.streaming`.

An untrained adapter on `mini` at 128 px draws in one step: here the way to disk counts, not the picture. The run is
killed once by SIGKILL, goes on, and its files are compared with those of a run that nobody killed.
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from dual_anodiff.adapter import adapter_parameters, attach_adapter, save_adapter
from dual_anodiff.adapter_card import AdapterCard
from dual_anodiff.base import fingerprint, load_base
from dual_anodiff.config import AdapterConfig, GenerateConfig
from dual_anodiff.generation import generate_pairs
from dual_anodiff.pipeline import DualAnoDiffPipeline

BATCH = 16


def untrained(out: Path) -> Path:
    """Write an adapter that was never trained."""
    config = AdapterConfig(lora_rank=8, saim_rank=8, text_encoder_lora_rank=8)
    pipe: DualAnoDiffPipeline = load_base(DualAnoDiffPipeline, "mini")
    attach_adapter(pipe.unet, pipe.text_encoder, config)
    weights = {n: p.detach() for n, p in adapter_parameters(pipe.unet, pipe.text_encoder)}
    card = AdapterCard(
        base="mini", base_fingerprint=fingerprint("mini"), revision=None, image_prompt="a photo of a nut with crack",
        anomaly_prompt="crack", size_px=128, adapter=config.model_dump(), train_steps=0, num_shots=0,
        mask_threshold=0.1, mask_iou=1, seed=0,
    )  # fmt: skip
    out.mkdir()
    save_adapter(out, card, weights)
    return out


def digest(folder: Path) -> str:
    """Of all pictures and the table."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return whole.hexdigest()


def finished(folder: Path) -> int:
    return sum(1 for _ in (folder / "mask").glob("*.png")) if (folder / "mask").is_dir() else 0


def draw_in_process(adapter: Path, out: Path, num_pairs: int) -> subprocess.Popen[bytes]:
    draw = ["--pairs", str(num_pairs), "--draw", str(adapter), str(out)]
    return subprocess.Popen([sys.executable, "-m", "benchmarks.streaming", *draw], start_new_session=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--draw", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.draw:
        config = GenerateConfig(
            num_pairs=args.pairs, num_inference_steps=1, guidance_scale=1, batch_size=BATCH
        )
        adapter, out = args.draw
        out.mkdir(exist_ok=True)
        generate_pairs(adapter, config, out, progress=False)
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        adapter = untrained(root / "adapter")
        print(f"{args.pairs} pairs in one go: memory of the process by pairs on disk")
        whole = draw_in_process(adapter, root / "whole", args.pairs)
        process, marks = psutil.Process(whole.pid), [args.pairs * share // 10 for share in range(1, 10)]
        while whole.poll() is None:
            done = finished(root / "whole")
            if marks and done >= marks[0]:
                print(f"  {done:6} pairs: {process.memory_info().rss / 2**20:7.0f} MiB")
                marks = [mark for mark in marks if mark > done]
            time.sleep(0.1)
        assert whole.returncode == 0
        halfway = args.pairs // 2
        killed = draw_in_process(adapter, root / "killed", args.pairs)
        while finished(root / "killed") < halfway:
            time.sleep(0.02)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        kept = finished(root / "killed")
        before = {path.name: path.stat().st_mtime_ns for path in (root / "killed/mask").glob("*.png")}
        assert draw_in_process(adapter, root / "killed", args.pairs).wait() == 0
        again = sum((root / "killed/mask" / name).stat().st_mtime_ns != at for name, at in before.items())
        same = digest(root / "whole") == digest(root / "killed")
        print(
            f"killed with {kept} pairs on disk, {again} of them drawn again; files the same as unkilled: {same}"
        )


if __name__ == "__main__":
    main()
