"""Every command of `anodiff`, its place in the help, and an example.

Imports of pandas, Prefect and torch wait until a command needs them: `--help` answers in half a second.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.compare import compare
from flows.cli.deliver import export, handover
from flows.cli.deploy import deploy
from flows.cli.doctor import doctor
from flows.cli.history import plan, runs
from flows.cli.report import report
from flows.cli.review import review
from flows.cli.start import rerun, run
from flows.cli.terminal import (
    BAD_INPUT,
    PAIRS,
    RUNS,
    START,
    UPKEEP,
    InOrder,
    Json,
    Quiet,
    Verbose,
    names,
    out,
    print_json,
    refusing,
)
from flows.cli.track import track_app
from flows.cli.upkeep import artifacts_app

QUICK_START = """
Quick start, no GPU needed; then with Stable Diffusion on your own pictures:

anodiff data demo my-data

anodiff run --config demo --data my-data

anodiff run --config mvtec --data PATH
"""

app = typer.Typer(
    cls=InOrder,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Draw more of the defects that you have a handful of, train inspection models on them, and see if it helped.",
    epilog=QUICK_START,
)
data_app = typer.Typer(no_args_is_help=True, help="The pictures: check a folder, draw a demo set.")
adapter_app = typer.Typer(no_args_is_help=True, help="Fine-tuned generators.")


def example(*lines: str) -> str:
    """Below a command's help."""
    return "Example:\n\n" + "\n\n".join(lines)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"anodiff {version('dualanodiff')}, Python {sys.version.split()[0]}")
        raise typer.Exit


DataPath = Annotated[Path, typer.Argument(help="A category in MVTec AD layout, or a folder of several.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto: CUDA where there is one, else the CPU.")
]


@app.callback()
def _anodiff(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def generate(
    adapter: Annotated[Path, typer.Argument(help="Folder of a fine-tuned adapter.")],
    folder: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder for image/, anomaly/, mask/, pairs.parquet.")
    ],
    num_pairs: Annotated[int, typer.Option(min=1, help="Pairs to draw.")] = 8,
    config: Annotated[
        str | None,
        typer.Option(help="Take the sections `generate` and `objects` of this preset or YAML file."),
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
    backgrounds: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Normal pictures, or a category with train/good, for an adapter trained with backgrounds.",
        ),
    ] = None,
    shots: Annotated[
        Path | None,
        typer.Option(
            metavar="CATEGORY",
            help="Start from the shots in this folder (test/DEFECT, ground_truth/DEFECT): their defects, drawn anew in its "
            "normals (train/good). Without it pairs start from noise.",
        ),
    ] = None,
    defect: Annotated[
        str | None, typer.Option(help="Defect type of the shots, for an adapter that lies in no store.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the pairs.")] = 0,
    device: Device = "auto",
    verbose: Verbose = False,
) -> None:
    """Draw pairs with a fine-tuned adapter, without a run."""
    with refusing(verbose):
        from tasks.config import load_config
        from tasks.stages.generate import build_generate
        from tasks.stages.objects import find_backgrounds
        from tasks.stages.redraw import redraw_shots

        changes = [*(set_ or []), f"generate.num_pairs={num_pairs}", *_wish(where, size)]
        loaded = load_config(config or "mvtec", changes, data=Path())
        if shots is not None:
            if backgrounds or where or size:
                raise typer.BadParameter(
                    "goes without --backgrounds, --where and --size", param_hint="--shots"
                )
            redraw_shots(shots, defect, adapter, loaded.generate, folder, device=device, seed=seed)
            out.print(f"{num_pairs} pairs in {folder}", highlight=False)
            return
        normals = (
            []
            if backgrounds is None
            else find_backgrounds(backgrounds, adapter, loaded.objects, folder / "objects", seed=seed)
        )
        build_generate(adapter, loaded.generate, folder, device=device, seed=seed, backgrounds=normals)
    out.print(f"{num_pairs} pairs in {folder}", highlight=False)


