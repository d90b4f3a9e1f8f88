"""What a plan will cost: each stage compared with what the store's earlier runs took for the same.

Times and bytes are those of the same stage with the same base or encoder, scaled by what it has more or less to do.
Nothing is guessed: of what was never run here, or only at another size, the cost is unknown.
"""

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from tasks.config import RunConfig
from tasks.runs.reasons import Reasons, stages_of
from tasks.runtime.call import Call
from tasks.store.artifacts import MANIFEST, Artifact, refs_in
from tasks.store.layout import artifacts_folder
from tasks.store.place import MIN_FREE_GB, at_once, read, remote_of, run_files

SCALED_BY = 10  # at most; what took less or more than that tells nothing
# A mini model's hour says nothing of Stable Diffusion's.
SAME = ("base", "encoder", "backbone", "model", "kind")


@dataclass(frozen=True)
class Cost:
    """What one stage took once, or will take."""

    seconds: float
    bytes: float


@dataclass(frozen=True)
class Forecast:
    """One planned stage."""

    out: Artifact
    status: str  # "cached" or "planned"
    why: str  # of a planned one
    cost: Cost | None  # of a planned one on `Plan.device`, None: unknown


@dataclass(frozen=True)
class Plan:
    """All of a run's stages, and whether there is room for them."""

    stages: tuple[Forecast, ...]
    device: str | None  # that times are of; None: none of its stages ever ran
    elsewhere: dict[str, float]  # seconds on other devices that ran all that is to be done
    at_once: int
    free_bytes: int

    @cached_property
    def planned(self) -> list[Forecast]:
        """What is to be done."""
        return [stage for stage in self.stages if stage.status == "planned"]

    @property
    def unknown(self) -> list[str]:
        """Stages like which none ran here."""
        return list(dict.fromkeys(each.out.stage for each in self.planned if each.cost is None))

    @property
    def seconds(self) -> float:
        """As far as it is known."""
        return sum(each.cost.seconds for each in self.planned if each.cost is not None)

    @property
    def bytes(self) -> float:
        """As far as it is known."""
        return sum(each.cost.bytes for each in self.planned if each.cost is not None)

    @property
    def fits(self) -> bool:
        """Whether what is known of it fits on the disk."""
        return self.bytes + MIN_FREE_GB * 1e9 <= self.free_bytes


def forecast(config: RunConfig, planned: Sequence[Call], missing: Set[str], since: str | None = None) -> Plan:
    """Hold planned stages against a store's runs: why each is to be done, for how long, with how much to keep.

    `missing`: names of the artifacts that are not there. `since`: the run that misses are explained by; None: the latest
    one that has that stage.
    Raises: AnodiffError if there is no such run.
    """
    manifests = read_manifests(config.store)
    whys = Reasons(config.store, planned, missing, manifests, since)
    records = Records(planned, manifests)
    to_do = [call for call in planned if call.out.ref in missing]
    devices = records.devices(to_do)
    device = _device_here(config, devices)
    costs = {call.out.ref: records.cost(call, device) for call in to_do}
    elsewhere = {}
    for other in devices:
        found = [records.cost(call, other) for call in to_do]
        if other != device and all(found):
            elsewhere[other] = sum(each.seconds for each in found if each is not None)
    stages = []
    for position, call in enumerate(planned):
        out, hit = call.out, call.out.ref not in missing
        stages.append(
            Forecast(out, "cached", "", None)
            if hit
            else Forecast(out, "planned", whys.of(position), costs[out.ref])
        )
    there = next(path for path in (config.store, *config.store.absolute().parents) if path.exists())
    at_once = 1 if config.runner in ("serial", "threads") else config.workers
    return Plan(tuple(stages), device, elsewhere, at_once, shutil.disk_usage(there).free)


def read_manifests(store: Path) -> dict[str, dict[str, Any]]:
    """Every manifest of a store by its artifact's name, from here and from a store elsewhere; broken ones left out."""
    below = artifacts_folder(store)
    texts = {
        path.parent.relative_to(below).as_posix(): path.read_bytes()
        for path in below.glob(f"*/*/*/{MANIFEST}")
    }
    remote = remote_of(store)
    if remote is not None:
        refs = {str(each) for text in run_files(store).values() for each in _refs_of_run(text)} - set(texts)
        names = sorted(refs)
        found = at_once(lambda ref: read(remote, f"artifacts/{ref}/{MANIFEST}"), names)
        texts |= {ref: text for ref, text in zip(names, found, strict=True) if text is not None}
    manifests = {}
    for ref, text in texts.items():
        try:
            manifest = json.loads(text)
            if {"inputs", "seconds", "device", "files"} <= set(manifest):
                manifests[ref] = manifest
        except (ValueError, TypeError):
            continue
    return manifests


