"""A classifier's output on test pictures: the file, the tidy table, the confusion matrix. No torch in here."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from downstream.errors import PredictionError

# As metrics.metrics_table's, so that all models' rows make one table.
COLUMNS = ["defect_type", "size", "metric", "value", "n", "n_good", "n_defect", "note"]


@dataclass(frozen=True)
class ClassPredictions:
    """Class probabilities of n pictures, with the truth.

    Shape: image_path, label (n,); classes (k,), "good" among them; probability (n, k), rows sum to 1.
    """

    image_path: NDArray[np.str_]
    label: NDArray[np.str_]
    classes: NDArray[np.str_]
    probability: NDArray[np.float32]

    @property
    def pred_label(self) -> NDArray[np.str_]:
        """The most probable class of each picture. Shape: (n,)."""
        return self.classes[self.probability.argmax(1)]


def class_metrics_table(predictions: ClassPredictions) -> pd.DataFrame:
    """accuracy, balanced_accuracy and macro_f1 over all pictures; recall, precision and f1 of each class.

    Columns as metrics.metrics_table's, size always "all"; n, n_good, n_defect are the pictures of the class in
    its own rows. A class without a test picture has NaN, is left out of balanced_accuracy and macro_f1, and the
    note of both says so. Precision is NaN for a class that was never predicted.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    truth, guess = predictions.label, predictions.pred_label
    classes = predictions.classes.tolist()
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, guess, labels=classes, zero_division=np.nan
    )
    present = support > 0
    absent = [name for name, there in zip(classes, present, strict=True) if not there]
    left_out = f"left out, no test picture: {', '.join(absent)}" if absent else ""
    n_good, n = int((truth == "good").sum()), len(truth)
    # scikit-learn calls the F1 of a class that was neither found nor predicted undefined too; with pictures it is 0.
    f1 = np.where(present & np.isnan(f1), 0.0, f1)
    rows: list[tuple[str, str, float, int, int, int, str]] = [
        ("all", "accuracy", float(accuracy_score(truth, guess)), n, n_good, n - n_good, ""),
        ("all", "balanced_accuracy", float(recall[present].mean()), n, n_good, n - n_good, left_out),
        ("all", "macro_f1", float(f1[present].mean()), n, n_good, n - n_good, left_out),
    ]
    for i, name in enumerate(classes):
        count = int(support[i])
        of_good = count if name == "good" else 0
        for metric, values in (("recall", recall), ("precision", precision), ("f1", f1)):
            value = float(values[i]) if present[i] else float("nan")
            why = "" if present[i] and not np.isnan(value) else "no test picture of this class"
            why = "this class was never predicted" if present[i] and np.isnan(value) else why
            rows.append((name, metric, value, count, of_good, count - of_good, why))
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "size"])
    table.insert(1, "size", "all")
    return table


def confusion_table(predictions: ClassPredictions) -> pd.DataFrame:
    """How many pictures of each class were taken for which. Columns: label, pred_label, n; all k² rows."""
    from sklearn.metrics import confusion_matrix

    classes = predictions.classes.tolist()
    counts = confusion_matrix(predictions.label, predictions.pred_label, labels=classes)
    rows = [
        (label, guess, int(counts[i, j]))
        for i, label in enumerate(classes)
        for j, guess in enumerate(classes)
    ]
    return pd.DataFrame(rows, columns=["label", "pred_label", "n"])


def write_class_predictions(predictions: ClassPredictions, path: Path) -> None:
    """Save as npz."""
    arrays = {field.name: np.asarray(getattr(predictions, field.name)) for field in fields(predictions)}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub takes the arrays for allow_pickle


def read_class_predictions(path: Path) -> ClassPredictions:
    """Load what write_class_predictions saved. Raises: PredictionError that names the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return ClassPredictions(**{field.name: file[field.name] for field in fields(ClassPredictions)})
    except (OSError, KeyError, ValueError) as error:
        raise PredictionError(
            f"{path}: is no file of class predictions ({error}). Evaluate the model again."
        ) from error
