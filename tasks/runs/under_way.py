"""Runs that have not ended: what was asked for, and the process that is at it, in STORE/runs/NAME/started.json.

The file goes when run.json comes. A run that was stopped and is started again with the same configuration goes on
under its name.
"""

import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import psutil  # type: ignore[import-untyped]

from tasks.config import RunConfig
from tasks.errors import AnodiffError
from tasks.store.layout import run_folder, runs_folder
from tasks.store.place import DESCRIPTION

STARTED = "started.json"
# A process number is given again; when it began tells whether it is the same one. Clocks differ by less.
SAME_PROCESS_S = 1.0


@dataclass(frozen=True)
class UnderWay:
    """A run without a run.json."""

    name: str
    started: str
    host: str
    pid: int
    began: float  # the process, seconds since the epoch
    config: Mapping[str, Any]
    rerun: Mapping[str, Any] | None = None  # of which run, and what of it

    @property
    def state(self) -> Literal["running", "stopped", "elsewhere"]:
        """elsewhere: on another machine, so nobody here can tell."""
        if self.host != socket.gethostname():
            return "elsewhere"
        try:
            alive = abs(psutil.Process(self.pid).create_time() - self.began) < SAME_PROCESS_S
        except psutil.Error:
            alive = False
        return "running" if alive else "stopped"


def begin_run(config: RunConfig, started: datetime, rerun: Mapping[str, Any] | None = None) -> str:
    """Write down that a run is under way; its name, that of a stopped one with the same configuration if there is one."""
    asked = config.model_dump(mode="json", exclude={"store"})
    name = _taken_over(config.store, asked, rerun) or f"{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    folder = run_folder(config.store, name)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "name": name,
        "started": started.isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "began": psutil.Process().create_time(),
        "config": asked,
        "rerun": rerun,
    }
    (folder / f"{STARTED}.new").write_text(json.dumps(record, indent=1) + "\n")
    (folder / f"{STARTED}.new").rename(folder / STARTED)
    return name


def runs_under_way(store: Path) -> list[UnderWay]:
    """The runs of a store that have not ended, as far as this machine's folder knows, newest first."""
    found = []
    for path in sorted(runs_folder(store).glob(f"*/{STARTED}"), reverse=True):
        try:
            if not (path.parent / DESCRIPTION).exists():
                found.append(UnderWay(**json.loads(path.read_text())))
        except (OSError, TypeError, ValueError):
            continue  # just ended, or of another version
    return found


def find_stopped(store: Path, name: str) -> UnderWay:
    """A run that was stopped, the newest one for "latest". Raises: AnodiffError if there is none, or it still runs."""
    known = runs_under_way(store)
    for each in known:
        if name == each.name and each.state == "running":
            raise AnodiffError(f"run {name}: still runs, as process {each.pid}")
        if name == each.name or (name == "latest" and each.state == "stopped"):
            return each
    stopped = ", ".join(each.name for each in known if each.state != "running") or "none"
    raise AnodiffError(
        f"{store}: no run {name!r} that was stopped; stopped ones: {stopped}. A run that ended is run again with "
        "`anodiff rerun`"
    )


def _taken_over(store: Path, asked: Mapping[str, Any], rerun: Mapping[str, Any] | None) -> str | None:
    for each in runs_under_way(store):
        if each.config == asked and each.rerun == rerun and each.state == "stopped":
            record = run_folder(store, each.name) / STARTED
            try:  # of two that are started again at once, one succeeds
                record.rename(record.with_name(f"{STARTED}.{os.getpid()}"))
                record.with_name(f"{STARTED}.{os.getpid()}").unlink()
            except FileNotFoundError:
                continue
            return each.name
    return None