def _refs_of_run(text: bytes) -> Iterator[str]:
    for stage in stages_of(text):
        if stage["artifact"] is not None:
            yield stage["artifact"]


class Records:
    """What stages took, by stage, the model that they work with, and the device."""

    def __init__(self, planned: Sequence[Call], manifests: Mapping[str, dict[str, Any]]) -> None:
        self.inputs: dict[str, Mapping[str, Any]] = {
            ref: manifest["inputs"] for ref, manifest in manifests.items()
        }
        self.inputs |= {call.out.ref: call.out.inputs for call in planned}
        self.known: dict[tuple[str, str], dict[str, list[tuple[str, Cost]]]] = {}
        for ref, manifest in manifests.items():
            stage = ref.split("/")[0]
            size = sum(entry["bytes"] for entry in manifest["files"].values())
            of_kind = self.known.setdefault((stage, self._same(manifest["inputs"])), {})
            cost = Cost(float(manifest["seconds"]), float(size))
            of_kind.setdefault(str(manifest["device"]), []).append((ref, cost))

    def cost(self, call: Call, device: str | None) -> Cost | None:
        """What a stage will take on a device: the median of earlier ones, scaled; None if there was nothing like it."""
        stage, out = call.stage, call.out
        by_device = self.known.get((stage.name, self._same(out.inputs)), {})
        if stage.heavy:
            records = by_device.get(device or "", [])
        else:
            records = [each for of_device in by_device.values() for each in of_device]
        work, size = self._amount(out.inputs, stage.time_by), self._amount(out.inputs, stage.bytes_by)
        # Loading a model takes as long for one step as for a thousand: a trial's seconds times 500 are hours too many.
        records = [
            (ref, cost)
            for ref, cost in records
            if 1 / SCALED_BY <= work / self._amount(self.inputs[ref], stage.time_by) <= SCALED_BY
        ]
        if not records:
            return None
        return Cost(
            median(
                cost.seconds * work / self._amount(self.inputs[ref], stage.time_by) for ref, cost in records
            ),
            median(
                cost.bytes * size / self._amount(self.inputs[ref], stage.bytes_by) for ref, cost in records
            ),
        )

    def devices(self, planned: Sequence[Call]) -> list[str]:
        """The devices that heavy stages of these kinds ran on, the most used first."""
        kinds = {(call.stage.name, self._same(call.out.inputs)) for call in planned if call.stage.heavy}
        used: Counter[str] = Counter()
        for kind in kinds:
            used.update({d: len(of_device) for d, of_device in self.known.get(kind, {}).items()})
        return [name for name, _ in used.most_common()]

    def _same(self, inputs: Mapping[str, Any]) -> str:
        """The model that a stage works with, from its inputs or those of its adapter."""
        adapter = inputs.get("adapter")
        if isinstance(adapter, str):
            inputs = self.inputs.get(adapter, {})
            return json.dumps([inputs.get("base"), inputs.get("size_px")])
        return json.dumps([inputs.get(name) for name in SAME])

    def _amount(self, inputs: Mapping[str, Any], by: tuple[str, ...]) -> float:
        """How much there is to do, in a unit that only this stage has."""
        return math.prod(self._number(inputs, name) for name in by)

    def _number(self, inputs: Mapping[str, Any], name: str) -> float:
        if name == "pairs":
            return self._pairs(inputs) or 1.0
        value: Any = inputs
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value == "auto":  # as many as it may come to
            value = inputs["auto_steps"][1]
        if isinstance(value, list):
            value = len(value)
        return float(value) if isinstance(value, int | float) and value else 1.0

    def _pairs(self, inputs: Mapping[str, Any]) -> float:
        """Pairs that a stage draws, or that those before it drew."""
        if isinstance(inputs.get("num_pairs"), int):
            return float(inputs["num_pairs"])
        above = [self.inputs[ref] for ref in refs_in(inputs.get("pairs")) if ref in self.inputs]
        return sum(self._pairs(each) for each in above)


def _device_here(config: RunConfig, devices: Sequence[str]) -> str | None:
    """The device that a run would use here, if a stage to be done ran on it; else the one that most ran on.

    Without torch, whose import takes longer than the whole plan.
    """
    cuda = config.device != "cpu" and Path("/dev/nvidia0").exists()
    mine = [name for name in devices if name.startswith("cuda" if cuda else f"cpu ({os.cpu_count()} ")]
    return next(iter([*mine, *devices]), None)
