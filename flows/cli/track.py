"""`anodiff track`: finished runs in MLflow. A run is logged when it ends; what could not be logged then, is here."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.complete import DEFAULT_STORE, run_names
from flows.cli.terminal import RUN_FAILED, Quiet, Store, Verbose, out, refusing
from tasks.runtime.log import err

track_app = typer.Typer(no_args_is_help=True, help="Finished runs in MLflow: log them, look at them.")

Uri = Annotated[
    str | None,
    typer.Option(
        help="MLflow server or database; else the run's track.uri, MLFLOW_TRACKING_URI, STORE/mlflow.db."
    ),
]


@track_app.command("sync", epilog="Example:\n\nanodiff track sync")
def sync(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...", help="These: names, folders, or latest. Else all.", autocompletion=run_names
        ),
    ] = None,
    store: Store = DEFAULT_STORE,
    uri: Uri = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Log the runs of a store that are not in MLflow yet; what is there stays as it is."""
    failed = False
    with refusing(verbose, quiet=quiet):
        from tasks.store.place import open_store
        from tasks.track.mlflow_log import sync_runs
        from tasks.track.tracking import shown

        known = 0
        for each in sync_runs(open_store(store), runs or (), uri):
            failed |= bool(each.error)
            if each.error or each.to is None:
                err.print(f"{each.run}: {each.error}", style="red", highlight=False, soft_wrap=True)
            elif each.new or runs:
                said = "logged" if each.new else "is there already"
                line = f"{each.run}: {said}: {shown(each.to)}, run {each.run_id}"
                out.print(line, highlight=False, soft_wrap=True)
            known += not (each.new or each.error)
        if known and not runs:
            out.print(f"{known} runs were there already", highlight=False)
    if failed:
        raise typer.Exit(RUN_FAILED)


@track_app.command("ui", epilog="Example:\n\nanodiff track ui --port 5001")
def ui(
    store: Store = DEFAULT_STORE,
    uri: Uri = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000,
    verbose: Verbose = False,
) -> None:
    """Show the runs of a store in MLflow's own page, on this machine alone, until Ctrl-C."""
    with refusing(verbose):
        from tasks.config import TrackConfig
        from tasks.store.place import open_store
        from tasks.track.tracking import destination, show_ui

        to = destination(open_store(store), TrackConfig(), uri)
        if to.is_server:
            out.print(f"the server's own page: {to.name}", highlight=False)
            return
        if to.artifacts is not None and not Path(to.uri.removeprefix("sqlite:///")).is_file():
            out.print(f"{store}: no run is tracked there yet; anodiff track sync --store {store}")
            raise typer.Exit(RUN_FAILED)
        out.print(f"http://127.0.0.1:{port}  (Ctrl-C ends it)", highlight=False)
        code = show_ui(to, port)
    if code:
        raise typer.Exit(code)
