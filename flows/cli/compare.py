"""`anodiff compare`: two runs or twenty beside each other."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.complete import DEFAULT_STORE
from flows.cli.terminal import Json, Quiet, Verbose, names, out, print_json, refusing, wide

MAIN = "image_auroc,pixel_ap,aupro,accuracy"


def known_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """What the shell is offered: the runs of the stores that are named, newest first, and latest."""
    stores = [Path(each) for each in ctx.params.get("store") or [DEFAULT_STORE]]
    ended = {path.parent.name for store in stores for path in store.glob("runs/*/run.json")}
    return [name for name in ["latest", *sorted(ended, reverse=True)] if name.startswith(incomplete)]


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Names, folders, or latest; the first is what the others are compared with. None: the last two.",
            autocompletion=known_runs,
        ),
    ] = None,
    store: Annotated[
        list[Path] | None,
        typer.Option(help="Folder or URL of runs; give it again for runs of several stores."),
    ] = None,
    metrics: Annotated[
        str, typer.Option(help="To print, separated by commas, or all. Files hold all of them.")
    ] = MAIN,
    categories: Annotated[
        str | None, typer.Option(help="Only these, separated by commas; their figures are all printed.")
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=100, max=100_000, help="Redraws of the test pictures behind each interval.")
    ] = 500,
    csv: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write everything to this file, as one page.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare runs: figures with differences and intervals, configuration, categories, cost.

    Where two runs were not tested on the same pictures, the category is not compared, and it is said why.
    """
    with refusing(verbose, quiet=quiet, as_json=as_json):
        from tasks.compare.comparison import as_json as document_of
        from tasks.compare.comparison import check_writable, compare_runs, find_runs, write_table
        from tasks.compare.page import write_page
        from tasks.store.place import open_store

        check_writable({".csv": csv, ".parquet": parquet, ".html": html})
        stores = [open_store(each) for each in store or (DEFAULT_STORE,)]
        comparison = compare_runs(
            find_runs(runs or (), stores), resamples=resamples, categories=names(categories)
        )
        for path in (csv, parquet):
            if path is not None:
                write_table(comparison.figures, path)
        if html is not None:
            write_page(comparison, html)
    if as_json:
        print_json(document_of(comparison))
        return
    from flows.cli.compare_tables import tables_of

    known = list(dict.fromkeys(comparison.figures["metric"]))
    console = wide()
    chosen = known if metrics == "all" else names(metrics) or ()
    for table in tables_of(comparison, chosen, all_figures=categories is not None):
        console.print(table)
    for path in (csv, parquet, html):
        if path is not None:
            out.print(str(path), highlight=False, soft_wrap=True)
