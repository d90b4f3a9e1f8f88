"""What every command shares: the terminal, the log on it, options of a configuration, and errors as one message.

Exit codes: 0 done; 1 a run in which something failed; 2 bad input, refused before anything was trained; 130 and 143
stopped by Ctrl-C and by SIGTERM.

With --json a command writes one JSON document to stdout, of an error {"error": …, "exit_code": …}, and nothing else.
"""

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from flows.cli.complete import categories, presets
from tasks.runtime.log import err, set_up_logging

if TYPE_CHECKING:
    from tasks.config import RunConfig

# Packages that only some commands need, and the extra of ours that brings them.
EXTRAS = {
    "gradio": "review",
    "mlflow": "tracking",
    "openvino": "openvino",
    "prefect_dask": "dask",
    "s3fs": "s3",
    "torch_fidelity": "quality",
}

RUN_FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143

# Names and messages are shown as they are: [brackets] in them are no markup.
out = Console(markup=False)

ORDER = [
    *("doctor", "data", "plan", "run"),
    *("runs", "rerun", "report", "compare", "track"),
    *("generate", "review", "handover", "export", "adapter"),
    *("artifacts", "deploy"),
]
# Panels of `anodiff --help`, in their order.
START, RUNS, PAIRS, UPKEEP = "Start here", "Runs", "Pairs and models", "Upkeep"

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks and Prefect's own log.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Only the result; of the log only warnings and errors.")
]
Json = Annotated[bool, typer.Option("--json", help="The result as one JSON document on stdout.")]
Config = Annotated[
    str, typer.Option(help="A preset (demo, cpu, mvtec, paper) or a YAML file.", autocompletion=presets)
]
Data = Annotated[Path | None, typer.Option(help="Folder in MVTec AD layout: a category, or several.")]
Categories = Annotated[
    str | None, typer.Option(help="Only these, separated by commas.", autocompletion=categories)
]
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


class InOrder(TyperGroup):
    """Commands in the help as a newcomer needs them, groups among them."""

    def list_commands(self, ctx: Any) -> list[str]:
        known = super().list_commands(ctx)
        return sorted(known, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def wide() -> Console:
    """Where tables go: a log file has no width, there a table takes the room that it needs."""
    return out if out.is_terminal else Console(width=160, markup=False)


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
    from tasks.errors import ConfigError

    try:
        return load_config(
            config,
            changes or [],
            data=data,
            categories=names(categories),
            defects=names(defects),
            store=store,
            device=device,
        )
    except ConfigError as error:
        if data is None and "\n  data: missing" in str(error):
            raise ConfigError(
                f"{error}\n  Give it as --data; to have some: anodiff data demo my-data"
            ) from error
        raise


class Terminated(BaseException):
    """SIGTERM came."""


@contextmanager
def refusing(verbose: bool, *, quiet: bool = False, as_json: bool = False) -> Iterator[None]:
    """Print our own errors as one message and exit; others too, unless -v asks for the traceback.

    `quiet` holds within. With `as_json` stdout is kept free for the document that `print_json` writes afterwards.
    """
    set_up_logging(verbose, quiet)
    try:
        with terminable(), stdout_kept() if as_json else nullcontext():
            yield
    except typer.Exit:
        raise
    except typer.BadParameter as error:
        if as_json:
            print_json({"error": error.message, "exit_code": BAD_INPUT})
        raise
    except KeyboardInterrupt:
        _stop("stopped; the same command resumes", INTERRUPTED, as_json)
    except Terminated:
        _stop("stopped by SIGTERM; the same command resumes", TERMINATED, as_json)
    except Exception as error:
        if verbose:
            raise
        from tasks.runtime.stage import OUR_ERRORS, error_text

        if isinstance(error, OUR_ERRORS):
            _stop(error_text(error), BAD_INPUT, as_json)
        if (text := system_fault(error)) is not None:
            _stop(text, RUN_FAILED, as_json)
        _stop(f"{error_text(error)}\n(-v shows where)", RUN_FAILED, as_json)
    except BaseException as error:
        # Prefect's, which a stage or flow raises on SIGTERM; not imported, for most commands need no Prefect.
        if type(error).__name__ != "TerminationSignal":
            raise
        _stop("stopped by SIGTERM; the same command resumes", TERMINATED, as_json)
    finally:
        set_up_logging(verbose, False)


def system_fault(error: Exception) -> str | None:
    """What the system refused, in words that say what to do; None for any other error."""
    match error:
        case PermissionError():
            return f"{error.filename}: no permission; choose another folder, or change who may write there"
        case NotADirectoryError() | FileExistsError():
            return f"{error.filename}: is no folder; give one, or a name that is still free"
        case OSError(errno=errno.ENOSPC):
            where = f"{error.filename}: " if error.filename else ""
            return f"{where}the disk is full; see `anodiff artifacts gc`, or give another disk's folder as --store"
        case OSError(errno=errno.EADDRINUSE):
            return "the port is in use; end what listens there, or name another with --port"
        case ModuleNotFoundError(name=str() as name):
            package = name.partition(".")[0]
            extra = EXTRAS.get(package)
            return f"{package} is not installed; pip install " + (
                f"'dualanodiff[{extra}]'" if extra else f"{package}, or install the project again"
            )
    return None


@contextmanager
def stdout_kept() -> Iterator[None]:
    """Within, what anything prints, worker processes too, goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def print_json(document: object) -> None:
    """One JSON document on stdout; what is no number, such as the AUROC of one class, is null."""
    typer.echo(json.dumps(document, indent=1, default=str, allow_nan=False))


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


def _stop(message: str, code: int, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"error": message, "exit_code": code})
    err.print(f"anodiff: {message}", style="red", highlight=False, soft_wrap=True)
    raise typer.Exit(code)
