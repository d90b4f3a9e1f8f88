"""`anodiff review`: look through a run's pairs in the browser, accept or reject them, paint masks anew."""

import threading
import webbrowser
from contextlib import suppress
from typing import Annotated

import typer

from flows.cli.deliver import DEFAULT_STORE, Category, RunName
from flows.cli.deliver import Data as MovedData
from flows.cli.terminal import Store, Verbose, out, refusing


def review(
    run: RunName = "latest",
    category: Category = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of this machine; the first free one from 7860.")
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open the browser.")] = False,
    data: MovedData = None,
    store: Store = DEFAULT_STORE,
    verbose: Verbose = False,
) -> None:
    """Accept or reject a run's pairs in the browser, by key, and paint masks anew; the next run uses what you decided."""
    with refusing(verbose):
        from tasks.review.desk import Desk
        from tasks.review.page import load_gradio, page_of, served
        from tasks.runs.ended import find_run

        load_gradio()  # what is missing is said before thousands of pictures are looked at
        desk = Desk(find_run(store, run, data=data), category)
        with served(page_of(desk), port) as address:
            out.print(
                f"review of {desk.run.name}: {address} (Ctrl-C ends it)", highlight=False, soft_wrap=True
            )
            if not no_open:
                webbrowser.open(address)
            with suppress(KeyboardInterrupt):  # how it is meant to end
                threading.Event().wait()
    out.print(
        f"{desk.summary()}; `anodiff run` with the same configuration uses them",
        highlight=False,
        soft_wrap=True,
    )
