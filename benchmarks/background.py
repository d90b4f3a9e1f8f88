"""What a background costs in sampling: `python -m benchmarks.background [--pairs 8] [--steps 10]`.

Off, exact and fast on `mini` at 128 px with guidance, in one run and in turns. Then how far the pictures of an untrained
adapter with shares of 0.3 are apart.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from dual_anodiff.adapter import adapter_parameters, attach_adapter
from dual_anodiff.adapter_card import AdapterCard
from dual_anodiff.base import load_base
from dual_anodiff.config import AdapterConfig
from dual_anodiff.pipeline import DualAnoDiffPipeline

SIZE_PX = 128
ROUNDS = 3


def untrained(adapter: AdapterConfig, device: str) -> DualAnoDiffPipeline:
    """A pipeline of `mini` that costs what a trained one costs."""
    pipe: DualAnoDiffPipeline = load_base(DualAnoDiffPipeline, "mini").to(device)
    attach_adapter(pipe.unet, pipe.text_encoder, adapter)
    for name, parameter in adapter_parameters(pipe.unet, pipe.text_encoder):
        parameter.requires_grad_(False)
        if name.endswith(".amount"):
            parameter.fill_(0.3)
    pipe.unet.to(device)
    pipe.card = AdapterCard(
        base="mini", base_fingerprint="", revision=None, image_prompt="a photo of a nut with crack",
        anomaly_prompt="crack", size_px=SIZE_PX, adapter=adapter.model_dump(), train_steps=0, num_shots=0,
        mask_threshold=0.1, mask_iou=1, seed=0,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seconds(work: Callable[[], torch.Tensor], device: str) -> float:
    """Of the processor, whose other programs do not count, or of the wall with a GPU."""
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    start = clock()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    seeds = list(range(args.pairs))
    backgrounds = (
        torch.rand(args.pairs, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    off = untrained(AdapterConfig(), args.device)
    on = untrained(AdapterConfig(background="convex"), args.device)
    settings: dict[str, Any] = {"num_inference_steps": args.steps, "guidance_scale": 2.5}
    forms: dict[str, Callable[[], torch.Tensor]] = {
        "off": lambda: off.sample(seeds, **settings),
        "exact": lambda: on.sample(seeds, backgrounds=backgrounds, background="exact", **settings),
        "fast": lambda: on.sample(seeds, backgrounds=backgrounds, background="fast", **settings),
    }
    pictures = {name: draw() for name, draw in forms.items()}  # and warm
    # The least of the rounds: shared caches and memory still slow what runs beside other programs.
    rounds = [{name: seconds(draw, args.device) for name, draw in forms.items()} for _ in range(ROUNDS)]
    least = {name: min(round_[name] for round_ in rounds) for name in forms}
    for name, cost in least.items():
        print(f"{name:6} {cost / args.pairs:7.3f} s a pair, {cost / least['off']:.2f} of off")
    for name in ("off", "fast"):
        apart = (pictures[name] - pictures["exact"])[:, 0].abs().mean()
        print(f"{name} and exact: mean distance of the images {apart:.4f} of 2")


if __name__ == "__main__":
    main()
