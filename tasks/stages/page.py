"""Stage page: one category's part of the run's report page, pictures and figures within it."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from prefect import task

from dual_anodiff.image_encoder import SHA256 as ENCODER
from tasks.config import RunConfig
from tasks.report.html import render
from tasks.report.pictures import Picture, within
from tasks.report.tables import (
    confusion,
    figures_of,
    forest,
    line_rows,
    pair_rows,
    quality_rows,
    verdict_rows,
)
from tasks.report.verdict import best_set
from tasks.report.words import GENERATED, HEADLINE, METRICS, MODELS, TRAINING_SETS
from tasks.runs.ended import Run, artifacts_of, prepared_of
from tasks.runtime.call import Call, Stage, StageResult
from tasks.runtime.stage import OPTIONS, run_stage
from tasks.store.artifacts import Artifact, Staged, artifact_of, publish, read_manifest, verified
from tasks.tables.fetch import fetch_all
from tasks.tables.figures import ADVICE, DOSE, LIFT, QUALITY, SHEETS, STEPS
from tasks.tables.figures import METRICS as METRICS_FILE
from tasks.tables.pairs import read_pairs
from tasks.tables.prepared import read_samples
from tasks.tables.training_rows import Trained, of_defects

if TYPE_CHECKING:
    from downstream.figures.predictions import Predictions

log = logging.getLogger("anodiff")

DRAW_PAGE = Stage("page", version=3)
PAGE, CURVES, PLACES, HEATS = "page.html", "curves.parquet", "places.parquet", "heats.parquet"
# Together with text and figures a category stays below 1 MB, so that fifteen fit into 15 MB.
SHEETS_BYTES, HEATS_BYTES = 480_000, 220_000
MAP_MODELS = ("localize", "detect")


def plan_page(config: RunConfig, reported: Artifact) -> Call:
    """Name the page of one category: its report, which names all else that is shown."""
    out = DRAW_PAGE.plan(config.store, reported.category, report=reported, encoder=ENCODER)
    return Call(DRAW_PAGE, page, config, out, {"reported": reported})


@task(name="page", **OPTIONS)
def page(out: Artifact, reported: Artifact, config: RunConfig) -> StageResult:
    """Draw one category's part of the run's report page."""
    return run_stage(DRAW_PAGE, out, config, lambda staged, _: build_page(reported, config, staged.out))


@dataclass(frozen=True)
class Shown:
    """All that a category's page shows, found by the names that its report gives."""

    category: str
    samples: pd.DataFrame  # of the defect types that were run
    pairs: pd.DataFrame
    trained: tuple[Trained, ...]
    metrics: pd.DataFrame
    lift: pd.DataFrame
    quality: pd.DataFrame
    dose: pd.DataFrame
    steps: pd.DataFrame
    advice: tuple[str, ...]
    sheets: Path

    @property
    def models(self) -> list[str]:
        """Kinds of models that were trained, in the run's order."""
        return list(dict.fromkeys(trained_model.model for trained_model in self.trained))


def read_shown(reported: Artifact, config: RunConfig) -> Shown:
    """Read what a category's report is of. Raises: ArtifactError if something of it is gone or damaged."""
    inputs = read_manifest(reported)["inputs"]
    prepared = _named(reported.store, inputs["samples"])
    generated = {defect: _named(reported.store, ref) for defect, ref in inputs["pairs"].items()}
    trained = []
    for name, ref in inputs["models"].items():
        model, training_set, seed = name.rsplit("/", 2)
        trained.append(Trained(model, training_set, int(seed), _named(reported.store, ref)))
    order = {name: place for place, name in enumerate(TRAINING_SETS)}
    models = list(HEADLINE)
    trained.sort(key=lambda each: (models.index(each.model), order[each.training_set], each.seed))
    samples = of_defects(read_samples(prepared, config.data), list(generated))
    advice = reported.path / ADVICE
    return Shown(
        reported.category,
        samples,
        read_pairs(generated),
        tuple(trained),
        _table(reported.path / METRICS_FILE),
        _table(reported.path / LIFT),
        _table(reported.path / QUALITY),
        _table(reported.path / DOSE),
        _table(reported.path / STEPS),
        tuple(advice.read_text().splitlines()) if advice.is_file() else (),
        reported.path / SHEETS,
    )


