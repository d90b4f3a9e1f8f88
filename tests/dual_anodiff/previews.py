"""Previews of wished pairs, since an adapter of a few steps draws no defects to judge by."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dual_anodiff.regions import RegionGuide

SIZE = 64


def squares(*sides: int) -> Tensor:
    """Anomaly parts of 64 px with a bright square of so many px."""
    parts = torch.zeros(len(sides), 3, SIZE, SIZE)
    for part, side in zip(parts, sides, strict=True):
        part[:, :side, :side] = 1
    return parts


def judge_by_coin(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Previews are drawn, but their noise tosses a coin instead. Returns: how many were, the last to be counted up."""
    settle, tries = RegionGuide.settle, [0]

    def by_coin(guide: RegionGuide, noise: Tensor, draw: Any, preview: Any) -> Tensor:
        def judged(which: list[int], some: Tensor) -> Tensor:
            assert preview(which, some).shape == (len(which), 3, SIZE, SIZE)
            tries[-1] += 1
            return squares(*(20 if each.mean() > 0 else 0 for each in some))

        return settle(guide, noise, draw, judged)

    monkeypatch.setattr(RegionGuide, "settle", by_coin)
    return tries
