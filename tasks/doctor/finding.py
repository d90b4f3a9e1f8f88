"""What `anodiff doctor` found of one thing."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """A fault keeps a run from starting or ending; a warning does not."""

    what: str
    state: Literal["ok", "warning", "fault"]
    found: str
    fix: str = ""
