"""`anodiff`: parse, call a flow, print.

Exit codes: 0 done; 1 a run in which something failed; 2 bad input, refused before anything was trained.
Imports of pandas, Prefect and torch wait until a command needs them: `--help` answers in half a second.
"""

import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console

if TYPE_CHECKING:
    from prefect import State

    from tasks.report import RunSummary

RUN_FAILED, BAD_INPUT = 1, 2

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Few-shot anomaly augmentation.")
data_app = typer.Typer(no_args_is_help=True, help="The pictures: check a folder, draw a demo set.")
adapter_app = typer.Typer(no_args_is_help=True, help="Fine-tuned generators.")
app.add_typer(data_app, name="data")
app.add_typer(adapter_app, name="adapter")

out = Console()
err = Console(stderr=True)

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks and Prefect's own log.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto: CUDA where there is one, else the CPU.")
]


@app.command()
def run(
    config: Annotated[str, typer.Option(help="A preset (demo, cpu, mvtec, paper) or a YAML file.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder in MVTec AD layout: a category, or several.")
    ] = None,
    categories: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    defects: Annotated[str | None, typer.Option(help="Only these defect types, separated by commas.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value: a.b=c, as often as needed.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Folder of artifacts and runs.")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None,
        typer.Option(help="auto: CUDA where there is one, else the CPU."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Run all stages; finished ones are not done again, so the same command resumes a stopped run."""
    with refusing(verbose):
        from tasks.config import load_config

        loaded = load_config(
            config,
            set_ or [],
            data=data,
            categories=_names(categories),
            defects=_names(defects),
            store=store,
            device=device,
        )
        from tasks.server import start_server

        wait_until_up = start_server()
        from flows.augmentation import augment

        wait_until_up()
        state: State[Any] = augment(loaded, return_state=True)
        summary = state.result(raise_on_failure=False)
        if isinstance(summary, BaseException):
            raise summary  # by the flow itself, not by one of its stages
    print_summary(summary)
    if summary.state == "refused":
        raise typer.Exit(BAD_INPUT)
    if summary.state == "failed":
        err.print("Run it again with the same command; what is finished is kept:", highlight=False)
        err.print(f"  {shlex.join(_command())}", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(RUN_FAILED)


@app.command()
def generate(
    adapter: Annotated[Path, typer.Argument(help="Folder of a fine-tuned adapter.")],
    folder: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder for image/, anomaly/, mask/, pairs.parquet.")
    ],
    num_pairs: Annotated[int, typer.Option(min=1, help="Pairs to draw.")] = 8,
    config: Annotated[
        str | None, typer.Option(help="Take the section `generate` of this preset or YAML file.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value: generate.guidance_scale=3.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the pairs.")] = 0,
    device: Device = "auto",
    verbose: Verbose = False,
) -> None:
    """Draw pairs with a fine-tuned adapter, without a run."""
    with refusing(verbose):
        from tasks.config import load_config
        from tasks.generate import build_generate

        changes = [*(set_ or []), f"generate.num_pairs={num_pairs}"]
        loaded = load_config(config or "mvtec", changes, data=Path())
        build_generate(adapter, loaded.generate, folder, device=device, seed=seed)
    out.print(f"{num_pairs} pairs in {folder}", highlight=False)


@data_app.command("check")
def data_check(path: Path, verbose: Verbose = False) -> None:
    """List every fault of a data folder, with the file's name and what to do."""
    with refusing(verbose):
        from tasks.prepare import check_data

        lines, refused = check_data(path)
    if lines:
        out.print(lines, highlight=False, markup=False, soft_wrap=True)
    if refused:
        raise typer.Exit(BAD_INPUT)
    out.print(f"{path}: nothing that a run would refuse", highlight=False)


@data_app.command("demo")
def data_demo(
    path: Path,
    categories: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawings.")] = 0,
    verbose: Verbose = False,
) -> None:
    """Draw a small data set in MVTec AD layout, with exact masks."""
    with refusing(verbose):
        from tasks.prepare import draw_demo_data

        draw_demo_data(path, _names(categories), seed)
    out.print(f"demo data in {path}", highlight=False)


@adapter_app.command("export")
def adapter_export(
    adapter: Annotated[Path, typer.Argument(help="Folder of a fine-tuned adapter.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the LoRA file.")],
    verbose: Verbose = False,
) -> None:
    """Write the image branch as a LoRA that plain StableDiffusionPipeline.load_lora_weights reads."""
    with refusing(verbose):
        from tasks.finetune import export_adapter

        export_adapter(adapter, folder)
    out.print(f"LoRA in {folder}", highlight=False)


class Lines(logging.Handler):
    """Log lines on stderr, whatever that is by now: a terminal, a file, a test's buffer."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "red" if record.levelno >= logging.ERROR else ""
        err.print(self.format(record), style=style, highlight=False, markup=False, soft_wrap=True)


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


def set_up_logging(verbose: bool) -> None:
    """Our own lines to the terminal; Prefect's only with -v. Before Prefect is imported: it reads this once."""
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "INFO" if verbose else "CRITICAL"
    logger = logging.getLogger("anodiff")
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Prefect's console handler sits on the root logger
    if not any(isinstance(handler, Lines) for handler in logger.handlers):
        handler = Lines()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)


def print_summary(summary: "RunSummary") -> None:
    """Tables, then what was cached, then where the pictures are."""
    from flows.tables import failures_table, figures_table, incomplete_categories, lift_table, stage_line

    # A log file has no width: there a table takes the room that it needs.
    console = out if out.is_terminal else Console(width=160)
    if len(summary.metrics):
        for model in summary.metrics["model"].unique():
            console.print(figures_table(summary, model))
    if len(summary.lift):
        console.print(lift_table(summary))
    if any(stage.status not in ("ran", "cached") for stage in summary.stages):
        console.print(failures_table(summary))
    if summary.state != "completed" and len(summary.metrics):
        console.print(f"Figures lack what failed in: {', '.join(incomplete_categories(summary))}")
    console.print(f"run {summary.run} {summary.state}: {stage_line(summary)}", highlight=False)
    console.print(f"{summary.folder}", highlight=False, soft_wrap=True)
    for sheet in summary.sheets:
        console.print(f"{sheet}", highlight=False, soft_wrap=True)


def _names(text: str | None) -> tuple[str, ...] | None:
    """Names separated by commas."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _command() -> list[str]:
    """This command line, as one can type it again."""
    return ["anodiff", *sys.argv[1:]]


def main() -> None:
    """Console script."""
    app()


if __name__ == "__main__":
    main()
