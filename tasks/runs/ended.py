"""Runs that ended, read back from STORE/runs: what was asked for, and which artifact each stage left."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.config import ModelName, RunConfig
from tasks.config_faults import explain
from tasks.data.samples import defect_types, find_categories
from tasks.errors import AnodiffError, ArtifactError, DataError
from tasks.runs.under_way import runs_under_way
from tasks.runtime.stage import StageOutcome
from tasks.store.artifacts import Artifact, artifact_of, fault, read_manifest, verified
from tasks.store.layout import run_folder, runs_folder
from tasks.store.place import DESCRIPTION, open_store, pull_run, run_files, run_names_elsewhere
from tasks.tables.baselines import BASELINES
from tasks.tables.prepared import SPLIT, data_digest, read_samples
from tasks.tables.training_rows import Pictures, Trained

log = logging.getLogger("anodiff")

LATEST = "latest"
SHOWN = 10  # names of other runs in an error


class RunFile(BaseModel):
    """run.json, as tasks.report.run_folder.write_run writes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    state: Literal["completed", "failed", "refused"]
    started: str
    ended: str
    config: dict[str, Any]
    stages: tuple[StageOutcome, ...]


@dataclass(frozen=True)
class Run:
    """A run that ended; its config names the store that it lies in now."""

    name: str
    folder: Path
    state: Literal["completed", "failed", "refused"]
    config: RunConfig
    stages: tuple[StageOutcome, ...]


def find_run(store: Path, name: str, *, data: Path | None = None) -> Run:
    """The run of this name in a store, the newest one for "latest", or that of a run's folder.

    `data`: where its pictures lie now, if they moved.
    Raises: AnodiffError if there is no such run, or this version cannot read it.
    """
    folder = _folder(open_store(store), name)
    try:
        found = RunFile.model_validate_json((folder / DESCRIPTION).read_text())
        values = {**found.config, "store": folder.resolve().parents[1]}
        config = RunConfig.model_validate(values if data is None else {**values, "data": data})
    except (OSError, ValidationError) as error:
        model = RunConfig if isinstance(error, ValidationError) and error.title == "RunConfig" else RunFile
        why = "; ".join(explain(error, model)) if isinstance(error, ValidationError) else str(error)
        raise AnodiffError(
            f"{folder / DESCRIPTION}: cannot be read by this version ({why}); start the run again"
        ) from error
    return Run(found.run, folder, found.state, config, found.stages)


def run_names(store: Path) -> list[str]:
    """The runs of a store that ended, newest first: names begin with the time of their start."""
    here = {path.parent.name for path in runs_folder(store).glob(f"*/{DESCRIPTION}")}
    return sorted(here | run_names_elsewhere(store), reverse=True)


def _folder(store: Path, name: str) -> Path:
    known = run_names(store)
    if name == LATEST and known:
        name = known[0]
    if name in known:
        pull_run(store, name)
    for folder in (run_folder(store, name), Path(name)):
        if name and (folder / DESCRIPTION).is_file():
            return folder
    others = f", and {len(known) - SHOWN} older ones" if len(known) > SHOWN else ""
    hint = (
        f"runs there: {', '.join(known[:SHOWN])}{others}, or {LATEST}"
        if known
        else "no run ended there; give --store, or start one with anodiff run"
    )
    raise AnodiffError(f"{store}: no run {name!r}; {hint}")


def categories_run(run: Run, category: str | None = None) -> list[str]:
    """The categories of a run, or the one asked for. Raises: AnodiffError if it has none, or not that one."""
    found = [stage.label for stage in run.stages if stage.stage == "prepare" and stage.artifact is not None]
    if category is not None and category not in found:
        raise AnodiffError(
            f"run {run.name}: no category {category}; it has {', '.join(found) or 'none that was prepared'}"
        )
    if not found:
        raise AnodiffError(f"run {run.name}: no category was prepared ({run.state}); start the run again")
    return found if category is None else [category]


def artifacts_of(run: Run, stage: str, category: str) -> dict[str, Artifact]:
    """The artifacts that one kind of stage left for a category, by the stage's label, each seen to be whole.

    Raises: ArtifactError if one is gone or damaged.
    """
    found = {}
    for each in run.stages:
        if each.stage == stage and each.artifact is not None and each.label.split("/")[0] == category:
            artifact = artifact_of(run.config.store, each.artifact, label=each.label)
            if not verified(artifact):
                wrong = fault(artifact)
                raise ArtifactError(f"run {run.name}: {wrong}; the same `anodiff run` makes it again")
            found[each.label] = replace(artifact, inputs=read_manifest(artifact)["inputs"])
    return found


