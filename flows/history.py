"""`anodiff plan` and `anodiff runs`: what a run would do and cost, and what the runs of a store came to."""

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.deliver import DEFAULT_STORE
from flows.terminal import (
    RUN_FAILED,
    Categories,
    Changes,
    Config,
    Data,
    Defects,
    OwnDevice,
    OwnStore,
    Store,
    Verbose,
    load,
    out,
    refusing,
    wide,
)

if TYPE_CHECKING:
    from tasks.estimate import Plan


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
            metavar="RUN", help="Say what changed since this run; else since the latest with that stage."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, a stage each.")] = False,
    verbose: Verbose = False,
) -> None:
    """Say what `anodiff run` with the same options would do: what is cached, what not and why, how long, how much disk."""
    with refusing(verbose):
        from flows.planning import plan_run
        from tasks.estimate import forecast

        loaded = load(config, data, categories, defects, set_, store, device)
        planned = plan_run(loaded)
        missing = {each.out.ref for each in planned if each.outcome.status == "planned"}
        costs = forecast(loaded, [each.out for each in planned], missing, since)
    if as_json:
        typer.echo(json.dumps(plan_as_json(costs), indent=1))
        return
    from flows.tables import plan_lines, plan_table

    wide().print(plan_table(costs))
    for line in plan_lines(costs):
        out.print(line, highlight=False, soft_wrap=True, style="" if costs.fits else "yellow")


def plan_as_json(costs: "Plan") -> dict[str, Any]:
    """A plan for other programs; seconds and bytes are null where they are unknown."""
    stages = [
        {
            "stage": each.out.stage,
            "category": each.out.category,
            "label": each.out.label,
            "artifact": each.out.ref,
            "status": each.status,
            "why": each.why or None,
            "seconds": None if each.cost is None else round(each.cost.seconds, 1),
            "bytes": None if each.cost is None else round(each.cost.bytes),
        }
        for each in costs.stages
    ]
    return {
        "stages": stages,
        "device": costs.device,
        "seconds": round(costs.seconds, 1),
        "bytes": round(costs.bytes),
        "unknown": costs.unknown,
        "elsewhere": costs.elsewhere,
        "free_bytes": costs.free_bytes,
        "fits": costs.fits,
    }


def runs(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Show the stages of this run: its name, or latest.")
    ] = None,
    store: Store = DEFAULT_STORE,
    verbose: Verbose = False,
) -> None:
    """List the runs of a store, newest first; with RUN, what became of each of its stages."""
    with refusing(verbose):
        from flows.tables import runs_table, stages_table
        from tasks.runs import find_run, list_runs
        from tasks.store import open_store

        if run is not None:
            wide().print(stages_table(find_run(store, run)))
            return
        found = list_runs(open_store(store))
        if not found:
            out.print(f"{store}: no runs", highlight=False)
            raise typer.Exit(RUN_FAILED)
        wide().print(runs_table(found, datetime.now().astimezone().tzinfo))
