"""A run's configuration beside the preset that it is nearest to, and the command that asks for it again."""

import json
import shlex
from typing import Any

from tasks.config import PRESETS, RunConfig, load_config
from tasks.errors import ConfigError

# What is given by options of their own, and where the run lay.
OPTIONS = ("data", "store", "categories", "defects", "device")


def nearest_preset(config: RunConfig) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """The preset that the fewest values differ from, and these by dotted name: the run's, the preset's."""
    own = _leaves(config)
    found = {}
    for path in sorted(PRESETS.glob("*.yaml")):
        try:
            preset = _leaves(load_config(path.stem, data=config.data))
        except ConfigError:  # its own values may name files that are not on this machine
            continue
        found[path.stem] = {
            name: (value, preset.get(name)) for name, value in own.items() if preset.get(name) != value
        }
    name = min(found, key=lambda each: len(found[each]))
    return name, found[name]


def run_command(config: RunConfig, data: str) -> list[str]:
    """`anodiff run` with what it takes to get this configuration, an option each."""
    name, differing = nearest_preset(config)
    parts = [f"anodiff run --config {name} --data {shlex.quote(data)}"]
    for option in ("categories", "defects"):
        chosen = getattr(config, option)
        if chosen is not None:
            parts.append(f"--{option} {shlex.quote(','.join(chosen))}")
    return parts + [
        f"--set {shlex.quote(f'{key}={json.dumps(value)}')}" for key, (value, _) in differing.items()
    ]


def _leaves(config: RunConfig) -> dict[str, Any]:
    """Values by dotted name, but those that have options of their own."""
    found: dict[str, Any] = {}

    def walk(values: dict[str, Any], above: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                walk(value, f"{above}{name}.")
            else:
                found[f"{above}{name}"] = value

    walk(config.model_dump(mode="json", exclude=set(OPTIONS)), "")
    return found
