"""One maker of an artifact on all machines that share a store elsewhere: a file there, which its holder keeps changing."""

import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tasks.errors import StoreUnreachableError
from tasks.store.place import Remote, create, read, remove, sizes, write

log = logging.getLogger("anodiff")

# A holder that a waiting machine has not seen alive for so long is dead. Both are clocks of one machine.
BEAT_SECONDS, STALE_SECONDS, POLL_SECONDS = 10.0, 60.0, 5.0


@contextmanager
def locked(remote: Remote, ref: str) -> Iterator[None]:
    """Hold a lock that all machines of a store see; one that its holder's death left is taken over.

    Only for who holds the file lock of `ref` in this machine's folder: a lock of our own name then is a dead one's.
    A holder that stalls for a minute and goes on can be doubled: then two make the same, which costs time alone.
    """
    folder = f"locks/{ref}"
    turn = _take(remote, folder)
    released = threading.Event()

    def beat() -> None:
        while not released.wait(BEAT_SECONDS):
            try:
                write(remote, f"{folder}/{turn}", _token(remote))
            except StoreUnreachableError as error:
                log.warning("%s", error)

    beater = threading.Thread(target=beat, daemon=True)
    beater.start()
    try:
        yield
    finally:
        released.set()
        beater.join()
        with suppress(StoreUnreachableError):  # then it goes stale
            for each in _turns(remote, folder):
                if each <= turn:
                    remove(remote, f"{folder}/{each}")


def _take(remote: Remote, folder: str) -> int:
    """Wait for a lock and take it; the number that stands for it."""
    seen, since, said = b"", time.monotonic(), False
    while True:
        top = max(_turns(remote, folder), default=None)
        holder = None if top is None else read(remote, f"{folder}/{top}")
        if top is not None and holder is None:
            continue  # released between the two
        if holder is not None and holder != seen:
            seen, since = holder, time.monotonic()
        dead = holder is not None and (
            _owner(holder) == (remote.name, socket.gethostname()) or time.monotonic() - since > STALE_SECONDS
        )
        if holder is None or dead:
            turn = 0 if top is None else top + 1
            if create(remote, f"{folder}/{turn}", _token(remote)):
                return turn
            continue
        if not said:
            log.info("          waits: %s makes %s", _owner(holder)[1], folder.removeprefix("locks/"))
            said = True
        time.sleep(POLL_SECONDS)


def is_held(remote: Remote, ref: str) -> bool:
    """Whether somebody holds the lock, or died while holding it."""
    return bool(_turns(remote, f"locks/{ref}"))


def _turns(remote: Remote, folder: str) -> list[int]:
    return sorted(int(name) for name in sizes(remote, folder) if name.isdecimal())


def _token(remote: Remote) -> bytes:
    """What a holder writes: another text at each beat."""
    return json.dumps([remote.name, socket.gethostname(), secrets.token_hex(8)]).encode()


def _owner(token: bytes) -> tuple[str, str]:
    """A holder's folder and machine, as its lock tells."""
    try:
        name, host, _ = json.loads(token)
    except (ValueError, TypeError):
        return "", "another machine"
    return str(name), str(host)
