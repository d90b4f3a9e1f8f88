"""What every command shares: the terminal, the log on it, options of a configuration, and errors as one message.

Exit codes: 0 done; 1 a run in which something failed; 2 bad input, refused before anything was trained; 130 and 143
stopped by Ctrl-C and by SIGTERM.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console

from tasks.log import err, set_up_logging

if TYPE_CHECKING:
    from tasks.config import RunConfig

RUN_FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143

out = Console()

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks and Prefect's own log.")]
Config = Annotated[str, typer.Option(help="A preset (demo, cpu, mvtec, paper) or a YAML file.")]
Data = Annotated[Path | None, typer.Option(help="Folder in MVTec AD layout: a category, or several.")]
Categories = Annotated[str | None, typer.Option(help="Only these, separated by commas.")]
Defects = Annotated[str | None, typer.Option(help="Only these defect types, separated by commas.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Change a value: a.b=c, as often as needed.")
]
Store = Annotated[
    Path, typer.Option(help="Folder of artifacts and runs, or a URL such as s3://bucket/folder.")
]
OwnStore = Annotated[
    Path | None, typer.Option(help="Folder of artifacts and runs, or a URL such as s3://bucket/folder.")
]
OwnDevice = Annotated[
    Literal["auto", "cpu", "cuda"] | None,
    typer.Option(help="auto: CUDA where there is one, else the CPU."),
]


def wide() -> Console:
    """Where tables go: a log file has no width, there a table takes the room that it needs."""
    return out if out.is_terminal else Console(width=160)


def load(
    config: str,
    data: Path | None,
    categories: str | None,
    defects: str | None,
    changes: list[str] | None,
    store: Path | None,
    device: str | None,
) -> "RunConfig":
    """The configuration that a command's options ask for. Raises: ConfigError."""
    from tasks.config import load_config

    return load_config(
        config,
        changes or [],
        data=data,
        categories=names(categories),
        defects=names(defects),
        store=store,
        device=device,
    )


class Terminated(BaseException):
    """SIGTERM came."""


@contextmanager
def refusing(verbose: bool) -> Iterator[None]:
    """Print our own errors as one message and exit; others too, unless -v asks for the traceback."""
    set_up_logging(verbose)
    try:
        with terminable():
            yield
    except (typer.Exit, typer.BadParameter):
        raise
    except KeyboardInterrupt:
        _stop("stopped; the same command resumes", INTERRUPTED)
    except Terminated:
        _stop("stopped by SIGTERM; the same command resumes", TERMINATED)
    except Exception as error:
        if verbose:
            raise
        from tasks.runtime import OUR_ERRORS, error_text

        if isinstance(error, OUR_ERRORS):
            _stop(error_text(error), BAD_INPUT)
        _stop(f"{error_text(error)}\n(-v shows where)", RUN_FAILED)
    except BaseException as error:
        # Prefect's, which a stage or flow raises on SIGTERM; not imported, for most commands need no Prefect.
        if type(error).__name__ != "TerminationSignal":
            raise
        _stop("stopped by SIGTERM; the same command resumes", TERMINATED)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends what is within as an exception does, so that locks, pools and records are left in order."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def names(text: str | None) -> tuple[str, ...] | None:
    """Names separated by commas."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _stop(message: str, code: int) -> NoReturn:
    err.print(f"anodiff: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(code)
