"""How many steps each model takes on each training set: folds of the shots, their pairs, and the choice by them."""

from collections.abc import Sequence
from dataclasses import replace

from flows.steps import Shared, draw_pairs, paste_pairs
from tasks.config import ModelName, RunConfig
from tasks.data.split import Fold
from tasks.runtime.stage import StageOutcome, Started, run
from tasks.stages.training_steps import plan_training_steps
from tasks.tables.chosen_steps import chooses_steps
from tasks.tables.training_rows import Pictures, holds_out

# By model and training set; empty where every model has a fixed number.
Choices = dict[tuple[ModelName, str], Started]


def choose_steps(
    config: RunConfig,
    shared: Shared,
    full: Pictures,
    wanted: Sequence[tuple[ModelName, str]],
) -> tuple[Choices, list[StageOutcome]]:
    """Start the choice for each model and training set whose train_steps is `auto`."""
    wanted = list(dict.fromkeys(each for each in wanted if chooses_steps(config, each[0])))
    if not wanted:
        return {}, []
    names = list(dict.fromkeys(name for _, name in wanted))
    stages: list[StageOutcome] = []
    folds: list[Pictures] = []
    waiting: list[Started] = []
    complete = True
    for number in range(config.compare.folds):
        fold = Fold(number, config.compare.folds)
        pasted = paste_pairs(config, shared, names, list(full.generated), fold)
        waiting += pasted.values()
        pictures = replace(full, choice=fold, baselines={name: each.out for name, each in pasted.items()})
        # A fold that holds nothing out has nothing to score on, so no generator is trained for it.
        if any("generated" in name for name in names) and holds_out(config, pictures):
            drawn = draw_pairs(config, shared, list(full.generated), fold)
            stages += drawn.stages
            complete = complete and len(drawn.pairs) == len(full.generated)
            pictures = replace(pictures, generated=drawn.pairs)
        folds.append(pictures)
    # Every set is scored on the same folds; without one of them the sets of generated pairs have no choice.
    choices: Choices = {}
    for model, name in wanted:
        if "generated" in name and not complete:
            why = "a fold lacks the pairs of some defect type"
            label = f"{full.prepared.category}/{model} on {name}"
            stages.append(StageOutcome("training_steps", label, None, "skipped", error=why))
            continue
        of_set = folds if "generated" in name else [replace(fold, generated=full.generated) for fold in folds]
        choices[model, name] = run(plan_training_steps(config, model, of_set, name), wait_for=waiting)
    stages += [each.outcome for each in waiting]
    return choices, stages