def prepared_of(run: Run, category: str) -> Artifact:
    """A category's split, once its pictures are seen to be those that were split.

    Raises: ArtifactError, or DataError if the pictures moved or changed since.
    """
    (prepared,) = artifacts_of(run, "prepare", category).values()
    hint = f"give the folder that run {run.name} had with --data"
    try:
        folder = find_categories(run.config.data).get(category)
    except DataError as error:
        raise DataError(f"{run.config.data}: the run's pictures are not there; {hint}") from error
    if folder is None:
        raise DataError(f"{run.config.data}: no category {category}; {hint}")
    if data_digest(folder) != prepared.inputs["data"]:
        raise DataError(f"{folder}: pictures or masks changed since {prepared.path / SPLIT} was made; {hint}")
    return prepared


def pictures_of(run: Run, category: str) -> Pictures:
    """All that a category's models learnt from. Raises: AnodiffError if no pairs were generated."""
    prepared = prepared_of(run, category)
    artifacts_of(
        run, "generate", category
    )  # whose pictures the tables name: what is gone or damaged is said here
    # Where more was drawn, the last of a label holds all that was. What people decided on counts as they did; what was
    # cut small is learnt from as it was put back.
    made = artifacts_of(run, "curate", category) | artifacts_of(run, "review", category)
    made |= artifacts_of(run, "blend", category)
    pasted = artifacts_of(run, "synthesize", category)
    # By the whole label: those of a dose-response curve have other ones.
    defects = defect_types(read_samples(prepared, run.config.data))
    generated = {defect: made[label] for defect in defects if (label := f"{category}/{defect}") in made}
    if not generated:
        raise AnodiffError(
            f"run {run.name}: no pairs of {category} were generated; name another with --category"
        )
    baselines: dict[str, Artifact] = {
        each: pasted[label] for each in BASELINES if (label := f"{category}/{each}") in pasted
    }
    return Pictures(prepared, generated, baselines)


def trained_models(
    run: Run, category: str, models: Sequence[ModelName], seeds: Sequence[int]
) -> list[Trained]:
    """The models that a run trained for a category; those of a dose-response curve, which have other labels, not."""
    found = []
    for model in models:
        by_label = artifacts_of(run, model, category)
        for name, seed in product(run.config.compare.training_sets, seeds):
            artifact = by_label.get(f"{category}/{name}/seed {seed}")
            if artifact is not None:
                found.append(Trained(model, name, seed, artifact))
    return found


@dataclass(frozen=True)
class Listed:
    """A run as `anodiff runs` lists it."""

    name: str
    state: str  # completed, failed, refused; running, stopped, elsewhere
    started: datetime
    ended: datetime | None
    categories: tuple[str, ...]
    data: str
    failed: tuple[str, ...]  # stages that failed or were left out for that


def list_runs(store: Path) -> list[Listed]:
    """Every run of a store, newest first, under way ones among them; those of older versions, too."""
    found = []
    for name, text in run_files(store).items():
        try:
            described = json.loads(text)
            stages = described["stages"]
            categories = dict.fromkeys(each["label"].split("/")[0] for each in stages)
            failed = tuple(
                f"{each['stage']} {each['label']}"
                for each in stages
                if each["status"] in ("failed", "skipped")
            )
            started, ended = (datetime.fromisoformat(described[key]) for key in ("started", "ended"))
            data = str(described["config"].get("data", ""))
            found.append(Listed(name, described["state"], started, ended, tuple(categories), data, failed))
        except (KeyError, TypeError, ValueError) as error:
            log.warning("%s: %s cannot be read: %s", name, DESCRIPTION, error)
    for each in runs_under_way(store):
        of = (each.rerun or {}).get("categories") or each.config.get("categories") or ()
        data = str(each.config.get("data", ""))
        started = datetime.fromisoformat(each.started)
        found.append(Listed(each.name, each.state, started, None, tuple(of), data, ()))
    return sorted(found, key=lambda each: each.name, reverse=True)
