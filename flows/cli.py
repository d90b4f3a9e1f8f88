"""`anodiff`: parse, call a flow, print.

Imports of pandas, Prefect and torch wait until a command needs them: `--help` answers in half a second.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.deliver import export, handover
from flows.deploy import deploy
from flows.history import plan, runs
from flows.start import rerun, run
from flows.terminal import BAD_INPUT, Verbose, names, out, refusing
from flows.upkeep import artifacts_app

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Few-shot anomaly augmentation.")
data_app = typer.Typer(no_args_is_help=True, help="The pictures: check a folder, draw a demo set.")
adapter_app = typer.Typer(no_args_is_help=True, help="Fine-tuned generators.")
app.add_typer(data_app, name="data")
app.add_typer(adapter_app, name="adapter")
app.add_typer(artifacts_app, name="artifacts")
for command in (run, plan, runs, rerun):
    app.command()(command)

Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto: CUDA where there is one, else the CPU.")
]


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
    where: Annotated[
        str | None,
        typer.Option(
            metavar="BOX|FILE",
            help="Defects there: x0,y0,x1,y1 in shares of the picture or px of it, or a mask file.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="MIN-MAX|shots",
            help="Defects as large, at random places (in --where): shares of the side, 0.05-0.2.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the pairs.")] = 0,
    device: Device = "auto",
    verbose: Verbose = False,
) -> None:
    """Draw pairs with a fine-tuned adapter, without a run."""
    with refusing(verbose):
        from tasks.config import load_config
        from tasks.generate import build_generate

        changes = [*(set_ or []), f"generate.num_pairs={num_pairs}", *_wish(where, size)]
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

        draw_demo_data(path, names(categories), seed)
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


app.command()(export)
app.command()(handover)
app.command()(deploy)


def _wish(where: str | None, size: str | None) -> list[str]:
    """--where and --size as changes of the configuration. Raises: ConfigError if one can't be read."""
    from tasks.errors import ConfigError

    changes = []
    if where is not None:
        try:
            box = [float(number) for number in where.split(",")]
        except ValueError:
            if not Path(where).is_file():
                raise ConfigError(
                    f"--where: {where!r} is neither a box x0,y0,x1,y1 nor a mask file"
                ) from None
            changes.append(f"generate.where.region={json.dumps(where)}")
        else:
            if len(box) != 4:
                raise ConfigError(f"--where: {where!r} has {len(box)} numbers; a box is x0,y0,x1,y1")
            changes.append(f"generate.where.region={box}")
    if size == "shots":
        changes.append("generate.where.size=shots")
    elif size is not None:
        try:
            low, high = (float(number) for number in size.split("-"))
        except ValueError:
            raise ConfigError(f"--size: {size!r} is no MIN-MAX such as 0.05-0.2, nor 'shots'") from None
        changes.append(f"generate.where.size=[{low}, {high}]")
    return changes


def main() -> None:
    """Console script."""
    app()


if __name__ == "__main__":
    main()
