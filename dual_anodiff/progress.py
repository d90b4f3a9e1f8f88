"""Progress of long work: a bar where there is a terminal, or reported to whoever listens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm import tqdm

Listener = Callable[[int, int, str, float | None], None]  # done, of so many, of what, loss

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def reported_to(listener: Listener) -> Iterator[None]:
    """Within, progress goes to `listener` alone."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def progress(
    name: str, total: int, unit: str, *, done: int = 0, shown: bool = True
) -> Iterator[Callable[[int, float | None], None]]:
    """Gives what to call with how many are done, and the loss if there is one."""
    listener = _listener.get()
    if listener is not None:
        yield lambda now, loss: listener(now, total, unit, loss)
        return
    with tqdm(
        total=total, initial=done, desc=name, unit=unit, disable=None if shown else True, mininterval=1
    ) as bar:

        def report(now: int, loss: float | None) -> None:
            if loss is not None:
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update(now - bar.n)

        yield report
