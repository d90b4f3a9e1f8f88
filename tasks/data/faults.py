"""What is wrong with data: which file, what was found, what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Fault:
    """One thing wrong with the data: an error refuses the run, a warning does not."""

    severity: Literal["error", "warning"]
    path: Path
    what: str
    fix: str


def has_errors(faults: Iterable[Fault]) -> bool:
    """Whether a run must refuse this data."""
    return any(fault.severity == "error" for fault in faults)


def faults_text(faults: Iterable[Fault], root: Path | None = None) -> str:
    """One line a fault: severity, path (relative to `root`), what, and what to do."""
    roots = () if root is None else (root.absolute(), root.resolve())
    lines = []
    for fault in faults:
        inside = next((base for base in roots if fault.path.is_relative_to(base)), fault.path)
        path = fault.path if inside == fault.path else fault.path.relative_to(inside)
        lines.append(f"{fault.severity}: {path}: {fault.what}; {fault.fix}")
    return "\n".join(lines)


def names_of(paths: Iterable[Path], shown: int = 4) -> str:
    """The first few names, and how many more there are."""
    names = [path.name for path in paths]
    more = [f"{len(names) - shown} more"] if len(names) > shown else []
    return ", ".join(names[:shown] + more)
