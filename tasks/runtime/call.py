"""A stage, declared once; and one call of it, settled before it runs: what it makes, what it is called with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from prefect import Task

from tasks.config import RunConfig
from tasks.store.artifacts import Artifact, plan, refs_in
from tasks.tables.fetch import artifacts_in


class StageResult(TypedDict):
    """The small reference that Prefect keeps as a stage's result; the artifact itself lies in the store."""

    artifact: str
    made: bool  # False: it was there already, made by another run


@dataclass(frozen=True)
class Stage:
    """What there is to know of a stage besides its key and its body, which stand below it in its file."""

    name: str
    version: int  # raised by hand in the commit that changes what the stage makes
    heavy: bool = False  # takes a device, and waits for its turn there
    resumable: bool = False  # what a killed one had written is kept for the next try, besides its checkpoint
    # Inputs of its key that its time and its bytes go by; "pairs": those that it draws, judges or pastes.
    time_by: tuple[str, ...] = ()
    bytes_by: tuple[str, ...] = ()
    sections: tuple[
        str, ...
    ] = ()  # of the configuration, which its key's inputs are fields of; none: of its own name

    def plan(self, store: Path, category: str, /, *, label: str = "", **key: object) -> Artifact:
        """Name what it makes of the inputs in its key."""
        return plan(store, self.name, self.version, category, label=label, **key)


@dataclass(frozen=True)
class Call:
    """One call of a stage. Raises: ValueError if it is called with something that its key does not know.

    `beside_key`: names of inputs that change nothing in what is made.
    """

    stage: Stage
    task: Task[Any, StageResult]
    config: RunConfig
    out: Artifact
    inputs: Mapping[str, Any]
    beside_key: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        named, values = set(refs_in(self.out.inputs)), set(_plain_values(self.out.inputs))
        handed = {name: value for name, value in self.inputs.items() if name not in self.beside_key}
        # What was made from an artifact tells it, too.
        for artifact in artifacts_in(handed):
            if artifact.ref in named:
                named |= set(refs_in(artifact.inputs))
        for name, value in handed.items():
            unknown = [artifact.ref for artifact in artifacts_in(value) if artifact.ref not in named]
            if isinstance(value, str | int | float) and value not in values:
                unknown.append(repr(value))
            if unknown:
                raise ValueError(
                    f"stage {self.stage.name}: {name} is {', '.join(unknown)}, which its key does not know; a change of it "
                    "would go unnoticed. Put it into the key, or into `beside_key` if nothing that is made depends on it"
                )


def _plain_values(inputs: Any) -> Iterator[Any]:
    match inputs:
        case Mapping():
            for each in inputs.values():
                yield from _plain_values(each)
        case list():
            for each in inputs:
                yield from _plain_values(each)
        case str() | int() | float():
            yield inputs
