"""The full run: bad data refused first, then one category after the other, then the run's folder and tables."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from prefect import State, flow, tags
from prefect.exceptions import MissingResult
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.category import CategoryOutcome, run_category
from tasks.config import RunConfig
from tasks.report.run_folder import RunSummary, write_run
from tasks.runs.under_way import begin_run
from tasks.runtime.device import resolve_device
from tasks.runtime.stage import StageOutcome, error_text, run
from tasks.stages.prepare import plan_prepare
from tasks.store.artifacts import Artifact
from tasks.store.place import check_store
from tasks.tables.prepared import categories_of, check_defects
from tasks.tables.weights import base_digest, check_encoders
from tasks.track.tracking import track_run

# `anodiff`, of the Python that runs this.
COMMAND_LINE = (sys.executable, "-m", "flows.cli")


def run_name() -> str:
    """What the run is called in Prefect's UI: its categories."""
    config: RunConfig = flow_run.parameters["config"]
    names = config.categories or ("all categories",)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@flow(name="augmentation", flow_run_name=run_name, persist_result=False)
def augment(config: RunConfig) -> State[RunSummary]:
    """Take every category through all stages. A failed one leaves the others alone, and the run marked failed."""
    started = datetime.now(UTC)
    check_inputs(config)
    categories = categories_of(config)

    planned = [plan_prepare(config, category) for category in categories]
    checked = [run(each).outcome for each in planned]
    if any(stage.artifact is None for stage in checked):
        refused = any(stage.bad_input for stage in checked)
        return finished(write_run(config, checked, {}, started=started, refused=refused))
    check_defects([each.out for each in planned], config)

    name = begin_run(config, started)
    results = []
    for category in categories:
        with tags(category):
            results.append(outcome_of(config, category))
    reports = {result.category: result.report for result in results if result.report is not None}
    stages = [*checked, *(stage for result in results for stage in result.stages)]
    return concluded(config, stages, reports, started, name)


def check_inputs(config: RunConfig) -> None:
    """Raises: an error of ours if store, models or device cannot be had, before hours are spent on what needs them."""
    check_store(config.store, config.max_store_gb)
    base_digest(config.finetune)
    check_encoders(config)
    if config.device == "cuda":
        resolve_device(config.device)


def outcome_of(config: RunConfig, category: str) -> CategoryOutcome:
    """A category's outcome from its flow; one that broke outside of its stages counts as one failed stage."""
    for _ in range(2):
        state = run_category(config, category, return_state=True)
        try:
            found = state.result(raise_on_failure=False)
            break
        except MissingResult:
            # Seen twice, where the server's SQLite was locked for a minute. Its stages are done, and found so once more.
            found = RuntimeError(
                "Prefect's server lost what this category came to; the same command finds its stages done"
            )
    if isinstance(found, CategoryOutcome):
        return found
    error = found if isinstance(found, BaseException) else RuntimeError(state.message or "no reason given")
    broken = StageOutcome("category", category, None, "failed", error=error_text(error))
    return CategoryOutcome(category, (broken,))


def concluded(
    config: RunConfig,
    stages: Sequence[StageOutcome],
    reports: Mapping[str, Artifact],
    started: datetime,
    name: str,
) -> State[RunSummary]:
    """Write the run down, have it tracked, and end the flow with it."""
    summary = write_run(config, stages, reports, started=started, run=name)
    track_run(config, summary.folder, COMMAND_LINE)
    return finished(summary)


def finished(summary: RunSummary) -> State[RunSummary]:
    """The flow's final state, with the summary either way."""
    message = f"run {summary.run} {summary.state}"
    if summary.state == "completed":
        return Completed(message=message, data=summary)
    return Failed(message=message, data=summary)
