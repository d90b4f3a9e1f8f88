"""What the literature's practice would report: the checkpoint that scores best on the test pictures themselves.

Never an honest figure, for the test set chose it; it is there to compare with papers, and goes to a file of its own.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from torch import nn

from downstream.figures.lift import CLASS_METRICS, LOWER_IS_BETTER, METRICS

# Without rates at a threshold: that was set for the weights that were kept, not for a checkpoint's.
FIGURES = {*METRICS, *CLASS_METRICS} - LOWER_IS_BETTER


def keep_checkpoints(folder: Path) -> Callable[[nn.Module], None]:
    """What train_localization and train_classifier call at each look: it saves the weights there, numbered from 1."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)

    def keep(network: nn.Module) -> None:
        number = len(list(folder.iterdir())) + 1
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        save_file(state, folder / f"{number:05}.safetensors")

    return keep


def oracle_table(
    model_folder: Path,
    checkpoints: Path,
    evaluate: Callable[[Path, Path], pd.DataFrame],
    chosen_by: str,
) -> pd.DataFrame:
    """The test figures of that checkpoint of a trained model which has the best `chosen_by` on the test pictures.

    `evaluate` takes a model's folder and one to write to, and returns the table of figures. Columns: the table's,
    chosen_by, checkpoint (of the looks at validation, from 1) and n_checkpoints. Only FIGURES are in it.
    """
    files = sorted(checkpoints.glob("*.safetensors"))
    tables = []
    for file in files:
        with tempfile.TemporaryDirectory(dir=checkpoints) as name:
            shutil.copyfile(model_folder / "model.json", Path(name) / "model.json")
            shutil.copyfile(file, Path(name) / "model.safetensors")
            tables.append(evaluate(Path(name), Path(name) / "figures"))
    best = max(range(len(tables)), key=lambda index: _figure(tables[index], chosen_by))
    table = tables[best][tables[best]["metric"].isin(FIGURES)]
    return table.assign(chosen_by=chosen_by, checkpoint=best + 1, n_checkpoints=len(files)).reset_index(
        drop=True
    )


def _figure(table: pd.DataFrame, metric: str) -> float:
    """The metric on all test pictures; one that is not defined is never the best."""
    overall = (table["metric"] == metric) & (table["defect_type"] == "all") & (table["size"] == "all")
    value = float(table.loc[overall, "value"].iloc[0])
    return value if value == value else float("-inf")
