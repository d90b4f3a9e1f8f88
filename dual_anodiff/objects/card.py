"""objects.json: what was found of a category's objects, to be read without torch."""

import json
from pathlib import Path
from typing import Any

from dual_anodiff.errors import InputError

CARD = "objects.json"


def read_card(folder: Path) -> dict[str, Any]:
    """Kind, reason, figures and px alone. Raises: InputError if objects.json is missing or broken."""
    try:
        card = json.loads((folder / CARD).read_text())
        return {name: card[name] for name in ("kind", "reason", "figures", "px")}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder / CARD}: can't be read ({error}); find the objects again") from error
