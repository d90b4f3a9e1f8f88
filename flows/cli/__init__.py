"""The command line, `anodiff` or `python -m flows.cli`: parse, call a flow, print. Prefect and torch wait to be needed."""

from flows.cli.commands import app, main

__all__ = ["app", "main"]
