"""What every command shares: the terminal, the log on it, and errors as one message.

Exit codes: 0 done; 1 a run in which something failed; 2 bad input, refused before anything was trained.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from tasks.log import err, set_up_logging

RUN_FAILED, BAD_INPUT = 1, 2

out = Console()

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks and Prefect's own log.")]


@contextmanager
def refusing(verbose: bool) -> Iterator[None]:
    """Print our own errors as one message and exit; others too, unless -v asks for the traceback."""
    set_up_logging(verbose)
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        _stop("stopped; the same command resumes", 130)
    except Exception as error:
        if verbose:
            raise
        from tasks.runtime import OUR_ERRORS, error_text

        if isinstance(error, OUR_ERRORS):
            _stop(error_text(error), BAD_INPUT)
        _stop(f"{error_text(error)}\n(-v shows where)", RUN_FAILED)


def _stop(message: str, code: int) -> NoReturn:
    err.print(f"anodiff: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(code)
