"""`anodiff plan` and `anodiff runs`: what a run would do and cost, and what the runs of a store came to."""

from datetime import datetime
from typing import Annotated

import typer

from flows.cli.complete import DEFAULT_STORE, run_names
from flows.cli.terminal import (
    RUN_FAILED,
    Categories,
    Changes,
    Config,
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


def plan(
    config: Config,
    data: Data = None,
    categories: Categories = None,
    defects: Defects = None,
    set_: Changes = None,
    store: OwnStore = None,
    device: OwnDevice = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Say what changed since this run; else since the latest with that stage.",
            autocompletion=run_names,
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say what `anodiff run` with the same options would do: what is cached, what not and why, how long, how much disk."""
    with refusing(verbose, quiet=quiet, as_json=as_json):
        from flows.planning import plan_run
        from tasks.runs.cost import forecast

        loaded = load(config, data, categories, defects, set_, store, device)
        planned = plan_run(loaded)
        missing = {each.out.ref for each in planned if each.outcome.status == "planned"}
        costs = forecast(loaded, [each.call for each in planned], missing, since)
    if as_json:
        from flows.cli.documents import plan_document

        print_json(plan_document(costs))
        return
    from flows.cli.tables import plan_lines, plan_table

    wide().print(plan_table(costs))
    for line in plan_lines(costs):
        out.print(line, highlight=False, soft_wrap=True, style="" if costs.fits else "yellow")


def runs(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="Show the stages of this run: its name, or latest.",
            autocompletion=run_names,
        ),
    ] = None,
    store: Store = DEFAULT_STORE,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the runs of a store, newest first; with RUN, what became of each of its stages."""
    with refusing(verbose, quiet=quiet, as_json=as_json):
        from flows.cli.documents import run_document, runs_document
        from flows.cli.tables import runs_table, stages_table
        from tasks.runs.ended import find_run, list_runs
        from tasks.store.place import open_store

        one = None if run is None else find_run(store, run)
        found = [] if one is not None else list_runs(open_store(store))
    if as_json:
        print_json(runs_document(found) if one is None else run_document(one))
    elif one is not None:
        wide().print(stages_table(one))
    elif found:
        wide().print(runs_table(found, datetime.now().astimezone().tzinfo))
    else:
        out.print(
            f"{store}: no runs; start one with `anodiff run`, or name their store with --store",
            highlight=False,
        )
    if one is None and not found:
        raise typer.Exit(RUN_FAILED)
