"""`anodiff report`: a run's report as one HTML file."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.deliver import DEFAULT_STORE, Data, RunName, Store
from flows.cli.terminal import Verbose, out, refusing


def report(
    run: RunName,
    file: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to; else report.html in the run's folder."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    data: Data = None,
    store: Store = DEFAULT_STORE,
    verbose: Verbose = False,
) -> None:
    """Write a run's report: one HTML file with its verdict, figures and pictures, that needs no network."""
    with refusing(verbose):
        from tasks.report.run_page import write_page
        from tasks.runs.ended import find_run
        from tasks.stages.page import make_pages

        found = find_run(store, run, data=data)
        path = write_page(found, make_pages(found), file)
    out.print(str(path), highlight=False, soft_wrap=True)
    if open_:
        webbrowser.open(path.resolve().as_uri())
