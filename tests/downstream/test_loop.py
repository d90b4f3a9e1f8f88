"""The loop keeps the weights it was asked for, and says whose option to change when training diverges."""

import pytest
import torch
from torch import Tensor, nn

from downstream.config import ClassifyConfig, LocalizeConfig, TrainConfig
from downstream.encoder import EncoderSpec
from downstream.errors import TrainingSetError
from downstream.loop import POWER, Trained, train_network
from downstream.training_curve import Curve

SPEC = EncoderSpec(architecture="none", mean=(0, 0, 0), std=(1, 1, 1))
STEPS = {"train_steps": 6, "evaluate_every_steps": 2, "average_weights": False}


def train(config: TrainConfig, scores: list[float], target: float = 1.0, *, watch: bool = False) -> Trained:
    """One weight on its way to `target`; validation says these scores."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    left = iter(scores)

    def step_loss() -> Tensor:
        loss: Tensor = (network(torch.ones(1, 1)) - target).square().mean()
        return loss

    return train_network(network, SPEC, config, step_loss, lambda _: next(left), seed=0, watch=watch)


def test_the_best_score_or_the_last_step_is_kept() -> None:
    best = train(LocalizeConfig.model_validate(STEPS | {"select": "validation"}), [0.1, 0.9, 0.5])
    assert (best.selected_step, best.val_score) == (4, 0.9)
    last = train(LocalizeConfig.model_validate(STEPS), [0.1, 0.9, 0.5], watch=True)
    assert (last.selected_step, last.val_score) == (6, 0.5)
    assert [row[3] for row in last.log] == ["", 0.1, "", 0.9, "", 0.5]
    unwatched = train(LocalizeConfig.model_validate(STEPS), [0.5])
    assert torch.equal(unwatched.state["weight"], last.state["weight"]), "looking changes nothing"
    assert 0 < best.state["weight"] < last.state["weight"] < 1
    assert torch.equal(next(best.network.parameters()).detach(), best.state["weight"])


def test_the_rate_warms_up_and_stays() -> None:
    config = LocalizeConfig.model_validate(STEPS | {"train_steps": 10, "warmup_steps": 4})
    rates = [row[2] / config.learning_rate for row in train(config, [0.0] * 5).log]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8] + [1.0] * 6)


def test_weights_are_averaged_over_the_last_tenth_of_the_steps() -> None:
    config = LocalizeConfig.model_validate(STEPS | {"train_steps": 200})
    raw = torch.tensor([row[1] for row in train(config, [0.0]).log]).sqrt()  # 1 − weight before each step
    weights = 1 - torch.cat([raw[1:], raw[-1:]])
    averaged = train(config.model_copy(update={"average_weights": True}), [0.0])
    share = (
        torch.arange(1, 201).double() ** POWER
    )  # a step's share of the average grows with the power of its number
    expected = (share * weights).sum() / share.sum()
    assert averaged.state["weight"].item() == pytest.approx(expected.item(), abs=2e-3)


def test_one_training_tells_what_each_number_of_steps_gives() -> None:
    longer = LocalizeConfig.model_validate(STEPS | {"train_steps": 20, "average_weights": True})
    seen: list[float] = []
    curve = Curve([5, 10, 20])
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)

    def step_loss() -> Tensor:
        loss: Tensor = (network(torch.ones(1, 1)) - 1).square().mean()
        return loss

    def score(kept: nn.Module) -> float:
        seen.append(next(kept.parameters()).item())
        return seen[-1]

    train_network(network, SPEC, longer, step_loss, score, seed=0, curve=curve)
    assert list(curve.scores) == [5, 10, 20]
    for steps, weight in zip(curve.steps, seen, strict=True):
        alone = train(longer.model_copy(update={"train_steps": steps}), [0.0])
        assert alone.state["weight"].item() == weight


def test_a_training_that_is_past_its_best_ends() -> None:
    config = LocalizeConfig.model_validate(STEPS | {"train_steps": 16})
    curve = Curve([1, 2, 4, 8, 16])
    network = nn.Linear(1, 1, bias=False)
    scores = iter([0.1, 0.5, 0.4, 0.3])

    def step_loss() -> Tensor:
        loss: Tensor = network(torch.ones(1, 1)).square().mean()
        return loss

    train_network(
        network,
        SPEC,
        config,
        lambda: network(torch.ones(1, 1)).square().mean(),
        lambda _: next(scores),
        seed=0,
        curve=curve,
    )
    assert curve.scores == {1: 0.1, 2: 0.5, 4: 0.4, 8: 0.3}


@pytest.mark.parametrize("form", [LocalizeConfig, ClassifyConfig])
def test_divergence_names_the_option_of_the_model_in_training(form: type[TrainConfig]) -> None:
    fault = rf"diverged at step 1 \(loss inf\): lower {form.section}\.learning_rate"
    with pytest.raises(TrainingSetError, match=fault):
        train(form.model_validate(STEPS), [0.0], target=float("inf"))
    assert {"localize": LocalizeConfig, "classify": ClassifyConfig}[form.section] is form
