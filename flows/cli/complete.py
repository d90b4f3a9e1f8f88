"""What the shell is offered after a Tab: presets, runs, categories. It must answer at once, so nothing is imported."""

from pathlib import Path

import typer

DEFAULT_STORE = Path(".anodiff/store")
PRESETS = Path(__file__).parents[2] / "configs"


def presets(incomplete: str) -> list[str]:
    """The presets, and YAML files here."""
    known = [path.stem for path in sorted(PRESETS.glob("*.yaml"))]
    return [name for name in [*known, *_yaml_files(incomplete)] if name.startswith(incomplete)]


def run_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """The runs of the store that is named, newest first, and latest; of a store elsewhere those that were fetched."""
    store = Path(ctx.params.get("store") or DEFAULT_STORE)
    ended = sorted((path.parent.name for path in store.glob("runs/*/run.json")), reverse=True)
    return [name for name in ["latest", *ended] if name.startswith(incomplete)]


def categories(ctx: typer.Context, incomplete: str) -> list[str]:
    """The categories of the folder that --data names; after a comma the next one."""
    before, comma, last = incomplete.rpartition(",")
    data = ctx.params.get("data")
    if data is None:
        return []
    folders = sorted(path.parent.parent.name for path in Path(data).glob("*/train/good"))
    taken = before.split(",")
    return [before + comma + name for name in folders if name.startswith(last) and name not in taken]


def _yaml_files(incomplete: str) -> list[str]:
    return [str(path) for path in sorted(Path().glob(f"{incomplete}*.y*ml"))]
