"""Runs compared by Prefect: as a deployment it can be started in the UI, which then shows what came of it."""

from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from tasks.compare.comparison import compare_runs, find_runs
from tasks.compare.ui import show_comparison
from tasks.store.place import open_store


def comparison_name() -> str:
    """What the run is called in Prefect's UI."""
    asked: list[str] = flow_run.parameters["runs"]
    return " / ".join(asked[:3]) + (f" and {len(asked) - 3} more" if len(asked) > 3 else "") or "the last two"


@flow(name="comparison", flow_run_name=comparison_name, persist_result=False)
def compare(
    store: Annotated[str, Field(description="Folder of artifacts and runs, or a URL.")],
    runs: Annotated[
        list[str],
        Field(
            description="Names of runs, or latest; the first is what the others are compared with. None: the last two."
        ),
    ] = [],  # noqa: B006  (Prefect's form shows it, nobody changes it)
) -> None:
    """Put runs beside each other: figures and verdicts as artifacts in Prefect's UI."""
    show_comparison(compare_runs(find_runs(runs, [open_store(Path(store))])))
