"""One category: prepare → objects → adapt → finetune → generate → curate → quality, for each defect → localize,
classify, detect, for each training set and seed → the same at the doses asked for → report. The base adapts to the
normals once, where the run asks for it.
"""

from dataclasses import dataclass, replace
from itertools import product

from prefect import State, flow
from prefect.states import Completed, Failed

from flows.doses import train_doses
from flows.steps import Shared, draw_pairs, train_model
from tasks.artifacts import Artifact
from tasks.config import RunConfig
from tasks.models import Pictures, Trained, defects_without_pairs, why_not
from tasks.native import warn_of_small_defects
from tasks.normals import adapt, plan_adapt
from tasks.objects import objects, plan_objects, read_object_masks, without_texture
from tasks.prepare import defects_of, plan_prepare, prepare
from tasks.report import plan_report, report
from tasks.runtime import StageOutcome, StageResult, outcome, run
from tasks.synthesize import BASELINES, plan_synthesize, synthesize


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
    prepared = plan_prepare(config, category)
    run(prepare, prepared, config=config).result()  # a hit, unless this flow was started by itself

    found = plan_objects(config, prepared)
    stages = [outcome(found, run(objects, found, prepared=prepared, config=config))]
    if stages[-1].artifact is None:
        return finished(CategoryOutcome(category, tuple(stages)))
    config = without_texture(config, category, read_object_masks(found))
    shared = Shared(prepared, found, plan_adapt(config, prepared))
    if shared.normals is not None:
        adapted = run(adapt, shared.normals, prepared=prepared, config=config)
        stages.append(outcome(shared.normals, adapted))
        shared = replace(shared, states=(adapted,))

    defects = defects_of(prepared, config)
    warn_of_small_defects(config, prepared, defects)
    drawn = draw_pairs(config, shared, defects)
    stages += drawn.stages
    generated = drawn.pairs
    if not generated:
        return finished(CategoryOutcome(category, tuple(stages)))

    baselines: dict[str, Artifact] = {}
    waits: dict[str, list[State[StageResult]]] = {}
    for baseline in BASELINES:
        if baseline in config.compare.training_sets:
            out = plan_synthesize(config, prepared, baseline, list(generated))
            pasted = run(
                synthesize, out, prepared=prepared, name=baseline, defects=list(generated), config=config
            )
            stages.append(outcome(out, pasted))
            baselines[baseline], waits[baseline] = out, [pasted]

    pictures = Pictures(prepared, generated, baselines)
    without_pairs = defects_without_pairs(pictures)
    trained: list[Trained] = []
    for model, name in product(config.compare.models, config.compare.training_sets):
        reason = why_not(config, model, name, list(generated), without_pairs)
        if reason is not None:
            stages.append(StageOutcome(model, f"{category}/{name}", None, "left out", error=reason))
            continue
        for seed in config.compare.seeds:
            finished_one, stage = train_model(config, model, pictures, name, seed, waits.get(name, []))
            stages.append(stage)
            trained += [finished_one] if finished_one is not None else []
    dosed, made = train_doses(config, pictures, shared, trained)
    stages += made

    table = plan_report(config, prepared, generated, drawn.quality, trained, dosed)
    drawn_up = run(
        report,
        table,
        prepared=prepared,
        generated=generated,
        measured=drawn.quality,
        trained=trained,
        dosed=dosed,
        config=config,
    )
    stages.append(outcome(table, drawn_up))
    return finished(CategoryOutcome(category, tuple(stages), table if stages[-1].artifact else None))


def finished(result: CategoryOutcome) -> State[CategoryOutcome]:
    """The flow's final state: failed if any stage is, with the outcome either way."""
    wrong = [
        f"{stage.stage} {stage.label}" for stage in result.stages if stage.status in ("failed", "skipped")
    ]
    if wrong:
        return Failed(message=f"failed or left out: {', '.join(wrong)}", data=result)
    return Completed(message=f"{len(result.stages)} stages", data=result)
