"""All defects. A defect changes height, albedo, gloss or outline within a soft region; light does the rest.

The mask is the region itself (above one half), so it is exact by construction.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dual_anodiff.procedural import parts
from dual_anodiff.procedural.cloth import fold, thread_pulled
from dual_anodiff.procedural.marks import contamination, glue, paint, scratch, stain
from dual_anodiff.procedural.place import Place, place
from dual_anodiff.procedural.relief import chip, crack, dent, hole
from dual_anodiff.procedural.shape import bent, broken_edge, burr, missing_part
from dual_anodiff.procedural.surface import Surface

__all__ = ["DEFECTS", "DEMO_SIZE", "PRETRAIN_SIZE", "SUITS", "Defect", "Place", "place"]

Defect = Callable[[Surface, Place], tuple[Surface, Tensor]]

# Radius of a defect in half picture widths: what pretraining sees, and what the demo draws. They never meet.
PRETRAIN_SIZE = (0.07, 0.22)
DEMO_SIZE = (0.23, 0.30)


def _on_part(defect: Defect) -> Defect:
    """The defect with its region limited to where the old or the new surface is on the part."""

    def limited(surface: Surface, where: Place) -> tuple[Surface, Tensor]:
        damaged, region = defect(surface, where)
        return damaged, torch.minimum(region, torch.maximum(surface.inside, damaged.inside))

    return limited


_ON_ALL: dict[str, Defect] = {
    "scratch": scratch,
    "crack": crack,
    "dent": dent,
    "hole": hole,
    "stain": stain,
    "paint": paint,
    "contamination": contamination,
    "chip": chip,
    "glue": glue,
}
_ON_OBJECTS: dict[str, Defect] = {
    "burr": burr,
    "broken edge": broken_edge,
    "missing part": missing_part,
    "bent": bent,
}
_ON_CLOTHS: dict[str, Defect] = {"thread pulled": thread_pulled}
_ON_SHEETS: dict[str, Defect] = {"fold": fold}

DEFECTS: dict[str, Defect] = {
    name: _on_part(defect) for name, defect in (_ON_ALL | _ON_OBJECTS | _ON_CLOTHS | _ON_SHEETS).items()
}

# The kinds on which each defect makes sense.
SUITS: dict[str, tuple[str, ...]] = (
    dict.fromkeys(_ON_ALL, tuple(parts.KINDS))
    | dict.fromkeys(_ON_OBJECTS, tuple(parts.OBJECTS))
    | dict.fromkeys(_ON_CLOTHS, parts.CLOTHS)
    | dict.fromkeys(_ON_SHEETS, parts.SHEETS)
)
