"""What `dual_anodiff` raises on purpose. Each message names the file or field, what was found, what to do.

DualAnoDiffError
├── BaseModelError   the base model's folder or hub id is missing, or is not a pipeline that we can adapt
├── AdapterError     an adapter's files are missing, broken, or made for another base
├── WeightsError     the image encoder's weights are missing, or are others than those known
└── InputError       a picture, mask or argument can't be used
    └── UnreadableError   a file that can't be read as a picture or mask, or in more than one way
"""

from pathlib import Path


class DualAnoDiffError(ValueError):
    """Root of this library's errors."""


class BaseModelError(DualAnoDiffError):
    """The base model can't be found or used."""


class AdapterError(DualAnoDiffError):
    """An adapter can't be read, or does not fit its base."""


class WeightsError(DualAnoDiffError):
    """The image encoder's weights can't be found or used."""


class InputError(DualAnoDiffError):
    """A picture, a mask or an argument can't be used."""


class UnreadableError(InputError):
    """A picture or mask file can't be read, or could be read in more than one way."""

    def __init__(self, path: str | Path, what: str, fix: str) -> None:
        super().__init__(path, what, fix)
        self.path, self.what, self.fix = Path(path), what, fix

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.fix}"
