"""`anodiff artifacts`: what a store holds, whether it is whole, and what can go."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.table import Table

from flows.cli.complete import DEFAULT_STORE, run_names
from flows.cli.terminal import RUN_FAILED, Json, Quiet, Store, Verbose, out, print_json, refusing, wide

if TYPE_CHECKING:
    from tasks.store.upkeep import Entry

artifacts_app = typer.Typer(no_args_is_help=True, help="The store: list, verify, clear out.")

OfRun = Annotated[
    str | None,
    typer.Option(help="Only what this run refers to: its name, or latest.", autocompletion=run_names),
]


@artifacts_app.command("ls", epilog="Example:\n\nanodiff artifacts ls --stage finetune")
def ls(
    stage: Annotated[str | None, typer.Option(help="Only of this stage.")] = None,
    category: Annotated[str | None, typer.Option(help="Only of this category.")] = None,
    run: OfRun = None,
    store: Store = DEFAULT_STORE,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the artifacts of a store: what each is, its size, when it was made and by how many runs it is used."""
    with refusing(verbose, quiet=quiet, as_json=as_json):
        from tasks.store.place import open_store
        from tasks.store.upkeep import list_artifacts

        entries = list_artifacts(open_store(store), stage=stage, category=category, run=run)
    if as_json:
        from flows.cli.documents import artifacts_document

        print_json(artifacts_document(entries))
        return
    console = wide()
    if entries:
        console.print(artifacts_table(entries))
    total = sum(entry.bytes for entry in entries)
    console.print(f"{len(entries)} artifacts, {decimal(total)}", highlight=False)


@artifacts_app.command("verify", epilog="Example:\n\nanodiff artifacts verify --run latest")
def verify(
    run: OfRun = None,
    store: Store = DEFAULT_STORE,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Hash every file again and name each artifact that is damaged, or missing from the run asked for; exits with 1."""
    with refusing(verbose, quiet=quiet, as_json=as_json):
        from tasks.store.place import open_store
        from tasks.store.upkeep import damage

        checked, lines = damage(open_store(store), run)
    if as_json:
        print_json({"checked": checked, "damaged": lines})
    else:
        for line in lines:
            out.print(line, highlight=False, soft_wrap=True)
        out.print(f"{checked} artifacts, {len(lines) or 'none'} damaged or missing", highlight=False)
    if lines:
        raise typer.Exit(RUN_FAILED)


@artifacts_app.command("gc", epilog="Example:\n\nanodiff artifacts gc --keep-runs 5 --delete")
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; else it is only listed.")] = False,
    older_than: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="DAYS",
            help="Only what nobody used for so long: more than a run lasts. 0 only while no run is under way.",
        ),
    ] = 7,
    keep_runs: Annotated[
        int | None, typer.Option(min=0, help="Only the newest so many runs count; none given: all.")
    ] = None,
    store: Store = DEFAULT_STORE,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Tell what no run needs any more, and delete it with --delete; runs' own folders and tables stay."""
    with refusing(verbose, quiet=quiet, as_json=as_json):
        from tasks.store.place import open_store
        from tasks.store.upkeep import find_garbage, sweep

        folder = open_store(store)
        garbage = find_garbage(folder, older_than_days=older_than, keep_runs=keep_runs)
        deleted = sweep(folder, garbage) if delete else None
    if as_json:
        from flows.cli.documents import garbage_document

        print_json(garbage_document(garbage, deleted))
        return
    for what, found in (
        ("needed by no run", garbage.artifacts),
        ("left by stages that were stopped", garbage.leftovers),
        ("copies on this machine, unused", garbage.copies),
    ):
        for name, size in found.items():
            out.print(f"{decimal(size):>9}  {name}", highlight=False, soft_wrap=True)
        if found:
            out.print(f"{decimal(sum(found.values())):>9}  {what}: {len(found)}", highlight=False)
    if deleted is not None:
        out.print(f"{decimal(deleted)} deleted", highlight=False)
    else:
        hint = "; --delete does it" if garbage.bytes else ""
        out.print(f"{decimal(garbage.bytes)} would be deleted{hint}", highlight=False)


def artifacts_table(entries: list["Entry"]) -> Table:
    """A row an artifact."""
    table = Table(box=None, header_style="bold")
    for name in ("stage", "category", "label", "digest"):
        table.add_column(name, overflow="fold")
    for name in ("size", "made (UTC)", "seconds", "runs"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in entries:
        artifact = entry.artifact
        whole = bool(entry.created)
        table.add_row(
            artifact.stage,
            artifact.category,
            artifact.label,
            artifact.digest[:8],
            decimal(entry.bytes),
            entry.created[:16].replace("T", " ") if whole else "no manifest",
            f"{entry.seconds:.0f}" if whole else "",
            str(len(entry.runs)),
        )
    return table
