"""Every field of a run's configuration: which stages read it, and that nothing else is done again when it changes."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from dual_anodiff.base import WEIGHTS, fingerprint
from dual_anodiff.initial import InitialCard
from flows.planning import plan_run
from tasks.config import RunConfig, load_config
from tasks.store.artifacts import refs_in
from tests.tasks.data_folders import healthy_category

ROOT = Path(__file__).parent.parent.parent
MODELS = {"localize", "classify", "detect"}
# What is made from what, at most.
AFTER = {
    "prepare": {"objects", "adapt", "crop", "finetune", "search", "curate", "quality", "blend", "synthesize", "report"}
    | {"training_steps"}
    | MODELS,
    "objects": {"crop", "finetune", "search", "generate", "curate", "blend", "synthesize", "training_steps"} | MODELS,
    "crop": {"adapt", "finetune", "search", "curate", "quality", "blend"},
    "adapt": {"finetune"},
    "finetune": {"search", "generate"},
    "search": set(),  # it shows in generate once it has found something
    "generate": {"curate"},
    "curate": {"review", "quality", "blend", "training_steps", "report"} | MODELS,
    "review": {"quality", "blend", "training_steps", "report"} | MODELS,
    "quality": {"report"},
    "blend": {"training_steps", "report"} | MODELS,
    "synthesize": {"training_steps"} | MODELS,
    "training_steps": {"report"} | MODELS,
    **{model: {"report"} for model in MODELS},
    "report": {"page"},
    "page": set(),
}  # fmt: skip
NOTHING = ""
# Field or section → the stages that read it; the longest name counts.
READ_BY = {
    "data": "prepare",
    "categories": NOTHING,
    "defects": "synthesize localize detect report",
    "store": NOTHING,
    "max_store_gb": NOTHING,
    "seed": "objects adapt finetune search generate synthesize localize classify detect",
    "device": NOTHING,
    "runner": NOTHING,
    "workers": NOTHING,
    "dask_scheduler": NOTHING,
    "stage_timeout_s": NOTHING,
    "split": "prepare",
    "objects": "objects",
    "finetune": "finetune",
    "finetune.adapter.background": "finetune search generate",
    "finetune.base": "adapt finetune",
    "finetune.revision": "adapt finetune",
    "finetune.precision": "adapt finetune",
    "finetune.horizontal_flip": "adapt finetune curate quality",
    "finetune.vertical_flip": "adapt finetune curate quality",
    "finetune.size_px": "objects adapt finetune curate quality",
    "finetune.adapt_to_normals": "finetune",
    "finetune.normals": "adapt",
    "finetune.checkpoint_every_steps": NOTHING,
    "generate": "search generate",
    "generate.num_pairs": "generate synthesize localize classify detect",
    "generate.batch_size": NOTHING,
    "generate.start": NOTHING,  # the interaction's background leaves noise alone
    "generate.strength": NOTHING,
    "generate.where": "generate",
    "generate.mask.threshold": "search generate curate",
    "search": "search",
    "native": "crop",
    "native.enabled": "finetune search generate curate",
    "native.places": "blend",
    "quality": "quality",
    "quality.max_normals": "search quality",
    "curate": "curate",
    "curate.max_draws": NOTHING,  # it shows in generate once pairs were refused
    "curate.use_review": NOTHING,  # it shows in review once people decided
    "compare": "report",  # more or fewer are trained, those there are stay as they are
    "compare.oracle": "localize classify",
    "compare.folds": "training_steps",
    "localize": "localize",
    "localize.auto_steps": "localize training_steps",
    "localize.encoder_weights": NOTHING,  # of a timm name alone
    "classify": "classify",
    "classify.auto_steps": "classify training_steps",
    "classify.encoder_weights": NOTHING,
    "detect": "detect",
    "detect.auto_steps": "detect training_steps",
    "detect.model": "detect report",  # most learn from normals alone, whatever the training set
    "detect.backbone_weights": NOTHING,
    "detect.texture_folder": NOTHING,  # of other detectors
    "detect.picture_folder": NOTHING,
    "report": "report",
    "track": NOTHING,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawings of a category, and files that fields of the configuration can name."""
    folder = tmp_path_factory.mktemp("keys")
    healthy_category(folder / "data" / "bolt", normals=6, tests=2, defects=4)
    healthy_category(folder / "more" / "bolt", normals=7, tests=2, defects=4)
    weights = [f"{part}/{name}.safetensors" for part, name in WEIGHTS.items()]
    for name in (
        *(f"base/{each}" for each in weights),
        "encoder/model.safetensors",
        "masks/mask.png",
        "weights",
    ):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(name)
    (folder / "base/model_index.json").write_text("{}")
    (folder / "start").mkdir()
    (folder / "start/adapter.safetensors").write_text("weights")
    sizes = {"lora_rank": 8, "saim_rank": 8, "text_encoder_lora_rank": 8}  # as the demo's
    start = InitialCard(fingerprint("mini"), sizes, train_steps=1, num_pictures=1, seed=0)
    (folder / "start/initial.json").write_text(json.dumps(asdict(start)))
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> RunConfig:
    """Every stage but crop and blend has something to do."""
    changes = [
        "finetune.adapter.background=convex",
        "finetune.adapt_to_normals=true",
        "finetune.keep_checkpoints=[5]",
        "search.rounds=1",
        "compare.models=[localize, classify]",
        "compare.training_sets=[real, copy-paste, generated+real]",
        "compare.doses.shots=[]",
        "split.shots=2",
        "native.max_enlargement=8",
        "detect.model=supersimplenet",
    ]
    return load_config("demo", changes, data=folder / "data", categories=("bolt",), defects=("dent", "stain"),
                       store=folder / "store")  # fmt: skip


