"""The training loop, once: AdamW, warm-up, accumulation, moving average, checkpoints. Resume = the same call."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dual_anodiff.progress import progress as progress_of


@dataclass(frozen=True)
class Schedule:
    """How long and how fast; the fields are `FinetuneConfig`'s, which says what they mean."""

    train_steps: int
    learning_rate: float
    warmup_steps: int = 0
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    ema_decay: float = 0.99
    gradient_accumulation_steps: int = 1
    checkpoint_every_steps: int = 250


@dataclass
class Progress:
    """How far a training is: what a checkpoint holds besides parameters and optimizer."""

    step: int
    ema: list[Tensor]
    rows: list[tuple[int, float]]  # step and loss
    kept: dict[int, list[Tensor]] = field(
        default_factory=dict
    )  # the moving average after each step asked for


def optimize(
    parameters: Sequence[Tensor],
    loss: Callable[[int, int], Tensor],
    schedule: Schedule,
    *,
    name: str,
    device: str,
    checkpoint: Path | None = None,
    keep: Sequence[int] = (),
    progress: bool = True,
) -> Progress:
    """Train `parameters` on `loss(step, part)`; what the caller keeps is the moving average that comes back.

    `loss` draws its randomness from step and part alone, so that on the CPU a training resumed from the file
    `checkpoint` equals an uninterrupted one, bit for bit.
    """
    # Fused: an adapter is hundreds of small tensors, and a call for each of them costs more than their arithmetic.
    optimizer = torch.optim.AdamW(
        parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    state = Progress(0, [p.detach().clone() for p in parameters], [])
    if checkpoint is not None and checkpoint.is_file():
        state = _resume(checkpoint, parameters, optimizer, device)
    with progress_of(name, schedule.train_steps, "step", done=state.step, shown=progress) as report_progress:
        for step in range(state.step, schedule.train_steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * min(1.0, (step + 1) / max(1, schedule.warmup_steps))
            optimizer.zero_grad()
            total = 0.0
            for part in range(schedule.gradient_accumulation_steps):
                value = loss(step, part)
                (value / schedule.gradient_accumulation_steps).backward()
                total += value.item() / schedule.gradient_accumulation_steps
            torch.nn.utils.clip_grad_norm_(parameters, schedule.max_grad_norm)
            optimizer.step()
            with torch.no_grad():
                # Young averages follow quickly: the usual (1 + t) / (10 + t) bound on the decay.
                decay = min(schedule.ema_decay, (1 + step) / (10 + step))
                torch._foreach_lerp_(state.ema, [p.detach() for p in parameters], 1 - decay)
            state.step = step + 1
            state.rows.append((step + 1, total))
            if state.step in keep:
                state.kept[state.step] = [average.cpu().clone() for average in state.ema]
            report_progress(state.step, total)
            if checkpoint is not None and state.step % schedule.checkpoint_every_steps == 0:
                _save_checkpoint(checkpoint, parameters, optimizer, state)
    return state


def write_losses(path: Path, rows: Sequence[tuple[int, float]]) -> None:
    """A csv with columns step, loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("step", "loss"), *rows])


def _save_checkpoint(
    path: Path, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer, state: Progress
) -> None:
    """Write beside, then rename: a kill leaves the previous checkpoint whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".tmp")
    torch.save(
        {
            "step": state.step,
            "parameters": [p.detach() for p in parameters],
            "ema": state.ema,
            "optimizer": optimizer.state_dict(),
            "rows": state.rows,
            "kept": state.kept,
        },
        staged,
    )
    staged.replace(path)


def _resume(
    path: Path, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer, device: str
) -> Progress:
    saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    with torch.no_grad():
        for parameter, value in zip(parameters, saved["parameters"], strict=True):
            parameter.copy_(value)
    optimizer.load_state_dict(saved["optimizer"])
    rows = [(int(s), float(v)) for s, v in saved["rows"]]
    return Progress(saved["step"], saved["ema"], rows, saved.get("kept", {}))
