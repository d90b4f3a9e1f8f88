"""The docs site: built with warnings as errors, whole without a network, every field and every command on it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel
from typer.main import get_command

from flows.cli import app
from tasks.config import RunConfig

ROOT = Path(__file__).parent.parent.parent
# What a browser fetches by itself, unlike a link that a reader may follow.
FETCHED = re.compile(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?([^\">\s]+)|<link(?=[^>]*rel=\"?(?:stylesheet|preload|"
                     r"preconnect|icon))[^>]*href=\"?([^\">\s]+)")  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def fields(model: type[BaseModel]) -> list[str]:
    """Names of a model's fields and of those within."""
    names = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        inner = isinstance(kind, type) and issubclass(kind, BaseModel)
        names += fields(kind) if inner and isinstance(kind, type) else [name]
    return names


def test_every_field_of_the_configuration_is_explained(site: Path) -> None:
    page = (site / "configuration.html").read_text()
    missing = [name for name in fields(RunConfig) if f">{name}</code></td>" not in page]
    assert not missing
    assert re.search(
        r"demo:(&nbsp;|\xa0)<code[^>]*>150</code>", page
    )  # finetune.train_steps of the preset, beside the default


def test_every_command_is_there_with_its_options(site: Path) -> None:
    page = (site / "commands.html").read_text()
    command = get_command(app)
    for name in command.list_commands(typer.Context(command)):  # type: ignore[attr-defined]
        assert re.search(rf'<h2 id="{name}[a-z-]*"', page), name
    assert "--resume RUN" in page


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.glob("**/*.html"):
        for found in FETCHED.findall(page.read_text()):
            assert not any(re.match(r"(https?:)?//", each) for each in found), (page.name, found)
    for sheet in site.glob("**/*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import ['\"]?https?:", sheet.read_text()), sheet.name


def test_each_page_of_docs_is_reached_and_its_pictures_are_small(site: Path) -> None:
    home = (site / "index.html").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        if page.name != "index.md":
            assert f'href="{page.stem}.html"' in home, page.name
    assert sum(picture.stat().st_size for picture in (ROOT / "docs" / "images").iterdir()) < 1_500_000