Keys = dict[tuple[str, str, int], Any]


def planned(config: RunConfig) -> Keys:
    """The planned artifacts by stage, label and how many of that label came before."""
    seen: Counter[tuple[str, str]] = Counter()
    found: Keys = {}
    for each in plan_run(config):
        name = each.out.stage, each.out.label
        found[*name, seen[name]] = each.out
        seen[name] += 1
    assert len({each.ref for each in found.values()}) == len(found), "two stages of one artifact"
    return found


def without_refs(value: Any) -> Any:
    """A stage's own inputs: that there is an artifact counts here, not which."""
    match value:
        case str():
            return "an artifact" if list(refs_in(value)) else value
        case dict():
            return {key: without_refs(each) for key, each in value.items()}
        case list():
            return [without_refs(each) for each in value]
    return value


def compare(before: Keys, after: Keys) -> tuple[set[str], set[str]]:
    """Stages that read what changed; stages that would be made again, with what follows from those."""
    there = {each.ref for each in before.values()}
    again = {key for key, each in after.items() if each.ref not in there}
    known = again & set(before)
    reads = {key[0] for key in known if without_refs(before[key].inputs) != without_refs(after[key].inputs)}
    return reads, {key[0] for key in known}


def leaves(model: BaseModel, above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every field of a configuration by its dotted name, with its value and annotation; sections opened up."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value, field.annotation


def other_values(value: Any, annotation: Any) -> Iterator[Any]:
    """Values that a field may take instead; the first that is valid is taken."""
    match value:
        case bool():
            yield not value
        case int():
            yield from (value + 1, value - 1, value + 32, value + 8)
        case float():
            yield from (value * 0.9, value + 0.1)
        case tuple() if value:
            yield value[:-1]
            yield (value[0] + 1, *value[1:]) if isinstance(value[0], int | float) else value[::-1]
    yield from literals(annotation)
    yield from (2, 64, (2,), (0.2, 0.4), "words", ("words",))


def literals(annotation: Any) -> Iterator[Any]:
    for each in get_args(annotation):
        yield from get_args(each) if get_origin(each) is Literal else literals(each)
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)


def changed(config: RunConfig, name: str, value: Any, **besides: Any) -> RunConfig | None:
    """The configuration with another value, None if that is not valid or the same."""
    values = config.model_dump()
    for path, new in {name: value, **besides}.items():
        at, keys = values, path.split(".")
        for key in keys[:-1]:
            at = at[key]
        if at[keys[-1]] == new:
            return None
        at[keys[-1]] = new
    try:
        return RunConfig.model_validate(values)
    except ValidationError:
        return None


