"""How far a stage is: a bar on a terminal, a line a minute elsewhere, and a progress artifact in Prefect's UI."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from prefect.settings import get_current_settings
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from downstream.progress import heard_by as downstream_heard_by
from dual_anodiff.progress import heard_by
from tasks.artifacts import Artifact
from tasks.runner import IN_WORKER
from tasks.server import is_own_server

log = logging.getLogger("anodiff")

LINE_EVERY_S, ARTIFACT_EVERY_S = 60.0, 5.0


@dataclass
class Told:
    """Where a stage's progress goes; called by the loops of the libraries."""

    out: Artifact
    bar: Progress | None
    in_ui: bool
    began: float = field(default_factory=time.monotonic)
    first: int | None = None
    last_line: float = field(default_factory=time.monotonic)
    last_artifact: float = 0.0
    row: TaskID | None = None
    artifact: UUID | None = None

    def __call__(self, done: int, total: int, unit: str, loss: float | None) -> None:
        """Note that `done` of `total` are there."""
        now = time.monotonic()
        if self.first is None:  # a resumed stage has not done in this time what was there
            self.first, self.began = done, now
        rate = (done - self.first) / (now - self.began) if now > self.began else 0.0
        text = f"{rate:.1f} {unit}/s" + ("" if loss is None else f", loss {loss:.3f}")
        if self.bar is not None:
            if self.row is None:
                self.row = self.bar.add_task(f"{self.out.stage} {self.out.label}", total=total, text=text)
            self.bar.update(self.row, completed=done, total=total, text=text)
        elif now - self.last_line >= LINE_EVERY_S:
            self.last_line = now
            left = f", {(total - done) / rate / 60:.0f} min left" if rate else ""
            log.info(
                "%-9s %s: %d of %d %ss, %s%s", self.out.stage, self.out.label, done, total, unit, text, left
            )
        if self.in_ui and (now - self.last_artifact >= ARTIFACT_EVERY_S or done == total):
            self.last_artifact = now
            self._show(100 * done / total, f"{done} of {total} {unit}s, {text}")

    def _show(self, percent: float, text: str) -> None:
        """A server that is gone for a moment must not end a training of hours."""
        try:
            if self.artifact is None:
                key = f"{self.out.stage}-{self.out.digest}"
                self.artifact = create_progress_artifact(percent, key=key, description=self.out.label)  # type: ignore[assignment]
            else:
                update_progress_artifact(self.artifact, percent, description=f"{self.out.label}: {text}")
        except (PrefectException, httpx.HTTPError, OSError) as error:
            log.debug("no progress artifact: %s", error)


@contextmanager
def progress_shown(out: Artifact) -> Iterator[None]:
    """Within, the progress of either library is that of this stage."""
    with ExitStack() as stack:
        bar = None
        if sys.stderr.isatty() and IN_WORKER not in os.environ:
            columns = (
                TextColumn("         {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
            )
            bar = stack.enter_context(Progress(*columns, console=Console(file=sys.stderr), transient=True))
        told = Told(out, bar, in_ui=not is_own_server(get_current_settings().api.url))
        stack.enter_context(heard_by(told))
        stack.enter_context(downstream_heard_by(told))
        yield
