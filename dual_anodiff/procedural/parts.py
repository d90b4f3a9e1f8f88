"""All kinds: parts (objects) and textures.

Every kind is a function of part coordinates and a vector u of shape parameters in [0, 1], so that a category is a
kind with a fixed u. Pretraining draws u[0] and u[1] from [0, 0.7], the demo from [0.8, 1]: the two never meet.
"""

from dual_anodiff.procedural.objects import OBJECTS
from dual_anodiff.procedural.textures import CLOTHS, SHEETS, TEXTURES

__all__ = [
    "CLOTHS",
    "DEMO_RANGE",
    "KINDS",
    "NUM_PARAMETERS",
    "OBJECTS",
    "PRETRAIN_RANGE",
    "SHEETS",
    "TEXTURES",
]

NUM_PARAMETERS = 6
PRETRAIN_RANGE = (0.0, 0.7)
DEMO_RANGE = (0.8, 1.0)

KINDS = OBJECTS | TEXTURES