def test_a_changed_field_is_read_by_the_stages_of_the_table_and_what_follows_runs_again(
    config: RunConfig, folder: Path
) -> None:
    given: dict[str, dict[str, Any]] = {
        "data": {"data": folder / "more"},
        "categories": {"categories": None},
        "defects": {"defects": ("dent",)},
        "store": {"store": folder / "another store"},
        "device": {"device": "cpu"},
        "dask_scheduler": {"dask_scheduler": "tcp://127.0.0.1:8786", "runner": "dask"},
        "objects.masks": {"objects.masks": folder / "masks"},
        "finetune.base": {"finetune.base": str(folder / "base")},
        "finetune.initial_adapter": {"finetune.initial_adapter": str(folder / "start")},
        "finetune.adapt_to_normals": {"finetune.adapt_to_normals": False},
        "finetune.keep_checkpoints": {"finetune.keep_checkpoints": (5, 6)},
        "generate.adapter_step": {"generate.adapter_step": 5},
        "search.adapter_step": {"search.adapter_step": (5,)},
        "generate.where.region": {"generate.where.region": (0, 0, 0.5, 0.5)},
        # In steps of √2 of the size the crops' side hardly moves.
        "native.defect_cells": {"native.defect_cells": 0.5},
        "native.max_enlargement": {"native.max_enlargement": 1.0},
        "quality.inception_weights": {"quality.inception_weights": folder / "weights"},
        "quality.lpips_weights": {"quality.lpips_weights": folder / "weights"},
        "compare.seeds": {"compare.seeds": (0, 1)},
        "compare.models": {"compare.models": ("localize", "classify", "detect")},
        "compare.doses.shots": {"compare.doses.shots": (1,)},
        "localize.encoder": {"localize.encoder": str(folder / "encoder")},
        "classify.encoder": {"classify.encoder": str(folder / "encoder")},
        **{f"{model}.augment.{option}": {f"{model}.augment.{option}": False}
           for model in ("localize", "classify") for option in ("horizontal_flip", "vertical_flip", "rotate90")},
        "detect.backbone": {"detect.backbone": str(folder / "encoder")},
        "detect.model": {"detect.model": "padim"},
        "detect.texture_folder": {"detect.texture_folder": folder / "masks"},
        "detect.picture_folder": {"detect.picture_folder": folder / "masks"},
    }  # fmt: skip
    # Fields that are read only where another one says so.
    only_if: dict[str, tuple[str, Any]] = {
        **{f"native.{name}": ("native.enabled", True) for name in type(config.native).model_fields if name != "enabled"},
        "finetune.revision": ("finetune.base", "hub/base"),
        "compare.folds": ("localize.train_steps", "auto"),
        **{f"{model}.auto_steps": (f"{model}.train_steps", "auto") for model in ("localize", "classify", "detect")},
        "quality.lpips_net": ("quality.lpips_weights", folder / "weights"),
        "detect.n_features": ("detect.model", "padim"),
        "detect.coreset_share": ("detect.model", "patchcore"),
        "detect.num_neighbors": ("detect.model", "patchcore"),
    }  # fmt: skip
    everything = changed(config, "compare.models", ("localize", "classify", "detect"))
    assert everything is not None
    bases: dict[tuple[str, Any] | None, tuple[RunConfig, Keys]] = {None: (everything, planned(everything))}
    for condition in only_if.values():
        if condition not in bases:
            base = changed(everything, *condition)
            assert base is not None, condition
            bases[condition] = base, planned(base)
    wrong, seen = [], set()
    for name, value, annotation in leaves(config):
        base, before = bases[only_if.get(name)]
        if name == "compare.models":
            base, before = config, planned(config)
        options = (
            [given[name]] if name in given else [{name: each} for each in other_values(value, annotation)]
        )
        other = next(
            (found for each in options if (found := changed(base, name, each.pop(name), **each))), None
        )
        assert other is not None, f"{name}: no other valid value is known to this test; add one to `given`"
        row = max((each for each in READ_BY if f"{name}.".startswith(f"{each}.")), key=len, default=None)
        if row is None:
            wrong.append(f"{name}: not in READ_BY; say which stages read it")
            continue
        seen.add(row)
        wanted = set(READ_BY[row].split())
        if name in only_if and (unread := changed(everything, name, attrgetter(name)(other))) is not None:
            assert planned(unread) == bases[None][1], f"{name}: read without {only_if[name]}"
        reads, again = compare(before, planned(other))
        if reads != wanted:
            wrong.append(f"{name}: read by {sorted(reads)}, the table says {sorted(wanted)}")
        if not again <= following(reads) | reads:
            wrong.append(f"{name}: {sorted(again - following(reads) - reads)} would run again for no reason")
    assert not wrong, "\n".join(wrong)
    assert seen == set(READ_BY), f"no such field: {sorted(set(READ_BY) - seen)}"


