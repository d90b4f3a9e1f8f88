"""What the three trainings share: learning rate, EMA, checkpoints by the clock, a printed line."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image


def learning_rate(step: int, num_steps: int, peak: float, warmup_steps: int = 100) -> float:
    """Warm up, hold, and fall linearly over the last 30 %: a stage may be prolonged from its checkpoint."""
    fall = (num_steps - step) / (0.3 * num_steps)
    return peak * max(0.0, min(1.0, (step + 1) / warmup_steps, fall))


class Ema:
    """Exponential moving average of parameters, with the early-step correction of torch's `swa_utils` absent there."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.shadow = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        for p, s in zip(self.parameters, self.shadow, strict=True):
            p.copy_(s)


class Checkpoint:
    """One file, written at most every `every_s` seconds and renamed into place."""

    def __init__(self, path: Path, every_s: float = 240) -> None:
        self.path, self.every_s, self.last = path, every_s, time.monotonic()

    def load(self) -> dict[str, Any] | None:
        if not self.path.is_file():
            return None
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        return state

    def due(self) -> bool:
        return time.monotonic() - self.last > self.every_s

    def save(self, state: dict[str, Any]) -> None:
        staged = self.path.with_suffix(".tmp")
        torch.save(state, staged)
        staged.replace(self.path)
        self.last = time.monotonic()


class Log:
    """Mean of the loss since the last line; one line every `every` steps, also appended to a CSV."""

    def __init__(self, path: Path, every: int = 100) -> None:
        self.path, self.every, self.total, self.n, self.start = path, every, 0.0, 0, time.monotonic()

    def step(self, step: int, loss: Tensor, **more: float) -> None:
        self.total, self.n = self.total + float(loss.detach()), self.n + 1
        if (step + 1) % self.every:
            return
        rate = self.n / (time.monotonic() - self.start)
        row = {"step": step + 1, "loss": round(self.total / self.n, 5), "it_per_s": round(rate, 3), **more}
        print(json.dumps(row), flush=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.total, self.n, self.start = 0.0, 0, time.monotonic()


def contact_sheet(images: Tensor, path: Path, columns: int = 8) -> None:
    """Write pictures in [-1, 1] as one PNG. Shape: (n, 3, h, w)."""
    save_image(make_grid(images.float().cpu(), nrow=columns, normalize=True, value_range=(-1, 1)), path)


def use_channels_last(model: nn.Module) -> Any:
    """channels_last with bf16 trains this VAE several times as fast on an AVX512-bf16 CPU as plain fp32."""
    return model.to(memory_format=torch.channels_last)
