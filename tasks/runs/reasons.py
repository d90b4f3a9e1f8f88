"""Why a planned stage is not there: compared with the stage of the same label in an earlier run."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tasks.config import RunConfig
from tasks.errors import AnodiffError
from tasks.runtime.call import Call, Stage
from tasks.store.artifacts import refs_in
from tasks.store.place import run_files

NAMES = {
    "mask_threshold": "generate.mask.threshold",
    "split_seed": "seed",
    "num_pairs": "generate.num_pairs",
    "oracle": "compare.oracle",
    "data": "pictures or masks",
    "normals": "finetune.normals",
    "defects": "defects",
    "version": "the stage's version",
}


def stages_of(text: bytes) -> list[dict[str, Any]]:
    """The stages in a run.json, of an older version, too; none if it cannot be read."""
    try:
        return list(json.loads(text)["stages"])
    except (ValueError, KeyError, TypeError):
        return []


class Reasons:
    """Why planned stages are not there, by the stages of the same label in earlier runs."""

    def __init__(
        self,
        store: Path,
        planned: Sequence[Call],
        missing: Set[str],
        manifests: Mapping[str, dict[str, Any]],
        since: str | None,
    ) -> None:
        self.planned, self.missing, self.manifests, self.since = planned, missing, manifests, since
        runs = run_files(store)
        if since is not None and since not in runs:
            known = ", ".join(sorted(runs, reverse=True)[:10]) or "none"
            raise AnodiffError(f"{store}: no run {since!r} that ended; runs there: {known}")
        self.names = [since] if since is not None else sorted(runs, reverse=True)
        self.runs = {name: dict(_numbered(stages_of(runs[name]))) for name in self.names}
        self.keys = [
            key for key, _ in _numbered([{"stage": p.stage.name, "label": p.out.label} for p in planned])
        ]

    def of(self, position: int) -> str:
        """Why one stage is to be done."""
        call, key = self.planned[position], self.keys[position]
        out = call.out
        run = next((name for name in self.names if key in self.runs[name]), None)
        if run is None:
            return "no earlier run" if self.since is None else f"not in {self.since}"
        earlier = self.runs[run][key]
        if earlier["artifact"] is None:
            return f"{earlier['status']} in {run}"
        if earlier["artifact"] == out.ref:
            return "artifact damaged" if out.path.exists() else "artifact gone"
        before = self.manifests.get(earlier["artifact"])
        if before is None:
            return f"artifact of {run} gone"
        return "; ".join(self._changes(call, before["inputs"])) or f"other inputs than in {run}"

    def _changes(self, call: Call, before: Mapping[str, Any]) -> Iterator[str]:
        again: list[str] = []
        other: list[str] = []
        inputs = call.out.inputs
        newer = before.get("version") != inputs["version"]
        for path, old, new in _differences(before, inputs):
            if newer and old is None:
                continue  # what the earlier version did not have
            before_refs, refs = set(refs_in([old])), list(refs_in([new]))
            if not before_refs and not refs:
                yield f"{setting(call.stage, path)} {change_text(old, new)}"
                continue
            for ref in refs:
                if ref not in before_refs:
                    (again if ref in self.missing else other).append(ref.split("/")[0])
            if not refs:
                other += [ref.split("/")[0] for ref in sorted(before_refs)]
        for stage in dict.fromkeys(again):
            yield f"because {stage} runs again"
        for stage in dict.fromkeys(other):
            if stage not in again:
                yield f"another {stage}"


def _numbered(
    stages: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[tuple[str, str, int], Mapping[str, Any]]]:
    """Stages by stage, label, and how many of that label came before: pairs can be drawn in several rounds."""
    seen: Counter[tuple[str, str]] = Counter()
    for stage in stages:
        name = stage["stage"], stage["label"]
        yield (*name, seen[name]), stage
        seen[name] += 1


def _differences(old: Any, new: Any, above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted paths at which two manifests' inputs differ, with both values (None where there is none)."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), f"{above}.{key}" if above else str(key))
    elif old != new:
        yield above, old, new


def setting(stage: Stage, path: str) -> str:
    """An input of a stage as the configuration names it."""
    first = path.split(".")[0]
    for section in stage.sections or (stage.name,):
        model = RunConfig.model_fields[section].annotation if section in RunConfig.model_fields else None
        if isinstance(model, type) and issubclass(model, BaseModel) and first in model.model_fields:
            return f"{section}.{path}"
    return NAMES.get(first, path)


def change_text(old: Any, new: Any) -> str:
    """A change in words; of what a digest stands for, only that it changed."""
    texts = [
        "none" if value is None else value if isinstance(value, str) else json.dumps(value)
        for value in (old, new)
    ]
    is_digest = any(
        isinstance(value, str) and len(value) >= 16 and set(value.split(":")[-1]) <= set("0123456789abcdef")
        for value in (old, new)
    )
    if is_digest or max(map(len, texts)) > 60:
        return "changed"
    return f"{texts[0]} → {texts[1]}"
