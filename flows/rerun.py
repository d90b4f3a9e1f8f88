"""A run's categories once more, with the run's own configuration; of the others the run's outcome is taken over."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from prefect import State, flow, tags
from pydantic import BaseModel, ConfigDict, Field

from flows.augmentation import check_inputs, concluded, finished, outcome_of
from tasks.config import RunConfig
from tasks.errors import AnodiffError
from tasks.report.run_folder import RunSummary, write_run
from tasks.runs.ended import Run, find_run
from tasks.runs.under_way import begin_run
from tasks.runtime.stage import Again, StageOutcome, again, run
from tasks.stages.prepare import plan_prepare
from tasks.store.artifacts import Artifact, artifact_of, verified
from tasks.tables.prepared import check_defects


class Rerun(BaseModel):
    """What of a run is to be done again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = Field(description="Name of a run that ended.")
    categories: tuple[str, ...] = Field(min_length=1, description="What is finished of them is kept.")
    from_stage: str | None = Field(
        None, description="Make this stage's artifacts again, and those made from them, finished or not."
    )
    since: str = Field("", description="Artifacts made since then (ISO, UTC) are not made again.")


def what_failed(run: Run) -> list[str]:
    """The categories of a run that have a stage that failed or was left out for that, or no report."""
    of = {stage.label.split("/")[0] for stage in run.stages if stage.stage == "prepare"}
    whole = {stage.label for stage in run.stages if stage.stage == "report" and stage.artifact is not None}
    lacking = {stage.label.split("/")[0] for stage in run.stages if stage.status in ("failed", "skipped")}
    return sorted((of - whole) | lacking)


def asked_again(run: Run, category: str, from_stage: str | None) -> Rerun:
    """One category of a run, from a stage on where one is given. Raises: AnodiffError if it has no such stage."""
    known = list(dict.fromkeys(stage.stage for stage in run.stages if stage.label.split("/")[0] == category))
    if not known:
        of = sorted({stage.label.split("/")[0] for stage in run.stages})
        raise AnodiffError(f"run {run.name}: no category {category}; it has {', '.join(of)}")
    if from_stage is not None and from_stage not in known:
        raise AnodiffError(f"run {run.name}, {category}: no stage {from_stage!r}; it has {', '.join(known)}")
    # To the second, as manifests tell it: what was made in this one, too, is made again.
    since = (datetime.now(UTC) + timedelta(seconds=1)).isoformat(timespec="seconds") if from_stage else ""
    return Rerun(run=run.name, categories=(category,), from_stage=from_stage, since=since)


@flow(name="rerun", flow_run_name="{asked.run}", persist_result=False)
def rerun(config: RunConfig, asked: Rerun) -> State[RunSummary]:
    """Take some categories of a run through all stages again, and write the whole run anew."""
    started = datetime.now(UTC)
    check_inputs(config)
    before = find_run(config.store, asked.run)
    planned = [plan_prepare(config, category) for category in asked.categories]
    forced = None if asked.from_stage is None else Again(asked.from_stage, asked.since)
    token = again.set(forced)
    try:
        checked = [run(each).outcome for each in planned]
        if any(stage.artifact is None for stage in checked):
            refused = any(stage.bad_input for stage in checked)
            return finished(write_run(config, checked, {}, started=started, refused=refused))
        check_defects([each.out for each in planned], config)
        name = begin_run(config, started, asked.model_dump())
        results = []
        for category in asked.categories:
            with tags(category):
                results.append(outcome_of(config, category))
    finally:
        again.reset(token)
    others, reports = taken_over(before, asked.categories)
    reports |= {result.category: result.report for result in results if result.report is not None}
    stages = [*checked, *(stage for result in results for stage in result.stages), *others]
    order = list(dict.fromkeys(each.label.split("/")[0] for each in before.stages))
    stages.sort(key=lambda each: order.index(each.label.split("/")[0]))
    reports = {category: reports[category] for category in order if category in reports}
    return concluded(config, stages, reports, started, name)


def taken_over(before: Run, but: Sequence[str]) -> tuple[list[StageOutcome], dict[str, Artifact]]:
    """The stages of a run's other categories, nothing done for them, and their reports."""
    stages, reports = [], {}
    for stage in before.stages:
        category = stage.label.split("/")[0]
        if category in but:
            continue
        if stage.artifact is not None:
            stage = replace(stage, status="cached", seconds=0.0)
        if stage.stage == "report" and stage.artifact is not None:
            artifact = artifact_of(before.config.store, stage.artifact, label=stage.label)
            if verified(artifact):
                reports[category] = artifact
            else:
                hint = f"anodiff rerun {before.name} --category {category}"
                stage = replace(stage, artifact=None, status="failed", error=f"gone since; {hint}")
        stages.append(stage)
    return stages, reports
