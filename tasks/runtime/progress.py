"""How far a stage is: a bar on a run's terminal, a line a minute elsewhere, and a progress artifact in Prefect's UI."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.settings import get_current_settings

from downstream.progress import reported_to as downstream_reported_to
from dual_anodiff.progress import reported_to
from tasks.runtime.board import Row, is_shown, show
from tasks.runtime.server import is_own_server
from tasks.store.artifacts import Artifact

log = logging.getLogger("anodiff")

LINE_EVERY_S, ARTIFACT_EVERY_S, ROW_EVERY_S = 60.0, 5.0, 0.1


@dataclass
class StageProgress:
    """Where a stage's progress goes; called by the loops of the libraries."""

    out: Artifact
    on_board: bool
    in_ui: bool
    began: float = field(default_factory=time.monotonic)
    first: int | None = None
    last_line: float = field(default_factory=time.monotonic)
    last_artifact: float = 0.0
    last_row: float = 0.0
    artifact: UUID | None = None

    def __call__(self, done: int, total: int, unit: str, loss: float | None) -> None:
        """Note that `done` of `total` are there."""
        now = time.monotonic()
        if self.first is None:  # a resumed stage has not done in this time what was there
            self.first, self.began = done, now
        rate = (done - self.first) / (now - self.began) if now > self.began else 0.0
        left_s = (total - done) / rate if rate else None
        text = speed(rate, unit) + ("" if loss is None else f", loss {loss:.3f}")
        if self.on_board:
            if now - self.last_row >= ROW_EVERY_S or done == total:
                self.last_row = now
                show(Row(self.out.ref, self.label, done, total, text, left_s))
        elif now - self.last_line >= LINE_EVERY_S:
            self.last_line = now
            left = "" if left_s is None else f", {left_s / 60:.0f} min left"
            log.info(
                "%-9s %s: %d of %d %ss, %s%s", self.out.stage, self.out.label, done, total, unit, text, left
            )
        if self.in_ui and (now - self.last_artifact >= ARTIFACT_EVERY_S or done == total):
            self.last_artifact = now
            self._show(100 * done / total, f"{done} of {total} {unit}s, {text}")

    @property
    def label(self) -> str:
        """What it is called on the board."""
        return f"{self.out.stage} {self.out.label}"

    def _show(self, percent: float, text: str) -> None:
        """A server that is gone for a moment must not end a training of hours."""
        try:
            if self.artifact is None:
                key = f"{self.out.stage}-{self.out.digest}"
                self.artifact = create_progress_artifact(percent, key=key, description=self.out.label)  # type: ignore[assignment]
            else:
                update_progress_artifact(self.artifact, percent, description=f"{self.out.label}: {text}")
        except Exception as error:
            log.debug("no progress artifact: %s", error)


def speed(rate: float, unit: str) -> str:
    """3.2 step/s, or of what is slow 4.0 s/step."""
    return f"{rate:.1f} {unit}/s" if rate >= 1 or not rate else f"{1 / rate:.1f} s/{unit}"


@contextmanager
def progress_shown(out: Artifact) -> Iterator[None]:
    """Within, the progress of either library is that of this stage."""
    progress = StageProgress(out, is_shown(), in_ui=not is_own_server(get_current_settings().api.url))
    with ExitStack() as stack:
        if progress.on_board:
            show(Row(out.ref, progress.label))
            stack.callback(show, Row(out.ref, progress.label, over=True))
        stack.enter_context(reported_to(progress))
        stack.enter_context(downstream_reported_to(progress))
        yield
