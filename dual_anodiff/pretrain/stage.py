"""The one training loop of all stages: learning rate, EMA, exact resume, a deadline, a printed line, a picture."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

CHECKPOINT_EVERY_S = 600
LOG_EVERY = 100
HELD_OUT = 512  # the corpus' last pictures, that no step sees


@dataclass(frozen=True)
class Plan:
    """How long and how fast a stage trains.

    Units: `deadline` on time.monotonic()'s clock; a stage that reaches it stops in a state that the same call continues.
    """

    num_steps: int
    batch_size: int
    seed: int
    device: str
    deadline: float = float("inf")


def learning_rate(step: int, num_steps: int, peak: float, warmup_steps: int = 100) -> float:
    """Warm up, hold, and fall linearly over the last 30 %: a stage may be prolonged from its checkpoint."""
    fall = (num_steps - step) / (0.3 * num_steps)
    return peak * max(0.0, min(1.0, (step + 1) / warmup_steps, fall))


def fit(
    name: str,
    model: nn.Module,
    loss: Callable[[int], Tensor],
    show: Callable[[], None],
    work: Path,
    plan: Plan,
    *,
    peak_rate: float,
    weight_decay: float,
    ema_decay: float,
    warmup_steps: int = 100,
) -> bool:
    """Train what of `model` needs gradients, afterwards it holds the moving average; whether all steps were taken.

    `loss(step)` draws all it needs from the step's number, so that a resumed training goes on as if uninterrupted.
    `show()` runs at each checkpoint and sees the moving average.
    """
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak_rate, betas=(0.9, 0.99), weight_decay=weight_decay)
    ema = [p.detach().clone() for p in parameters]
    path, first = work / f"{name}.pt", 0
    if path.is_file():
        state = torch.load(path, map_location=plan.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema, first = state["ema"], state["step"]
    log, saved, step = _Log(work / f"{name}.jsonl"), time.monotonic(), first
    while step < plan.num_steps and time.monotonic() < plan.deadline:
        torch.manual_seed(plan.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan.num_steps, peak_rate, warmup_steps)
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            # Young averages follow quickly: the usual (1 + t) / (10 + t) bound on the decay.
            decay = min(ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(ema, [p.detach() for p in parameters], 1 - decay)
        step += 1
        log.step(step, value)
        if time.monotonic() - saved > CHECKPOINT_EVERY_S:
            _save(path, model, optimizer, ema, step)
            with _holding(parameters, ema):
                show()
            saved = time.monotonic()
    if step > first:
        _save(path, model, optimizer, ema, step)
    with torch.no_grad():
        torch._foreach_copy_(parameters, ema)
    if step > first:
        show()
    if step < plan.num_steps:
        print(f"{name}: stopped at step {step} of {plan.num_steps}; the same command goes on", flush=True)
    return step == plan.num_steps


@contextmanager
def _holding(parameters: list[Tensor], values: list[Tensor]) -> Iterator[None]:
    """The parameters with other values for a while."""
    own = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        torch._foreach_copy_(parameters, values)
    yield
    with torch.no_grad():
        torch._foreach_copy_(parameters, own)


def _save(path: Path, model: nn.Module, optimizer: Any, ema: list[Tensor], step: int) -> None:
    """Write beside, then rename: a kill leaves the previous checkpoint whole."""
    staged = path.with_suffix(".tmp")
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema, "step": step}, staged
    )
    staged.replace(path)


class _Log:
    """Mean of the loss and speed since the last line; a line every `LOG_EVERY` steps, appended to a file too."""

    def __init__(self, path: Path) -> None:
        self.path, self.losses, self.start = path, list[Tensor](), time.monotonic()

    def step(self, step: int, loss: Tensor) -> None:
        self.losses.append(loss.detach())  # not read yet: a GPU would wait
        if step % LOG_EVERY:
            return
        rate = len(self.losses) / (time.monotonic() - self.start)
        mean = float(torch.stack(self.losses).mean())
        row = json.dumps({"step": step, "loss": round(mean, 5), "it_per_s": round(rate, 3)})
        print(row, flush=True)
        with self.path.open("a") as file:
            file.write(row + "\n")
        self.losses, self.start = [], time.monotonic()


def contact_sheet(images: Tensor, path: Path, columns: int = 8) -> None:
    """Write pictures in [-1, 1] as one PNG. Shape: (n, 3, h, w)."""
    save_image(make_grid(images.float().cpu(), nrow=columns, normalize=True, value_range=(-1, 1)), path)
