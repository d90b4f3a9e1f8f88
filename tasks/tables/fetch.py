"""Artifacts that a stage reads: all of them on this machine and whole before it starts."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from tasks.store.artifacts import Artifact, artifact_of, read_manifest, refs_in, require

# Their tables name files of the artifacts that they were made from, by this input of theirs.
TABLES_NAME_FILES_OF = {"curate": "pairs", "review": "pairs", "blend": "pairs"}


def artifacts_in(value: Any) -> Iterator[Artifact]:
    """Every artifact in what a stage is called with."""
    match value:
        case Artifact():
            yield value
        case Mapping():
            for each in value.values():
                yield from artifacts_in(each)
        case list() | tuple():
            for each in value:
                yield from artifacts_in(each)
        case _ if is_dataclass(value) and not isinstance(value, type):
            for field in fields(value):
                yield from artifacts_in(getattr(value, field.name))


def fetch_all(value: Any) -> None:
    """See that every artifact in `value` is on this machine and whole, and those whose files its table names; fetch them.

    Raises: ArtifactError if one is gone or damaged, StoreUnreachableError if it may lie elsewhere and that does not answer.
    """
    waiting, seen = list(artifacts_in(value)), set[str]()
    while waiting:
        artifact = waiting.pop()
        if artifact.ref in seen:
            continue
        seen.add(artifact.ref)
        require(artifact)
        if artifact.stage in TABLES_NAME_FILES_OF:
            inputs = read_manifest(artifact)["inputs"]
            drawn = refs_in(inputs.get(TABLES_NAME_FILES_OF[artifact.stage]))
            waiting += [artifact_of(artifact.store, ref) for ref in drawn]