def data_check(path: DataPath, quiet: Quiet = False, as_json: Json = False, verbose: Verbose = False) -> None:
    """List every fault of a data folder, with the file's name and what to do."""
    with refusing(verbose, quiet=quiet, as_json=as_json):
        from tasks.data.faults import faults_text, has_errors
        from tasks.data.samples import counts_text, find_categories, read_dataset
        from tasks.data.split import SplitConfig, check_and_split

        samples = read_dataset(path)
        _, faults = check_and_split(samples, find_categories(path), SplitConfig())
    if as_json:
        from flows.cli.documents import faults_document

        print_json(faults_document(str(path), faults))
    elif faults:
        out.print(faults_text(faults, path), highlight=False, soft_wrap=True)
    if not as_json:
        out.print(counts_text(samples), highlight=False, soft_wrap=True)
    if has_errors(faults):
        raise typer.Exit(BAD_INPUT)
    if not as_json:
        out.print(f"{path}: nothing that a run would refuse", highlight=False)


def data_demo(
    path: Annotated[Path, typer.Argument(help="New folder.")],
    categories: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawings.")] = 0,
    verbose: Verbose = False,
) -> None:
    """Draw a small data set in MVTec AD layout, with exact masks."""
    with refusing(verbose):
        from tasks.data.demo import draw_demo_data

        draw_demo_data(path, names(categories), seed)
    out.print(f"demo data in {path}", highlight=False)


def adapter_export(
    adapter: Annotated[Path, typer.Argument(help="Folder of a fine-tuned adapter.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the LoRA file.")],
    verbose: Verbose = False,
) -> None:
    """Write the image branch as a LoRA that plain StableDiffusionPipeline.load_lora_weights reads."""
    with refusing(verbose):
        from tasks.stages.finetune import export_adapter

        export_adapter(adapter, folder)
    out.print(f"LoRA in {folder}", highlight=False)


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


app.command(
    rich_help_panel=START,
    epilog=example(
        "anodiff doctor", "anodiff doctor --config mvtec --data PATH --set finetune.base=/models/sd-v1-5"
    ),
)(doctor)
app.add_typer(data_app, name="data", rich_help_panel=START)
data_app.command("check", epilog=example("anodiff data check PATH"))(data_check)
data_app.command("demo", epilog=example("anodiff data demo my-data --categories tile"))(data_demo)
app.command(
    rich_help_panel=START, epilog=example("anodiff plan --config mvtec --data PATH --categories bottle,cable")
)(plan)
app.command(
    rich_help_panel=START,
    epilog=example(
        "anodiff run --config mvtec --data PATH --categories bottle,cable --set finetune.train_steps=3000",
        "anodiff run --resume latest",
    ),
)(run)
app.command(rich_help_panel=RUNS, epilog=example("anodiff runs", "anodiff runs latest"))(runs)
app.command(rich_help_panel=RUNS, epilog=example("anodiff report latest --open"))(report)
app.command(
    rich_help_panel=RUNS,
    epilog=example("anodiff compare", "anodiff compare RUN_A RUN_B --html comparison.html"),
)(compare)
app.add_typer(track_app, name="track", rich_help_panel=RUNS)
app.command(
    rich_help_panel=RUNS,
    epilog=example("anodiff rerun latest --failed", "anodiff rerun latest --category cable --from generate"),
)(rerun)
app.command(
    rich_help_panel=PAIRS,
    epilog=example(
        "anodiff generate .anodiff/store/artifacts/finetune/bottle/DIGEST pairs --num-pairs 16 --shots data/bottle",
        "anodiff generate .anodiff/store/artifacts/finetune/bottle/DIGEST pairs --where 0.4,0.4,0.7,0.6",
    ),
)(generate)
app.command(
    rich_help_panel=PAIRS,
    epilog=example("anodiff review latest", "anodiff review latest --category cable --port 7870"),
)(review)
app.command(
    rich_help_panel=PAIRS,
    epilog=example("anodiff handover latest pairs --training-set generated --format coco"),
)(handover)
app.command(
    rich_help_panel=PAIRS, epilog=example("anodiff export latest models --training-set generated+real")
)(export)
app.add_typer(adapter_app, name="adapter", rich_help_panel=PAIRS)
adapter_app.command(
    "export", epilog=example("anodiff adapter export .anodiff/store/artifacts/finetune/bottle/DIGEST lora")
)(adapter_export)
app.add_typer(artifacts_app, name="artifacts", rich_help_panel=UPKEEP)
app.command(
    rich_help_panel=UPKEEP, epilog=example('anodiff deploy --config mvtec --data PATH --cron "0 2 * * 6"')
)(deploy)


def main() -> None:
    """Console script."""
    app()
