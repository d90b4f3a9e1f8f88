"""What a plan says before a run: why a stage is to be done, how long it will take, whether there is room."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.config import RunConfig, load_config
from tasks.errors import AnodiffError
from tasks.report.run_folder import write_run
from tasks.runs.cost import Forecast, Plan, forecast
from tasks.runtime.call import Call
from tasks.runtime.stage import StageOutcome
from tasks.stages.curate import CURATE
from tasks.stages.finetune import FINETUNE
from tasks.stages.generate import GENERATE
from tasks.stages.prepare import PREPARE, prepare
from tasks.stages.train import STAGES
from tasks.store.artifacts import MANIFEST, Artifact, plan, publish

GPU, CPU = "cuda (NVIDIA H100)", "cpu (1000 cores)"


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return load_config("demo", data=tmp_path / "data", store=tmp_path / "store")


def stages(
    store: Path, *, steps: int = 100, base: str = "mini", pairs: int = 10, seed: int = 0
) -> list[Artifact]:
    """A line of stages, each made from the one before."""
    split = plan(store, "prepare", 1, "bolt", data="0" * 64)
    adapter = plan(store, "finetune", 4, "bolt", label="bolt/dent", samples=split, base=base, train_steps=steps,
                   batch_size=1, size_px=64)  # fmt: skip
    drawn = plan(store, "generate", 3, "bolt", label="bolt/dent", adapter=adapter, num_pairs=pairs,
                 num_inference_steps=20, guidance_scale=2.5)  # fmt: skip
    judged = plan(store, "curate", 1, "bolt", label="bolt/dent", pairs=[drawn], seed=seed)
    model = plan(store, "localize", 2, "bolt", label="bolt/real/seed 0", pairs={"dent": judged}, train_steps=50,
                 size_px=64, encoder="e", num_pairs=pairs)  # fmt: skip
    return [split, adapter, drawn, judged, model]


def ran(config: RunConfig, made: list[Artifact], seconds: float = 60, device: str = GPU, day: int = 1) -> str:
    """Write these artifacts of 1,000 bytes, as if each had taken so long on that device, and the run that made them."""
    for artifact in made:
        publish(artifact, lambda staged: write(staged.out / "file"), device="cpu")
        manifest = artifact.path / MANIFEST
        told = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(told | {"seconds": seconds, "device": device}))
    outcomes = [StageOutcome(each.stage, each.label, each.ref, "ran") for each in made]
    return write_run(config, outcomes, {}, started=datetime(2026, 1, day, tzinfo=UTC)).run


def write(path: Path) -> None:
    path.write_bytes(bytes(1000))


def foretold(
    config: RunConfig, planned: list[Artifact], since: str | None = None
) -> tuple[Plan, dict[str, Forecast]]:
    missing = {each.ref for each in planned if not each.path.exists()}
    declared = {each.name: each for each in (PREPARE, FINETUNE, GENERATE, CURATE, *STAGES.values())}
    calls = [Call(declared[each.stage], prepare, config, each, {}) for each in planned]
    found = forecast(config, calls, missing, since)
    return found, {each.out.stage: each for each in found.stages}


def test_a_miss_names_what_changed_and_what_follows_from_it(config: RunConfig) -> None:
    store = config.store
    assert {each.why for each in foretold(config, stages(store))[1].values()} == {"no earlier run"}
    first = ran(config, stages(store))
    assert not foretold(config, stages(store))[0].planned

    _, changed = foretold(config, stages(store, steps=150))
    assert {name: each.why for name, each in changed.items()} == {
        "prepare": "",
        "finetune": "finetune.train_steps 100 → 150",
        "generate": "because finetune runs again",
        "curate": "because generate runs again",
        "localize": "because curate runs again",
    }
    _, changed = foretold(config, stages(store, pairs=20))
    assert changed["localize"].why == "generate.num_pairs 10 → 20; because curate runs again"

    second = ran(config, stages(store, steps=150), day=2)
    _, changed = foretold(config, stages(store, seed=1))  # the adapter of the first run is still there
    assert changed["finetune"].status == "cached"
    assert changed["curate"].why == "seed 0 → 1; another generate"
    assert foretold(config, stages(store, seed=1), first)[1]["curate"].why == "seed 0 → 1"

    shutil.rmtree(stages(store, steps=150)[1].path)
    assert foretold(config, stages(store, steps=150))[1]["finetune"].why == "artifact gone"
    write_run(config, [StageOutcome("finetune", "bolt/dent", None, "failed")], {}, started=datetime.now(UTC))
    assert foretold(config, stages(store, steps=150))[1]["finetune"].why.startswith("failed in ")
    assert foretold(config, stages(store, steps=7), second)[1]["finetune"].why == f"artifact of {second} gone"
    with pytest.raises(AnodiffError, match=f"no run 'nothing' that ended; runs there: .*{first}"):
        foretold(config, stages(store), "nothing")


def test_time_and_room_are_scaled_from_what_was_measured_and_else_unknown(config: RunConfig) -> None:
    ran(config, stages(config.store), seconds=60)
    costs, of = foretold(config, stages(config.store, steps=300, pairs=50))
    assert costs.device == GPU
    assert [(each.cost.seconds, each.cost.bytes) for each in costs.planned if each.cost] == [
        (180, 1000),  # three times the steps, the same adapter
        (300, 5000),
        (300, 1000),  # a table of five times the pairs
        (60, 1000),
    ]
    assert costs.seconds == 840
    assert costs.unknown == []
    assert costs.fits

    # The median of several; another device apart from the first, and on the device of this run's choice.
    ran(config, stages(config.store, steps=200), seconds=60)  # half as long a step
    ran(config, stages(config.store, steps=400), seconds=24_000, device=CPU)
    costs, of = foretold(config, stages(config.store, steps=1000))
    assert of["finetune"].cost is not None
    assert of["finetune"].cost.seconds == pytest.approx(450)
    assert list(costs.elsewhere) == [CPU]

    # A trial tells nothing of a training a thousand times as long: its seconds went by on loading.
    costs, of = foretold(config, stages(config.store, steps=100_000))
    assert of["finetune"].cost is None
    assert costs.unknown == ["finetune"]

    costs, of = foretold(config, stages(config.store, base="hub:another"))
    assert of["finetune"].cost is None
    assert of["generate"].cost is None
    assert of["curate"].cost is not None
    assert costs.unknown == ["finetune", "generate"]

    manifest = stages(config.store)[2].path / MANIFEST
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(told | {"files": {"file": told["files"]["file"] | {"bytes": 10**16}}}))
    costs, _ = foretold(config, stages(config.store, pairs=20))
    assert not costs.fits


def test_stages_at_once_and_a_broken_manifest(config: RunConfig) -> None:
    at_once = config.model_copy(update={"runner": "processes", "workers": 4})
    assert foretold(at_once, stages(config.store))[0].at_once == 4
    assert (
        foretold(config.model_copy(update={"runner": "threads", "workers": 4}), stages(config.store))[
            0
        ].at_once
        == 1
    )
    ran(config, stages(config.store))
    (stages(config.store)[1].path / MANIFEST).write_text("{")
    _, of = foretold(config, stages(config.store, steps=101))
    assert of["finetune"].cost is None
    assert of["finetune"].why.startswith("artifact of ")
