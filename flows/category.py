"""One category: prepare → objects → adapt → finetune → generate → curate (→ review) → quality, for each defect →
localize, classify, detect, for each training set and seed → the same at the doses asked for → report → page. The base
adapts to the normals once, where the run asks for it.
"""

from dataclasses import dataclass, replace
from itertools import product

from prefect import State, flow
from prefect.states import Completed, Failed

from flows.doses import dosed_sets, train_doses
from flows.steps import Drawn, Shared, draw_pairs, paste_pairs, start_model
from flows.training_steps import choose_steps
from tasks.config import ModelName, RunConfig
from tasks.report.ui import show_category
from tasks.runtime.runner import stages_run_by
from tasks.runtime.stage import StageOutcome, Started, run
from tasks.stages.adapt import plan_adapt
from tasks.stages.crop_blend import warn_of_small_defects
from tasks.stages.objects import plan_objects
from tasks.stages.page import plan_page
from tasks.stages.prepare import plan_prepare
from tasks.stages.report import plan_report
from tasks.store.artifacts import Artifact
from tasks.tables.baselines import baseline_of
from tasks.tables.chosen_steps import chooses_steps
from tasks.tables.object_masks import read_object_masks, without_texture
from tasks.tables.prepared import defects_of
from tasks.tables.training_rows import Dosed, Pictures, Trained, defects_without_pairs, why_not


@dataclass(frozen=True)
class CategoryOutcome:
    """What became of one category's stages after prepare, and its report where there is one."""

    category: str
    stages: tuple[StageOutcome, ...]
    report: Artifact | None = None


# Stages are tasks with content keys; a subflow called by position could adopt another one's result (Prefect #22259).
@flow(name="category", flow_run_name="{category}", persist_result=False)
def run_category(config: RunConfig, category: str) -> State[CategoryOutcome]:
    """Take one category through all stages; what depends on a failed stage is left out, the rest goes on."""
    with stages_run_by(config):
        result = all_stages(config, category)
    if result.report is not None:
        show_category(result.report)
    return finished(result)


def all_stages(config: RunConfig, category: str) -> CategoryOutcome:
    """The stages of one category, in a flow."""
    # A hit that the run has logged, unless this flow was started by itself.
    split = run(plan_prepare(config, category), logged_before=True)
    if not split.readable:
        return CategoryOutcome(category, (split.outcome,))
    config, shared, stages = learn_normals(config, split.out)
    if shared is None:
        return CategoryOutcome(category, tuple(stages))

    defects = defects_of(split.out, config)
    warn_of_small_defects(config, split.out, defects)
    drawn = draw_pairs(config, shared, defects)
    stages += [*(each.outcome for each in shared.started), *drawn.stages]
    if not drawn.pairs:
        return CategoryOutcome(category, tuple(stages))

    models, made = train_models(config, shared, drawn)
    stages += made
    reporting = plan_report(
        config, split.out, drawn.pairs, drawn.quality, models.trained, models.dosed, models.steps
    )
    table = run(reporting)
    stages.append(table.outcome)
    if table.made:
        stages.append(only_shown(run(plan_page(config, table.out)).outcome))
    return CategoryOutcome(category, tuple(stages), table.out if table.made else None)


def learn_normals(
    config: RunConfig, prepared: Artifact
) -> tuple[RunConfig, Shared | None, list[StageOutcome]]:
    """objects → adapt: what all defect types share; None without the objects. A texture's config has no background."""
    found = run(plan_objects(config, prepared))
    if not found.made:
        return config, None, [found.outcome]
    if found.readable:
        config = without_texture(config, prepared.category, read_object_masks(found.out))
    adapting = plan_adapt(config, prepared)
    if adapting is None:
        return config, Shared(prepared, found.out, None), [found.outcome]
    adapted = run(adapting)
    return config, Shared(prepared, found.out, adapted.out, (adapted,)), [found.outcome]


@dataclass(frozen=True)
class Models:
    """The models of a category that were trained, at doses too, and what chose their numbers of steps."""

    trained: list[Trained]
    dosed: list[Dosed]
    steps: dict[str, Artifact]  # by model and training set: localize/real


def train_models(config: RunConfig, shared: Shared, drawn: Drawn) -> tuple[Models, list[StageOutcome]]:
    """synthesize → training_steps → localize, classify, detect, for each training set, seed and dose."""
    category, generated = shared.prepared.category, drawn.pairs
    pasted = paste_pairs(config, shared, config.compare.training_sets, list(generated))
    baselines: dict[str, Artifact] = {name: each.out for name, each in pasted.items()}
    pictures = Pictures(shared.prepared, generated, baselines, objects=shared.objects)
    without_pairs = defects_without_pairs(pictures) if drawn.readable else []
    asked: list[tuple[ModelName, str]] = list(product(config.compare.models, config.compare.training_sets))
    reasons = {pair: why_not(config, *pair, list(generated), without_pairs) for pair in asked}
    left_out = [
        StageOutcome(model, f"{category}/{name}", None, "left out", error=reason)
        for (model, name), reason in reasons.items()
        if reason is not None
    ]
    wanted = [pair for pair in asked if reasons[pair] is None]
    choices, stages = choose_steps(config, shared, pictures, [*wanted, *dosed_sets(config, pictures)])
    started: list[tuple[Trained, Started]] = []
    for model, name in wanted:
        if chooses_steps(config, model) and (model, name) not in choices:
            continue  # said by choose_steps
        wait_for = [each for baseline, each in pasted.items() if baseline == baseline_of(name)]
        for seed in config.compare.seeds:
            chosen = choices.get((model, name))
            started.append(start_model(config, model, pictures, name, seed, chosen, wait_for))
    stages = [*stages, *(choice.outcome for choice in (*pasted.values(), *choices.values()))]
    stages += [*(each.outcome for _, each in started), *left_out]
    trained = [model for model, each in started if each.made]
    dosed, made = train_doses(config, pictures, shared, trained, choices)
    steps = {f"{model}/{name}": choice.out for (model, name), choice in choices.items() if choice.made}
    return Models(trained, dosed, steps), [*stages, *made]


def only_shown(outcome: StageOutcome) -> StageOutcome:
    """The outcome of a stage that only shows what others made: that it failed fails nothing, and a rerun tries again."""
    if outcome.status not in ("failed", "skipped"):
        return outcome
    return replace(
        outcome, status="left out", error=f"not drawn, the same command tries again: {outcome.error}"
    )


def finished(result: CategoryOutcome) -> State[CategoryOutcome]:
    """The flow's final state: failed if any stage is, with the outcome either way."""
    wrong = [
        f"{stage.stage} {stage.label}" for stage in result.stages if stage.status in ("failed", "skipped")
    ]
    if wrong:
        return Failed(message=f"failed or left out: {', '.join(wrong)}", data=result)
    return Completed(message=f"{len(result.stages)} stages", data=result)
