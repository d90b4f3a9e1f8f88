"""Prose: order and fan-out of the stages. No torch, no pixels, no file formats."""

# Sets Prefect's environment before any flow imports Prefect.
import tasks  # noqa: F401
