"""Runs beside each other: their figures and what sets them apart, the first one being what the others are compared with.

A difference has an interval where both runs measured the same test pictures, by content (tasks.compare.paired); where they
did not, the category is not compared, and it is said why.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.compare.paired import SAME, paired, why_not_the_same
from tasks.compare.redraws import Tested, tested
from tasks.compare.tables import about_runs, by_run, config_differences, pairs_of, ranking_of
from tasks.errors import AnodiffError, ArtifactError, ConfigError
from tasks.runs.ended import LATEST, Run, categories_run, find_run, run_names
from tasks.runs.facts import costs, stage_facts
from tasks.store.layout import run_folder
from tasks.store.place import DESCRIPTION, place_of
from tasks.tables.figures import METRICS

log = logging.getLogger("anodiff")

FIGURES = [
    "category", "model", "training_set", "metric", "run", "value", "difference", "low", "high", "verdict",
    "n_good", "n_defect", "n_seeds", "note",
]  # fmt: skip
KEYS = ["category", "model", "training_set", "metric"]
CAPTION = "Each interval is of one comparison on its own: of 20 where nothing differs, about one shows a difference."


@dataclass(frozen=True)
class Comparison:
    """Runs by their labels, and the tables on them; difference = a run − the first run."""

    runs: tuple[str, ...]
    folders: tuple[Path, ...]
    figures: pd.DataFrame  # FIGURES; of the first run without a difference
    not_compared: pd.DataFrame  # run, category, why
    config: pd.DataFrame  # key, and a column a run; only keys that differ
    ranking: (
        pd.DataFrame
    )  # run, model, training_set, metric, n, mean, helps, hurts, best, best_…, worst, worst_…
    about: (
        pd.DataFrame
    )  # a row a run: state, started, wall_s, device, seconds by phase, memory_gb, drawn, passed
    costs: pd.DataFrame  # run and tasks.runs.facts.costs' columns
    pairs: pd.DataFrame  # run, category, defect, drawn, passed
    naive: tuple[str, ...]  # runs whose figures do not count


def find_runs(names: Sequence[str], stores: Sequence[Path]) -> list[Run]:
    """The runs of these names, folders or "latest", looked for in each store; none named: the last two, older first.

    Raises: AnodiffError if one is nowhere, one is named twice, or there are fewer than two.
    """
    if not names:
        names = sorted(run_names(stores[0]))[-2:]
        if len(names) < 2:
            raise AnodiffError(f"{place_of(stores[0])}: {len(names)} run(s) ended there, two are compared")
    found = [_find(name, stores) for name in names]
    folders = [run.folder.resolve() for run in found]
    for run, folder in zip(found, folders, strict=True):
        if folders.count(folder) > 1:
            raise AnodiffError(f"run {run.name}: named twice")
    if len(found) < 2:
        raise AnodiffError(f"run {found[0].name}: name another one to compare it with")
    return found


def _find(name: str, stores: Sequence[Path]) -> Run:
    here = [store for store in stores if name in run_names(store)]
    if name == LATEST:
        here = sorted((store for store in stores if run_names(store)), key=lambda store: run_names(store)[0])[
            -1:
        ]
    if len(here) > 1:
        folders = ", ".join(str(run_folder(store, name)) for store in here)
        raise AnodiffError(f"run {name}: in several stores; name its folder: {folders}")
    if here or (Path(name) / DESCRIPTION).is_file() or len(stores) == 1:
        return find_run((here or stores)[0], name)
    places = ", ".join(place_of(store) for store in stores)
    raise AnodiffError(f"no run {name!r} in any of {places}; see `anodiff runs --store …`")


def compare_runs(
    runs: Sequence[Run], *, resamples: int = 500, categories: Sequence[str] | None = None
) -> Comparison:
    """Everything that can be said of runs beside each other, or of some of their categories.

    Raises: AnodiffError if the first run shares none with another.
    """
    labels = labels_of(runs)
    of_runs = {label: categories_run(run) for label, run in zip(labels, runs, strict=True)}
    wanted = [
        each
        for each in dict.fromkeys(each for own in of_runs.values() for each in own)
        if categories is None or each in categories
    ]
    first, *others = (set(own) & set(wanted) for own in of_runs.values())
    if not any(first & own for own in others):
        has = "; ".join(f"{label}: {', '.join(own)}" for label, own in of_runs.items())
        asked = "" if categories is None else f" of {', '.join(categories)}"
        raise AnodiffError(f"no category{asked} in common with the first run: {has}")
    facts = [stage_facts(run) for run in runs]
    of_stages = by_run(labels, [costs(fact) for fact in facts])
    pairs = by_run(labels, [pairs_of(run) for run in runs])
    differences, refused = _differences(runs, labels, wanted, resamples)
    figures = _figures(runs, labels, wanted, differences, refused)
    return Comparison(
        runs=tuple(labels),
        folders=tuple(run.folder for run in runs),
        figures=figures,
        not_compared=pd.DataFrame(refused, columns=["run", "category", "why"]),
        config=config_differences(runs, labels, facts),
        ranking=ranking_of(figures, labels[1:]),
        about=about_runs(runs, labels, of_stages, pairs),
        costs=of_stages,
        pairs=pairs,
        naive=tuple(label for label, run in zip(labels, runs, strict=True) if run.config.split.naive),
    )


def labels_of(runs: Sequence[Run]) -> list[str]:
    """The runs' names; with their store where two have one name."""
    names = [run.name for run in runs]
    return [
        run.name if names.count(run.name) == 1 else f"{run.name} ({place_of(run.config.store)})"
        for run in runs
    ]


