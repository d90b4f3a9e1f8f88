"""Crops of a defect type's shots, as the stage crop left them."""

import json
from pathlib import Path

CROPS = "crops.json"  # side_px, places, left_out


def read_side_px(crops: Path) -> int:
    """Side of the crops in a finished folder, px of the pictures."""
    return int(json.loads((crops / CROPS).read_text())["side_px"])
