"""Pages of ours: templates that lie here, each filled to one file that needs nothing else."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

FOLDER = Path(__file__).parent


@cache
def environment() -> "Environment":
    """Templates of this folder; what is put into them is escaped, a name that is not given is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"ticks": ticks, "anchor": anchor}
    return made


def ticks(text: str) -> "Markup":
    """Text for a page, what stands in `backquotes` as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def anchor(name: str) -> str:
    """A name as the id of an element: without spaces, and unlike the page's own ids."""
    return "of-" + re.sub(r"[^\w.-]", "_", name)


def render(template: str, values: Mapping[str, object]) -> str:
    """Fill the template of this name, `NAME.html.jinja`."""
    return environment().get_template(f"{template}.html.jinja").render(values)
