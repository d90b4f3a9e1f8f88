"""`anodiff doctor`: whether this machine has what a run needs, and what to do where it has not."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from flows.cli.complete import presets
from flows.cli.terminal import (
    RUN_FAILED,
    Changes,
    Data,
    Json,
    OwnDevice,
    OwnStore,
    Quiet,
    Verbose,
    load,
    out,
    print_json,
    refusing,
    wide,
)

if TYPE_CHECKING:
    from tasks.doctor.finding import Finding

STYLES = {"ok": "green", "warning": "yellow", "fault": "red"}


def doctor(
    config: Annotated[
        str,
        typer.Option(
            help="Look for what this preset or YAML file needs, such as its base model.",
            autocompletion=presets,
        ),
    ] = "cpu",
    data: Data = None,
    set_: Changes = None,
    store: OwnStore = None,
    device: OwnDevice = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """See whether a run could start here: device, memory, disk, servers, weights, versions. Exits with 1 if not."""
    with refusing(verbose, quiet=quiet, as_json=as_json):
        from tasks.doctor.checks import examine

        loaded = load(config, data or Path(), None, None, set_, store, device)
        findings = examine(loaded, has_data=data is not None)
    faults = sum(finding.state == "fault" for finding in findings)
    if as_json:
        rows = [{"what": f.what, "state": f.state, "found": f.found, "fix": f.fix or None} for f in findings]
        print_json({"findings": rows, "can_run": not faults})
    else:
        wide().print(findings_table([finding for finding in findings if not quiet or finding.state != "ok"]))
        out.print(
            f"{faults} fault(s): a run cannot start or end like this" if faults else "a run can start",
            style="red" if faults else "green",
            highlight=False,
        )
    if faults:
        raise typer.Exit(RUN_FAILED)


def findings_table(findings: list["Finding"]) -> Table:
    """A row a finding, what to do about it below."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for finding in findings:
        style = STYLES[finding.state]
        table.add_row(
            Text(finding.state, style),
            finding.what,
            f"{finding.found}\n  → {finding.fix}" if finding.fix else finding.found,
        )
    return table
