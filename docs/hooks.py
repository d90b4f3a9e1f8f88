"""Pages that mkdocs makes from the code: every configuration field, every command, and what lies outside of docs/.

`mkdocs build` calls `on_files`. Nothing else imports this file but its test.
"""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).parent.parent
SHORT = 26  # characters
PRESETS = ("demo", "cpu", "mvtec", "paper")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages to those of docs/."""
    pages = {
        "configuration.md": configuration_page(),
        "commands.md": commands_page(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def configuration_page() -> str:
    """Every field of a run's configuration: a section each, as one writes it in YAML and after --set."""
    from tasks.config import RunConfig

    presets = {
        name: yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text()) or {} for name in PRESETS
    }
    head = (
        "# Configuration\n\n"
        "A run reads one YAML file, a preset (`--config demo`) or yours (`--config mine.yaml`), and `--set a.b=c` over "
        "it, as often as needed; the value is YAML, too: `--set 'compare.seeds=[0, 1, 2]'`. A file holds only what "
        "differs from the defaults below. An unknown key, or a value out of its range, is refused before anything "
        "runs, with the key that was probably meant.\n\n"
        f"Presets: {', '.join(f'`{name}`' for name in PRESETS)}. Where one says something, its value stands beside the "
        "default.\n"
    )
    return "\n".join([head, *_sections(RunConfig, (), presets, RunConfig.model_json_schema())])


def _sections(
    model: type[BaseModel], path: tuple[str, ...], presets: dict[str, Any], schema: dict[str, Any]
) -> Iterator[str]:
    title = ".".join(path)
    yield f"## {title}\n" if len(path) == 1 else f"### {title}\n" if path else "## The run\n"
    if path:
        yield f"{(model.__doc__ or '').strip()}\n"
    plain = {name: field for name, field in model.model_fields.items() if _inner(field) is None}
    if plain:
        yield "| field | default | allowed | what it does |\n|---|---|---|---|"
        yield from (_row((*path, name), field, model, presets, schema) for name, field in plain.items())
        yield ""
    for name, field in model.model_fields.items():
        inner = _inner(field)
        if inner is not None:
            yield from _sections(inner, (*path, name), presets, schema)


def _row(
    path: tuple[str, ...],
    field: FieldInfo,
    model: type[BaseModel],
    presets: dict[str, Any],
    schema: dict[str, Any],
) -> str:
    from tasks.config_faults import _allowed  # what an error says is allowed, too

    at = (schema["$defs"].get(model.__name__) or schema)["properties"][path[-1]]
    default = "needed" if field.is_required() else _value(field.get_default(call_default_factory=True))
    values = {name: _at(values, path) for name, values in presets.items()}
    told = [f"{name}:&nbsp;{_value(value)}" for name, value in values.items() if value is not None]
    cells = [
        _code(path[-1]),
        "<br>".join([default, *told]),
        _cell(_allowed(at, schema)),
        _cell(field.description or ""),
    ]
    return f"| {' | '.join(cells)} |"


def _inner(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _value(value: object) -> str:
    """A value as YAML writes it."""
    match value:
        case None:
            return "–"
        case bool():
            return _code(str(value).lower())
        case tuple() | list():
            return _code("[" + ", ".join(str(each) for each in value) + "]")
        case dict():
            return _code("{" + ", ".join(f"{name}: {each}" for name, each in value.items()) + "}")
        case _:
            return _code(str(value))


def commands_page() -> str:
    """Every command with its options, as its --help tells them."""
    from typer.main import get_command

    from flows.cli import app

    command = get_command(app)
    context = typer.Context(command, info_name="anodiff")
    head = (
        "# Commands\n\n"
        "`anodiff --help`, and `--help` after each command, say the same. `anodiff --install-completion` teaches your "
        "shell commands, options, presets, runs and categories.\n\n"
        "Exit codes: 0 done; 1 something in a run failed, or an artifact is damaged; 2 bad input, refused before "
        "anything was trained; 130 and 143 stopped by Ctrl-C and by SIGTERM.\n\n"
        "`--json` writes one JSON document to stdout, also of an error (`error`, `exit_code`); log lines go to stderr. "
        "`--quiet` leaves warnings, errors and the result.\n"
    )
    return "\n".join([head, *_commands(command, context)])


def _commands(command: Any, context: Any) -> Iterator[str]:
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        inside = type(context)(child, info_name=name, parent=context)
        if hasattr(child, "list_commands"):
            yield from _commands(child, inside)
            continue
        yield f"## {inside.command_path.removeprefix('anodiff ')}\n"
        yield f"{child.help}\n"
        usage = " ".join(child.collect_usage_pieces(inside))
        examples = (child.epilog or "").removeprefix("Example:\n\n").split("\n\n")
        yield f"{_code(f'{inside.command_path} {usage}')}\n"
        yield "\n".join(["```console", *(f"$ {line}" for line in examples if line), "```\n"])
        records = [record for param in child.get_params(inside) if (record := param.get_help_record(inside))]
        yield "| option | what it does |\n|---|---|"
        yield from (f"| {_code(name)} | {_cell(text)} |" for name, text in records if name != "--help")
        yield ""


def _code(text: str) -> str:
    """Code in a table's cell, where a bar would end it; on one line if it is short."""
    short = ' class="short"' if len(text) <= SHORT else ""
    return f"<code{short}>{_cell(html.escape(text, quote=False))}</code>"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "&#124;").replace("{", "&#123;").replace("*", "&#42;")
