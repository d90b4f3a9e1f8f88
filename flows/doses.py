"""Dose and response: each model again with fewer pairs, and with fewer shots, on the same test pictures."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from flows.steps import Shared, draw_pairs, start_model
from flows.training_steps import Choices
from tasks.config import ModelName, RunConfig
from tasks.runtime.stage import StageOutcome, Started
from tasks.stages.train import plan_model
from tasks.tables.chosen_steps import chooses_steps
from tasks.tables.training_rows import (
    Dose,
    Dosed,
    Pictures,
    Trained,
    defects_without_pairs,
    dose_of_pairs,
    why_no_dose,
)


def train_doses(
    config: RunConfig, full: Pictures, shared: Shared, trained: Sequence[Trained], choices: Choices
) -> tuple[list[Dosed], list[StageOutcome]]:
    """Every model at every dose and with every seed; `trained` ones are not trained again.

    `choices`: of the number of steps, for the whole training set; all its doses take as many.
    """
    doses = [dose_of_pairs(full, count, config) for count in config.compare.doses.pairs]
    of_shots, stages = draw_shots(config, full, shared)
    doses += of_shots
    done = {trained_model.artifact.ref: trained_model for trained_model in trained}
    wanted: list[tuple[Dose, Trained]] = []
    started: dict[str, Started] = {}
    for model in config.compare.models:
        reason = why_no_dose(config, model, sorted(full.generated))
        if doses and reason is not None:
            label = f"{full.prepared.category}/doses"
            stages.append(StageOutcome(model, label, None, "left out", error=reason))
            continue
        for dose, seed in product(doses, config.compare.seeds):
            chosen = choices.get((model, dose.training_set))
            if chooses_steps(config, model) and chosen is None:
                continue  # why not was said where it was to be chosen
            out = plan_model(
                config, model, dose.pictures, dose.training_set, seed, None if chosen is None else chosen.out
            ).out
            if out.ref not in done:
                done[out.ref], started[out.ref] = start_model(
                    config, model, dose.pictures, dose.training_set, seed, chosen
                )
            wanted.append((dose, done[out.ref]))
    stages += [started_stage.outcome for started_stage in started.values()]
    failed = {ref for ref, started_stage in started.items() if not started_stage.made}
    dosed = [Dosed(dose.kind, dose.count, each) for dose, each in wanted if each.artifact.ref not in failed]
    return dosed, stages


def dosed_sets(config: RunConfig, full: Pictures) -> list[tuple[ModelName, str]]:
    """The models and training sets whose doses are asked for."""
    doses = config.compare.doses
    names = ["real"] * (0 in doses.pairs) + ["generated+real"] * bool({*doses.pairs, *doses.shots} - {0})
    models = [
        model for model in config.compare.models if why_no_dose(config, model, sorted(full.generated)) is None
    ]
    return list(product(models, names))


def draw_shots(config: RunConfig, full: Pictures, shared: Shared) -> tuple[list[Dose], list[StageOutcome]]:
    """Pairs of adapters that saw only so many shots; the last dose is what the split gives, and is there."""
    if not config.compare.doses.shots:
        return [], []
    doses: list[Dose] = []
    stages: list[StageOutcome] = []
    defects = sorted(full.generated)
    for count in config.compare.doses.shots:
        if count == config.split.shots:
            continue
        drawn = draw_pairs(config, shared, defects, count)
        stages += drawn.stages
        if len(drawn.pairs) == len(defects):  # else of other test pictures, so no point of the same curve
            pictures = replace(full, generated=drawn.pairs, choice=count)
            if drawn.readable:
                defects_without_pairs(pictures)
            doses.append(Dose("shots", count, "generated+real", pictures))
    shots = config.split.shots
    assert isinstance(shots, int)  # the configuration allows doses of shots with a number alone
    doses.append(Dose("shots", shots, "generated+real", full))
    return doses, stages
