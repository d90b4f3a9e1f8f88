"""A category's dose–response curves, and the advice drawn from them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from tasks.config import ModelName, RunConfig, pairs_to_train_on
from tasks.tables.training_rows import Dosed, accepted

if TYPE_CHECKING:
    from downstream.figures.dose import Advice, DoseCurve, DoseKind
    from downstream.figures.lift import Metric

# The first is the one that advice is given on.
CURVES: dict[ModelName, tuple["Metric", ...]] = {
    "localize": ("pixel_ap", "image_auroc"),
    "classify": ("macro_f1",),
    "detect": ("image_auroc", "pixel_ap"),
}


def dose_curves(category: str, dosed: Sequence[Dosed], resamples: int) -> tuple[pd.DataFrame, list[str]]:
    """The curves of one category as one table, and the advice of each model in lines.

    Columns: category, model, defect_type ("all", or one type's pictures with the good ones), and those of
    downstream.figures.dose.curve_table. A dose is that of all defect types together, also in the curve of one type.
    """
    from downstream.figures.dose import curve_table

    tables, lines = [], []
    for model in dict.fromkeys(dosed_model.trained.model for dosed_model in dosed):
        of_model = [dosed_model for dosed_model in dosed if dosed_model.trained.model == model]
        pairs, shots = (_curves(kind, of_model, CURVES[model], resamples) for kind in ("pairs", "shots"))
        for defect_type, curves in [*pairs.items(), *shots.items()]:
            named = {"category": category, "model": model, "defect_type": defect_type}
            tables += [curve_table(curve).assign(**named) for curve in curves]
        lines += [f"{category}, {model}: {each.text}" for each in _advice(pairs, shots)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(), lines


def _curves(
    kind: "DoseKind", dosed: Sequence[Dosed], metrics: Sequence["Metric"], resamples: int
) -> dict[str, list["DoseCurve"]]:
    """One model's curves over one kind of dose by defect type, "all" first; none without a dose."""
    from downstream.figures.dose import dose_curve, of_defect_type

    runs = _predictions([dosed_model for dosed_model in dosed if dosed_model.kind == kind])
    if not runs:
        return {}
    by_type = {"all": runs}
    for defect_type in sorted(set(next(iter(runs.values()))[0].label.tolist()) - {"good"}):
        by_type[defect_type] = {
            dose: [of_defect_type(one, defect_type) for one in of_dose] for dose, of_dose in runs.items()
        }
    return {
        defect_type: [dose_curve(kind, chosen, metric, resamples=resamples) for metric in metrics]
        for defect_type, chosen in by_type.items()
    }


def _advice(pairs: dict[str, list["DoseCurve"]], shots: dict[str, list["DoseCurve"]]) -> list["Advice"]:
    """On the first metric: how many pairs, how many shots, and more pictures of which defect type."""
    from downstream.figures.dose import advise_dose, advise_shots

    advice = [advise_dose(curves["all"][0]) for curves in (pairs, shots) if curves]
    if shots:
        of_types = {defect_type: curves[0] for defect_type, curves in shots.items() if defect_type != "all"}
        advice += advise_shots(of_types, pairs["all"][0] if pairs else None)
    return advice


def _predictions(dosed: Sequence[Dosed]) -> dict[int, list[Any]]:
    """Predictions by dose, of the seeds that every dose has: one that failed must not tilt the curve."""
    from downstream.figures.class_predictions import read_class_predictions
    from downstream.figures.predictions import read_predictions

    models: dict[int, dict[int, Dosed]] = {}
    for dosed_model in dosed:
        models.setdefault(dosed_model.dose, {})[dosed_model.trained.seed] = dosed_model
    seeds = sorted(set.intersection(*(set(of_dose) for of_dose in models.values()))) if models else []
    if not seeds:
        return {}
    read = read_class_predictions if dosed[0].trained.model == "classify" else read_predictions
    return {
        dose: [read(of_dose[seed].trained.artifact.path / "predictions.npz") for seed in seeds]
        for dose, of_dose in models.items()
    }


def short_of_pairs(category: str, pairs: pd.DataFrame, config: RunConfig) -> list[str]:
    """A line for each defect type that has fewer pairs to train on than the largest dose, the refused ones away."""
    largest = max(config.compare.doses.pairs, default=0)
    lines = []
    for defect, of_type in pairs.groupby("label", sort=True):
        there = pairs_to_train_on(len(accepted(of_type, config)))
        if there < largest:
            lines.append(
                f"{category}: `{defect}` has {there} usable pairs to train on, so larger doses add none of it"
            )
    return lines
