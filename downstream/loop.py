"""The training loop of localization and classification: AdamW, warm-up, weight average, selection.

The learning rate does not fall: an average of the weights over the last share of the steps settles them instead (Karras
et al. 2024, arXiv 2312.02696, section 3.1). So a training of n steps is the first n of any longer one, and one training
tells what each number of steps would have given.
"""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from downstream.config import TrainConfig
from downstream.encoder import EncoderSpec, train_mode
from downstream.errors import TrainingSetError
from downstream.network import write_model
from downstream.progress import progress
from downstream.training_curve import Curve

# γ: the average's weights have a standard deviation of about a tenth of the steps so far (section 3.1 there).
POWER = 7


@dataclass(frozen=True)
class Trained:
    """The weights that were kept, in a network in evaluation mode and as a copy on the CPU, and how they came about.

    log: step, loss, learning rate, validation score or "", of each step.
    """

    network: nn.Module
    state: dict[str, Tensor]
    selected_step: int
    val_score: float | None
    log: list[tuple[int, float, float, float | str]]


def train_network(
    network: nn.Module,
    spec: EncoderSpec,
    config: TrainConfig,
    step_loss: Callable[[], Tensor],
    val_score: Callable[[nn.Module], float | None],
    *,
    seed: int,
    watch: bool = False,
    curve: Curve | None = None,
) -> Trained:
    """Minimise `step_loss` (the network's loss on its next batch); keep the last weights or those of best `val_score`.

    `val_score` gets a network in evaluation mode; higher is better, None says that there is nothing to score.
    `watch`: score every evaluate_every_steps even where the last weights are kept. `curve`: score at its steps instead, and
    stop where it has seen enough. Raises: TrainingSetError if
    training diverges.
    """
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
    # Scored and kept instead of the raw weights where asked for; its buffers (batch norm) are averaged too.
    average = None
    if config.average_weights:
        average = AveragedModel(network, multi_avg_fn=_average, use_buffers=True)
    kept: nn.Module = network if average is None else average.module
    looks = watch or config.select == "validation"
    log: list[tuple[int, float, float, float | str]] = []
    best: tuple[float | None, int, dict[str, Tensor]] | None = None
    steps = config.fixed_steps()
    device = next(network.parameters()).device
    # What timm draws in training mode (drop path, dropout) must not depend on what ran before.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        train_mode(network, spec)
        with progress(config.section, steps, "step") as report_progress:
            for step in range(1, steps + 1):
                optimizer.zero_grad(set_to_none=True)
                loss = step_loss()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
                rate = optimizer.param_groups[0]["lr"]
                optimizer.step()
                schedule.step()
                if average is not None:
                    average.update_parameters(network)
                value = loss.item()
                if not math.isfinite(value):
                    raise TrainingSetError(
                        f"training diverged at step {step} (loss {value}): lower {config.section}.learning_rate."
                    )
                score: float | None = None
                if step == steps or (
                    step in curve.steps if curve else looks and step % config.evaluate_every_steps == 0
                ):
                    score = val_score(kept.eval())
                    if best is None or config.select == "last" or (score or 0.0) > (best[0] or 0.0):
                        state = {name: t.detach().cpu().clone() for name, t in kept.state_dict().items()}
                        best = (score, step, state)
                    train_mode(network, spec)
                report_progress(step, value)
                log.append((step, value, rate, "" if score is None else score))
                if curve is not None and score is not None and curve.add(step, score):
                    break
    assert best is not None  # the last step is always scored
    score, step, state = best
    kept.load_state_dict(state)
    return Trained(kept.eval(), state, step, score, log)


def write_trained(trained: Trained, described: BaseModel, score: str, out: Path) -> None:
    """Write out/model.safetensors, out/model.json and out/training.csv; `score` names its last column."""
    write_model(out, described, trained.state)
    with (out / "training.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "learning_rate", score])
        writer.writerows(trained.log)


def _rate(step: int, config: TrainConfig) -> float:
    """Share of the learning rate: linear warm-up, then all of it."""
    return min(1.0, (step + 1) / (config.warmup_steps + 1))


@torch.no_grad()
def _average(averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Tensor | int) -> None:
    """Move the average of `num_averaged` weights towards those of the next step t, in place.

    β = (1 − 1/t)^(γ + 1), section 3.1 of the paper above.
    """
    beta = (1 - 1 / (int(num_averaged) + 1)) ** (POWER + 1)
    pairs = [(a, c) for a, c in zip(averaged, current, strict=True) if a.is_floating_point()]
    if pairs:  # the counters of batch norm are no floats
        torch._foreach_lerp_([a for a, _ in pairs], [c for _, c in pairs], 1 - beta)
