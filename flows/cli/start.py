"""`anodiff run` and `anodiff rerun`: start a flow, wait for it, print what came of it."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.complete import DEFAULT_STORE, presets
from flows.cli.deliver import RunName
from flows.cli.terminal import (
    BAD_INPUT,
    RUN_FAILED,
    Categories,
    Changes,
    Data,
    Defects,
    Json,
    OwnDevice,
    OwnStore,
    Quiet,
    Store,
    Verbose,
    load,
    out,
    print_json,
    refusing,
    wide,
)
from tasks.runtime.log import err

if TYPE_CHECKING:
    from prefect import State

    from tasks.config import RunConfig
    from tasks.report.run_folder import RunSummary


def run(
    config: Annotated[
        str | None,
        typer.Option(help="A preset (demo, cpu, mvtec, paper) or a YAML file.", autocompletion=presets),
    ] = None,
    data: Data = None,
    categories: Categories = None,
    defects: Defects = None,
    set_: Changes = None,
    store: OwnStore = None,
    device: OwnDevice = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Go on with a run that was stopped, instead of --config: its name, or latest."
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run all stages; finished ones are not done again, so the same command resumes a stopped run."""
    with refusing(verbose, quiet=quiet, as_json=as_json):
        if (config is None) == (resume is None):
            raise typer.BadParameter("give --config, or --resume with the name of a stopped run")
        if config is not None:
            summary = start(load(config, data, categories, defects, set_, store, device))
        elif set_ or categories or defects or device:
            raise typer.BadParameter(
                "--resume takes the run's own configuration; besides it only --store, --data"
            )
        else:
            summary = go_on(store or DEFAULT_STORE, str(resume), data)
    end(summary, as_json)


def rerun(
    run: RunName,
    failed: Annotated[
        bool, typer.Option("--failed", help="The categories in which something failed.")
    ] = False,
    category: Annotated[str | None, typer.Option(help="This category.")] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STAGE",
            help="Make this stage of the category again, and all after it, though they are finished.",
        ),
    ] = None,
    data: Data = None,
    store: Store = DEFAULT_STORE,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a part of an ended run again with its own configuration; a whole new run comes of it, the rest taken over."""
    with refusing(verbose, quiet=quiet, as_json=as_json):
        if failed == (category is not None) or (from_ is not None and category is None):
            raise typer.BadParameter("give --failed, or --category C and, if wanted, --from STAGE")
        from flows.rerun import Rerun, asked_again, what_failed
        from tasks.runs.ended import find_run

        found = find_run(store, run, data=data)
        if category is not None:
            asked: Rerun | None = asked_again(found, category, from_)
        else:
            lacking = tuple(what_failed(found))
            asked = Rerun(run=found.name, categories=lacking) if lacking else None
        summary = None if asked is None else start(found.config, asked.model_dump())
    if summary is not None:
        end(summary, as_json)
    elif as_json:
        from flows.cli.documents import run_document

        print_json(run_document(found))
    else:
        out.print(f"run {found.name}: nothing failed", highlight=False)


def go_on(store: Path, name: str, data: Path | None) -> "RunSummary":
    """Start a stopped run again. Raises: AnodiffError if there is none."""
    from tasks.config import RunConfig
    from tasks.runs.under_way import find_stopped
    from tasks.store.place import open_store

    stopped = find_stopped(open_store(store), name)
    values = {**stopped.config, "store": store} | ({} if data is None else {"data": data})
    return start(RunConfig.model_validate(values), stopped.rerun)


def start(config: "RunConfig", asked: "Any | None" = None) -> "RunSummary":
    """Run the full flow, or that of a rerun, its stages' bars on the terminal."""
    from tasks.runtime.server import start_server

    wait_until_up = start_server()
    from flows.augmentation import augment
    from flows.rerun import Rerun, rerun
    from tasks.runtime.board import board_shown

    wait_until_up()
    with board_shown():
        state: State[Any] = (
            augment(config, return_state=True)
            if asked is None
            else rerun(config, Rerun.model_validate(asked), return_state=True)
        )
    summary = state.result(raise_on_failure=False)
    if isinstance(summary, BaseException):
        raise summary  # by the flow itself, not by one of its stages
    return summary


def end(summary: "RunSummary", as_json: bool) -> None:
    """Say what came of a run, and leave with its exit code."""
    if as_json:
        from flows.cli.documents import summary_document

        print_json(summary_document(summary))
    else:
        print_summary(summary)
    if summary.state == "refused":
        raise typer.Exit(BAD_INPUT)
    if summary.state == "failed":
        err.print("Run it again with the same command; what is finished is kept:", highlight=False)
        err.print(f"  {shlex.join(_command())}", highlight=False, soft_wrap=True)
        raise typer.Exit(RUN_FAILED)


def print_summary(summary: "RunSummary") -> None:
    """Tables, then what was cached, then where the pictures are."""
    from flows.cli.tables import incomplete_categories, stage_line, tables_of
    from tasks.report.run_page import REPORT

    console = wide()
    for table in tables_of(summary):
        console.print(table)
    if summary.state != "completed" and len(summary.metrics):
        console.print(f"Figures lack what failed in: {', '.join(incomplete_categories(summary))}")
    console.print(f"run {summary.run} {summary.state}: {stage_line(summary)}", highlight=False)
    console.print(f"{summary.folder}", highlight=False, soft_wrap=True)
    for page in summary.folder.glob(REPORT):
        console.print(f"{page}", highlight=False, soft_wrap=True)
    for sheet in summary.sheets:
        console.print(f"{sheet}", highlight=False, soft_wrap=True)


def _command() -> list[str]:
    """This command line, as one can type it again."""
    return ["anodiff", *sys.argv[1:]]
