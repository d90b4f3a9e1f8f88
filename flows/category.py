"""One category: prepare → adapt → finetune → generate, for each defect → localize, classify, detect, for each training
set and seed → report. The base adapts to the category's normals once, where the run asks for it.
"""

from dataclasses import dataclass
from itertools import product

from prefect import State, flow
from prefect.states import Completed, Failed

from tasks.artifacts import Artifact
from tasks.classify import classify, plan_classify
from tasks.config import RunConfig
from tasks.detect import detect, plan_detect
from tasks.finetune import finetune, plan_finetune
from tasks.generate import generate, plan_generate
from tasks.localize import localize, plan_localize
from tasks.models import Pictures, Trained, why_not
from tasks.normals import adapt, plan_adapt
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


MODELS = {
    "localize": (plan_localize, localize),
    "classify": (plan_classify, classify),
    "detect": (plan_detect, detect),
}


# Stages are tasks with content keys; a subflow called by position could adopt another one's result (Prefect #22259).
@flow(name="category", flow_run_name="{category}", persist_result=False)
def run_category(config: RunConfig, category: str) -> State[CategoryOutcome]:
    """Take one category through all stages; what depends on a failed stage is left out, the rest goes on."""
    prepared = plan_prepare(config, category)
    run(prepare, prepared, config=config).result()  # a hit, unless this flow was started by itself

    stages: list[StageOutcome] = []
    normals = plan_adapt(config, prepared)
    adapted: list[State[StageResult]] = []
    if normals is not None:
        adapted = [run(adapt, normals, prepared=prepared, config=config)]
        stages.append(outcome(normals, *adapted))

    generated: dict[str, Artifact] = {}
    for defect in defects_of(prepared, config):
        adapter = plan_finetune(config, prepared, defect, normals)
        trained = run(
            finetune,
            adapter,
            prepared=prepared,
            defect=defect,
            normals=normals,
            config=config,
            wait_for=adapted,
        )
        stages.append(outcome(adapter, trained))
        pairs = plan_generate(config, adapter, defect)
        stages.append(
            outcome(pairs, run(generate, pairs, adapter=adapter, config=config, wait_for=[trained]))
        )
        if stages[-1].artifact is not None:
            generated[defect] = pairs
    if not generated:
        return finished(CategoryOutcome(category, tuple(stages)))

    baselines: dict[str, Artifact] = {}
    made: dict[str, State[StageResult]] = {}
    for baseline in BASELINES:
        if baseline in config.compare.training_sets:
            out = plan_synthesize(config, prepared, baseline, list(generated))
            made[baseline] = run(
                synthesize, out, prepared=prepared, name=baseline, defects=list(generated), config=config
            )
            stages.append(outcome(out, made[baseline]))
            baselines[baseline] = out

    pictures = Pictures(prepared, generated, baselines)
    trained_models: list[Trained] = []
    for model, name in product(config.compare.models, config.compare.training_sets):
        reason = why_not(config, model, name, list(generated))
        if reason is not None:
            stages.append(StageOutcome(model, f"{category}/{name}", None, "left out", error=reason))
            continue
        for seed in config.compare.seeds:
            plan_one, stage = MODELS[model]
            out = plan_one(config, pictures, name, seed)
            tested = run(
                stage,
                out,
                pictures=pictures,
                training_set_name=name,
                seed=seed,
                config=config,
                wait_for=[made[name]] if name in made else [],
            )
            stages.append(outcome(out, tested))
            if stages[-1].artifact is not None:
                trained_models.append(Trained(model, name, seed, out))

    table = plan_report(config, prepared, generated, trained_models)
    drawn_up = run(
        report, table, prepared=prepared, generated=generated, trained=trained_models, config=config
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
