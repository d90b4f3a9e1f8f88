"""`anodiff export` and `anodiff handover`: a finished run's models for the line, its training sets for other tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.cli.complete import DEFAULT_STORE as DEFAULT_STORE
from flows.cli.complete import run_names
from flows.cli.terminal import Verbose, out, refusing

if TYPE_CHECKING:
    from tasks.deliver import Exported, HandedOver

RunName = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's name, its folder, or latest.", autocompletion=run_names),
]
NewFolder = Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")]
Category = Annotated[str | None, typer.Option(help="Only this category.")]
TrainingSet = Annotated[
    str | None, typer.Option(help="Needed where the run has several: real, generated+real, …")
]
Data = Annotated[Path | None, typer.Option(help="Where the run's pictures lie now, if they moved.")]
Store = Annotated[Path, typer.Option(help="Folder of artifacts and runs.")]


def export(
    run: RunName,
    folder: NewFolder,
    category: Category = None,
    model: Annotated[
        Literal["localize", "classify", "detect"] | None, typer.Option(help="Only this kind of model.")
    ] = None,
    training_set: TrainingSet = None,
    seed: Annotated[int | None, typer.Option(help="Only the model of this seed.")] = None,
    format_: Annotated[
        Literal["onnx", "openvino"], typer.Option("--format", help="openvino: both files.")
    ] = "onnx",
    data: Data = None,
    store: Store = DEFAULT_STORE,
    verbose: Verbose = False,
) -> None:
    """Write a run's trained models as ONNX to OUT/CATEGORY/MODEL/…, each compared with PyTorch."""
    with refusing(verbose):
        from tasks.deliver import export_models
        from tasks.runs.ended import find_run

        done = export_models(
            find_run(store, run, data=data),
            folder,
            category=category,
            model=model,
            training_set=training_set,
            seed=seed,
            openvino=format_ == "openvino",
        )
    for each in done:
        out.print(export_line(each), highlight=False, soft_wrap=True)


def handover(
    run: RunName,
    folder: NewFolder,
    format_: Annotated[
        Literal["mvtec", "coco", "yolo", "huggingface"], typer.Option("--format", help="Who is to read it.")
    ],
    category: Category = None,
    training_set: TrainingSet = None,
    anyway: Annotated[
        bool, typer.Option(help="Also a set whose pairs hurt; README.txt then says so.")
    ] = False,
    data: Data = None,
    store: Store = DEFAULT_STORE,
    verbose: Verbose = False,
) -> None:
    """Write a run's training set to OUT/CATEGORY for other tools, each picture with where it is from."""
    with refusing(verbose):
        from tasks.deliver import hand_over_run
        from tasks.runs.ended import find_run

        found = find_run(store, run, data=data)
        done = hand_over_run(
            found, folder, format_, category=category, training_set=training_set, anyway=anyway
        )
    for each in done:
        out.print(handover_lines(each), highlight=False, soft_wrap=True)


def export_line(one: "Exported") -> str:
    """A model's folder, its difference to PyTorch, and what its scores are compared with."""
    said = f"{one.folder}: max difference to PyTorch {one.max_difference:.1e} on {one.n_checked} pictures"
    if one.image_threshold is not None:
        said += f", refuse from pred_score {one.image_threshold:.4g}"
    if one.pixel_threshold is not None:
        said += f", defect from anomaly_map {one.pixel_threshold:.4g}"
    return said + (f", classes {', '.join(one.classes)}" if one.classes else "")


def handover_lines(one: "HandedOver") -> str:
    """A category's folder, its counts, and what the run found the set to do."""
    counts = f"{one.n_train} pictures to train on, {one.n_val} to validate on; of both, {one.n_made} made by the run"
    return "\n".join([f"{one.folder}: {counts}", *(f"  {text}" for text in one.verdicts)])