def test_pairs_that_start_from_shots_read_how_far_they_go_and_are_judged_otherwise(config: RunConfig) -> None:
    plain = changed(
        config, "finetune.adapter.background", "off", **{"search.rounds": 0, "generate.start": "shot"}
    )
    assert plain is not None
    before = planned(plain)
    for name, value, stages in (
        ("generate.start", "noise", {"generate", "curate"}),
        ("generate.strength", (0.2, 0.3), {"generate"}),
        ("generate.num_inference_steps", 7, {"generate"}),
    ):
        other = changed(plain, name, value)
        assert other is not None
        assert compare(before, planned(other))[0] == stages, name
    assert changed(config, "generate.start", "shot") is None, "it has no background"


def following(stages: set[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(stages)
    while waiting:
        new = AFTER[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def test_pairs_of_a_dose_are_never_taken_for_the_run_s_own(config: RunConfig) -> None:
    """By way of crops, too: what a run hands over is found by its label."""
    for crops in (False, True):
        dosed = changed(config, "compare.doses.shots", (1,), **({"native.enabled": True} if crops else {}))
        assert dosed is not None
        made = planned(dosed)
        own = planned(dosed.model_copy(update={"compare": config.compare}))
        for stage in ("finetune", "curate", "blend") if crops else ("finetune", "curate"):
            labels = [name for kind, name, _ in made if kind == stage]
            assert len(set(labels)) == len(labels) == 4, labels
            assert {key for key in own if key[0] == stage} < {key for key in made if key[0] == stage}


def test_what_is_written_otherwise_but_means_the_same_is_the_same(folder: Path, config: RunConfig) -> None:
    """Order, comments, 3 for 3.0, values that are the default anyway; and a run read back from its run.json."""
    store = f"data: {folder / 'data'}\nstore: {folder / 'store'}\n"
    (folder / "one.yaml").write_text(
        store
        + "seed: 3\ngenerate: {guidance_scale: 3, num_pairs: 8}\nsearch: {rounds: 1}\nnative: {enabled: true}\n"
    )
    (folder / "two.yaml").write_text(
        "native: {enabled: true, defect_cells: 4, max_enlargement: 2.0}  # crops\n"
        "search: {rounds: 1, guidance_scale: [2.5, 4.0, 6]}\n"
        f"# pairs\ngenerate:\n  num_pairs: 8\n  guidance_scale: 3.0\nseed: 3\n{store}"
    )
    one, two = load_config(folder / "one.yaml"), load_config(folder / "two.yaml")
    assert planned(one) == planned(two)
    for each in (one, config):
        assert planned(
            RunConfig.model_validate(json.loads(json.dumps(each.model_dump(mode="json"))))
        ) == planned(each)


def test_planning_loads_no_network_and_reads_each_file_once(folder: Path) -> None:
    code = f"""
import sys, hashlib
from collections import Counter
from pathlib import Path
from flows.planning import plan_run
from tasks.config import load_config
read = Counter()
real = hashlib.file_digest
def counted(file, name):
    read[file.name] += 1
    return real(file, name)
hashlib.file_digest = counted
changes = ["compare.models=[localize, classify, detect]", "compare.seeds=[0, 1, 2]", "native.enabled=auto"]
config = load_config("cpu", changes, data={str(folder / "data")!r}, store={str(folder / "store")!r})
plan_run(config)
assert read, "nothing was hashed"
read.clear()
plan_run(config)
heavy = {{"torch", "diffusers", "anomalib", "mlflow"}} & set(sys.modules)
print([name for name in read if "/store/" not in name], sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n", done.stdout + done.stderr