def _table(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.is_file() else pd.DataFrame()


def _named(store: Path, ref: str) -> Artifact:
    """The artifact of this name, seen to be here and whole, as are those whose files its table names."""
    found = artifact_of(store, ref, label=ref)
    fetch_all(found)
    return replace(found, inputs=read_manifest(found)["inputs"])


def build_page(reported: Artifact, config: RunConfig, out: Path) -> None:
    """Write page.html, a part of a page, and the tables of what only it shows: curves, places, heat maps."""
    shown = read_shown(reported, config)
    curves = {model: curves_of_model(shown, model, out) for model in shown.models if model in MAP_MODELS}
    values = {
        "category": shown.category,
        "figures": {model: figures_of(shown.metrics, model) for model in shown.models},
        "verdicts": {model: verdicts(shown, model) for model in shown.models},
        "lifts": lifts(shown.lift),
        "pairs": pair_rows(shown.pairs),
        "sheets": sheets(shown),
        "quality": quality_rows(shown.quality),
        "curves": curves,
        "confusions": confusions(shown),
        "lines": {m: rows for m in shown.models if (rows := line_rows(shown.metrics, m)) is not None},
        "heats": heat_maps(shown, out),
        "map": embedding(shown, out),
        "steps": steps(shown),
        "steps_why": sorted(set(shown.steps["why"])) if len(shown.steps) else [],
        "doses": doses(shown),
        "advice": shown.advice,
        "models": MODELS,
        "training_sets": TRAINING_SETS,
    }
    (out / PAGE).write_text(render("category", values))


def verdicts(shown: Shown, model: str) -> dict[str, Any]:
    """A model's headline lifts in words."""
    metric = HEADLINE[model]
    rows = verdict_rows(shown.lift, model, metric) if len(shown.lift) else []
    return {"metric": METRICS[metric][0], "rows": rows}


def lifts(lift: pd.DataFrame) -> list[tuple[str, Any]]:
    """Every lift of each model over each baseline, as forest plots with a title."""
    if lift.empty:
        return []
    known = lift[lift["metric"].isin(METRICS)]
    return [
        (f"{MODELS[str(model)]}, against {against}", forest(rows))
        for (model, against), rows in known.groupby(["model", "against"], sort=False)
    ]


def sheets(shown: Shown) -> dict[str, dict[str, Picture]]:
    """The report's sheets of each defect type, as small as it takes to stay within the page's budget."""
    from PIL import Image

    found, names = [], []
    for row in pair_rows(shown.pairs):
        for kind, words in (("accepted", "pairs that pass"), ("refused", "refused pairs")):
            file = shown.sheets / f"{row['defect']}{'' if kind == 'accepted' else '-refused'}.png"
            if file.is_file() and (kind == "refused" or row["passed"]):
                with Image.open(file) as opened:
                    image = opened.convert("RGB")
                alt = (
                    f"{words} of {shown.category}, {row['defect']}: each row a real shot, the generated picture, "
                    "its anomaly part, its mask, and the mask's outline on the picture"
                )
                found.append((image, alt[0].upper() + alt[1:], ""))
                names.append((row["defect"], kind))
    made: dict[str, dict[str, Picture]] = {}
    for (defect, kind), picture in zip(names, within(found, SHEETS_BYTES), strict=True):
        made.setdefault(defect, {})[kind] = picture
    return made


def predictions_of(shown: Shown, model: str, training_set: str) -> Iterator["Predictions"]:
    """A model's predictions on the test pictures, one seed after the other: together they would take gigabytes."""
    from downstream.figures.predictions import read_predictions

    for trained_model in shown.trained:
        if (trained_model.model, trained_model.training_set) == (model, training_set):
            yield read_predictions(trained_model.artifact.path / "predictions.npz")


def sets_of(shown: Shown, model: str) -> list[str]:
    """The training sets of a kind of model."""
    return list(
        dict.fromkeys(
            trained_model.training_set for trained_model in shown.trained if trained_model.model == model
        )
    )


def curves_of_model(shown: Shown, model: str, out: Path) -> dict[str, Any]:
    """The figure of a model's curves; the curves themselves go to curves.parquet."""
    from tasks.report.curves import curve_table, curves_svg
    from tasks.report.tables import seed_means

    table = curve_table(model, {name: predictions_of(shown, model, name) for name in sets_of(shown, model)})
    file = out / CURVES
    pd.concat([_table(file), table], ignore_index=True).to_parquet(file, index=False)
    overall = shown.metrics[
        (shown.metrics["model"] == model)
        & (shown.metrics["defect_type"] == "all")
        & (shown.metrics["size"] == "all")
    ]
    means = seed_means(overall)
    areas: Mapping[tuple[str, str], float] = {
        (row["metric"], row["training_set"]): row["value"] for row in means.to_dict("records")
    }
    name = f"{shown.category}-{model}-curves"
    svg = curves_svg(table, areas, name, f"{MODELS[model]} of {shown.category}") if len(table) else ""
    return {"svg": svg, "seeds": int(table["n_seeds"].max()) if len(table) else 0}


def confusions(shown: Shown) -> dict[str, dict[str, Any]]:
    """The classifier's confusion of each training set."""
    from downstream.figures.class_predictions import confusion_table, read_class_predictions

    found = {}
    for name in sets_of(shown, "classify"):
        of_set = [one for one in shown.trained if (one.model, one.training_set) == ("classify", name)]
        found[name] = confusion(
            [confusion_table(read_class_predictions(one.artifact.path / "predictions.npz")) for one in of_set]
        )
    return found


def set_to_show(shown: Shown, model: str) -> str:
    """The training set whose heat maps are shown: the one that helps most, else the first there is with pairs."""
    sets = sets_of(shown, model)
    best = best_set(shown.lift, model, shown.category)
    return best[0] if best else next((name for name in GENERATED if name in sets), sets[-1])


def heat_maps(shown: Shown, out: Path) -> dict[str, dict[str, Any]]:
    """Pictures with the heat maps of each model, beside those of the same model trained on the real shots."""
    from tasks.report.maps import heat_rows, heat_strip, pictures_to_show

    files = {"/".join(Path(path).parts[-4:]): Path(path) for path in shown.samples["image_path"]}
    strips: dict[str, list[tuple[Any, str, str]]] = {}
    tables, titles = [], {}
    for model in (each for each in shown.models if each in MAP_MODELS):
        name = set_to_show(shown, model)
        seed = next(one.seed for one in shown.trained if (one.model, one.training_set) == (model, name))
        predictions = next(predictions_of(shown, model, name))
        beside = {name: predictions}
        if name != "real" and "real" in sets_of(shown, model):
            beside = {"real": next(predictions_of(shown, model, "real")), **beside}
        chosen = pictures_to_show(predictions)
        table = heat_rows(predictions, chosen, model, name)
        tables.append(table)
        titles[model] = {"training_set": name, "beside": "real" in beside and name != "real", "seed": seed}
        strips[model] = []
        for each, row in zip(chosen, table.to_dict("records"), strict=True):
            picture = heat_strip(files[row["image_path"]], beside, each.index)
            what = "/".join(Path(row["image_path"]).parts[-2:])
            judged = "refused" if row["refused"] else "passed"
            own = "" if pd.isna(row["pixel_ap"]) else f", pixel AP {100 * row['pixel_ap']:.1f}"
            caption = f"{each.rank}: {what}, score {row['score']:.3f}, {judged}{own}"
            alt = f"Test picture {what} with the outline of its defect, and the heat maps of {' and '.join(beside)}"
            strips[model].append((picture, alt, caption))
    if tables:
        pd.concat(tables, ignore_index=True).to_parquet(out / HEATS, index=False)
    pictures = iter(within([one for of_model in strips.values() for one in of_model], HEATS_BYTES))
    return {
        model: {**titles[model], "pictures": [next(pictures) for _ in of_model]}
        for model, of_model in strips.items()
    }


def embedding(shown: Shown, out: Path) -> dict[str, Any] | None:
    """The map of real, generated and normal pictures; None with too few of them."""
    from tasks.report.embedding import dots, pictures_to_place, placed

    places = placed(pictures_to_place(shown.samples, shown.pairs))
    # Names as in any copy of the data, and of the store: an artifact holds no path.
    names = ["/".join(Path(path).parts[-4:]) for path in places["image_path"]]
    places.assign(image_path=names).to_parquet(out / PLACES, index=False)
    return dots(places, shown.category) if len(places) else None


def steps(shown: Shown) -> str:
    """The figure of how the numbers of steps were chosen, "" where they are fixed."""
    from tasks.report.steps import steps_svg

    return steps_svg(shown.steps, f"{shown.category}-steps", shown.category)


def doses(shown: Shown) -> str:
    """The figure of the dose-response curves, "" without any."""
    from tasks.report.doses import doses_svg

    return doses_svg(shown.dose, f"{shown.category}-doses", shown.category) if len(shown.dose) else ""


def make_pages(run: Run) -> dict[str, Artifact]:
    """The pages of a run's categories, those that are missing made: of older runs, or where the stage failed.

    Raises: AnodiffError if pictures or artifacts that a missing one shows are gone.
    """
    made = {}
    for stage in run.stages:
        if stage.stage != "report" or stage.artifact is None:
            continue
        category = stage.label.split("/")[0]
        (reported,) = artifacts_of(run, "report", category).values()
        out = plan_page(run.config, reported).out
        if not verified(out):
            prepared_of(run, category)  # that its pictures are there, and those that were split
            log.info("%-9s %s: starts", out.stage, out.label)
            publish(
                out, partial(_build, reported, run.config), device="cpu", max_store_gb=run.config.max_store_gb
            )
        made[category] = out
    return made


def _build(reported: Artifact, config: RunConfig, staged: Staged) -> None:
    build_page(reported, config, staged.out)