def _differences(
    runs: Sequence[Run], labels: Sequence[str], categories: Sequence[str], resamples: int
) -> tuple[pd.DataFrame, list[tuple[str, str, str]]]:
    """Paired differences to the first run, and which category of which run has none, and why."""
    rows: list[dict[str, Any]] = []
    refused: list[tuple[str, str, str]] = []
    for category in categories:
        first: Tested | None = None
        for run, label in zip(runs, labels, strict=True):
            try:
                if category not in categories_run(run):
                    raise ArtifactError("not in this run")
                if run is not runs[0] and first is None:
                    raise ArtifactError("not in the first run")
                side = tested(run, category, resamples)
            except ArtifactError as error:
                refused.append((label, category, str(error)))
                continue
            first = first or side
            if side is first:
                continue
            why = why_not_the_same(first, side)
            if why is not None:
                refused.append((label, category, why))
                continue
            rows += ({"category": category, "run": label, **row} for row in _of_pair(first, side))
    columns = [*KEYS, "run", "difference", "low", "high", "verdict", "note"]
    return pd.DataFrame(rows, columns=columns), refused


def _of_pair(first: Tested, other: Tested) -> Iterator[dict[str, Any]]:
    for kind, mine in first.models.items():
        if kind in other.models:
            named = {"model": kind[0], "training_set": kind[1]}
            yield from ({**named, **row} for row in paired(first, mine, other.models[kind]))


def _figures(
    runs: Sequence[Run],
    labels: Sequence[str],
    categories: Sequence[str],
    differences: pd.DataFrame,
    refused: Sequence[tuple[str, str, str]],
) -> pd.DataFrame:
    """The runs' own figures, aligned, with the differences where there are any."""
    without = {(label, category) for label, category, _ in refused}
    tables = []
    for run, label in zip(runs, labels, strict=True):
        metrics = pd.read_parquet(run.folder / METRICS)
        if metrics.empty:
            continue
        overall = metrics[(metrics["defect_type"] == "all") & (metrics["size"] == "all")]
        shown = [each for each in categories if (label, each) not in without]
        overall = overall[overall["category"].isin(shown)]
        of_seeds = overall.groupby(KEYS, sort=False)
        table = of_seeds.agg(
            value=("value", "mean"),
            n_good=("n_good", "first"),
            n_defect=("n_defect", "first"),
            n_seeds=("seed", "nunique"),
        )
        tables.append(table.reset_index().assign(run=label))
    if not tables:
        return pd.DataFrame(columns=FIGURES)
    figures = pd.concat(tables, ignore_index=True)
    whole = differences[differences["metric"].notna()]
    figures = figures.merge(whole, on=[*KEYS, "run"], how="left")
    for name in ("note", "verdict"):
        figures[name] = figures[name].astype(object).fillna("")
    figures = _fill_in(figures, differences[differences["metric"].isna()], labels[0])
    order = {label: index for index, label in enumerate(labels)}
    ranks = [
        figures[name].map({value: i for i, value in enumerate(dict.fromkeys(figures[name]))}) for name in KEYS
    ]
    placed = figures.assign(
        **{f"rank_{i}": rank for i, rank in enumerate(ranks)}, rank_run=figures["run"].map(order)
    )
    placed = placed.sort_values([*(f"rank_{i}" for i in range(len(ranks))), "rank_run"], kind="stable")
    return placed[FIGURES].reset_index(drop=True)


def _fill_in(figures: pd.DataFrame, of_models: pd.DataFrame, first: str) -> pd.DataFrame:
    """What is known without drawing: no difference between the same models, a plain one for metrics that no redraw
    gives, and notes on what has none."""
    base = figures.loc[figures["run"] == first, [*KEYS, "value"]].rename(columns={"value": "base"})
    kind = ["category", "model", "training_set", "run"]
    own_notes = of_models[[*kind, "note"]].rename(columns={"note": "own_note"})
    filled = figures.merge(base, on=KEYS, how="left").merge(own_notes, on=kind, how="left")
    missing = (filled["run"] != first) & filled["difference"].isna()
    filled.loc[missing, "difference"] = filled["value"] - filled["base"]
    filled.loc[missing & filled["base"].isna(), "note"] = "not in the first run"
    filled.loc[missing & filled["own_note"].notna(), "note"] = filled["own_note"]
    same = missing & (filled["own_note"] == SAME)
    filled.loc[same, ["difference", "low", "high"]] = 0.0
    filled.loc[same, "verdict"] = "no difference shown"
    return filled


def check_writable(wanted: Mapping[str, Path | None]) -> None:
    """Files to write, by the ending that each must have. Raises: ConfigError, before anything is compared."""
    for ending, path in wanted.items():
        if path is not None and path.suffix != ending:
            raise ConfigError(f"--{ending[1:]} {path}: name it {path.with_suffix(ending).name}")
        if path is not None and path.is_dir():
            raise ConfigError(f"--{ending[1:]} {path}: is a folder")


def write_table(figures: pd.DataFrame, path: Path) -> None:
    """Write the aligned table, as its name ends: .csv or .parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        figures.to_csv(path, index=False)
    else:
        figures.to_parquet(path, index=False)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison for other programs; null where there is no number."""
    names = ("figures", "not_compared", "config", "ranking", "about", "costs", "pairs")
    tables = {name: json.loads(getattr(comparison, name).to_json(orient="records")) for name in names}
    return {"runs": list(comparison.runs), "naive": list(comparison.naive), **tables, "note": CAPTION}
