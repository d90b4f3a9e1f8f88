"""The demo's data set, drawn into a folder."""

from collections.abc import Sequence
from pathlib import Path


def draw_demo_data(root: Path, categories: Sequence[str] | None, seed: int) -> None:
    """Draw the procedural data set in MVTec AD layout."""
    from dual_anodiff.demo_data import write_demo_data

    write_demo_data(root, categories=categories, seed=seed)
