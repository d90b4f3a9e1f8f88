"""Where finished runs are tracked, which ones are already, and the process that logs one: no MLflow in here.

    STORE/mlflow.db, STORE/mlflow-artifacts/    unless a server is named
    STORE/runs/NAME/tracked.json                where a run is logged already: nothing is logged twice
    STORE/runs/NAME/track.log                   what the process that logs it has to say

A run's folder is all that is logged, so it can be logged at any time after. Importing MLflow takes 3 s and its
database 3 s more at first use, so a process of its own does it once the run has ended.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from tasks.config import RunConfig, TrackConfig, uri_parts
from tasks.errors import AnodiffError, ArtifactError
from tasks.store.place import place_of, remote_of, write

log = logging.getLogger("anodiff")

DATABASE, ARTIFACTS = "mlflow.db", "mlflow-artifacts"
TRACKED, TRACK_LOG = "tracked.json", "track.log"
PROBE_S = 3.0
# Read by MLflow when it is imported. Its own: two minutes a request, seven tries.
MLFLOW_ENV = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True)
class Destination:
    """Where a run is logged to."""

    uri: str  # as MLflow takes it; the environment's may hold a password
    experiment: str
    name: str  # as it is shown and marked: no password, no path of this machine where it lies in the store
    artifacts: (
        Path | None
    )  # folder beside a database of SQLite; None: MLflow's server or its own default says where

    @property
    def is_server(self) -> bool:
        """Whether it is asked over HTTP."""
        return self.uri.startswith(("http://", "https://"))


def destination(store: Path, config: TrackConfig, uri: str | None = None) -> Destination:
    """Where a store's runs go: to `uri`, else where the configuration, the environment, or nobody says.

    Raises: AnodiffError for an address that names no server or database.
    """
    given = uri or config.uri or os.environ.get("MLFLOW_TRACKING_URI")
    own = store.absolute() / DATABASE
    if not given or given == f"sqlite:///{own}":
        return Destination(f"sqlite:///{own}", config.experiment, DATABASE, own.parent / ARTIFACTS)
    parts = uri_parts(given)
    bare = given.replace(f"{parts.netloc.rpartition('@')[0]}@", "", 1) if "@" in parts.netloc else given
    if given.startswith("sqlite:///"):
        database = Path(given.removeprefix("sqlite:///")).absolute()
        return Destination(f"sqlite:///{database}", config.experiment, bare, database.parent / ARTIFACTS)
    return Destination(given.rstrip("/"), config.experiment, bare.rstrip("/"), None)


def is_installed() -> bool:
    """Whether MLflow can be imported, without doing so."""
    return find_spec("mlflow") is not None


def why_silent(to: Destination) -> str | None:
    """Why a server does not answer within PROBE_S, whatever it does instead; None if it does, or is a database."""
    if not to.is_server:
        return None
    found: list[str | None] = [f"no answer within {PROBE_S:.0f} s"]

    def ask() -> None:
        try:
            with urlopen(f"{to.name}/health", timeout=PROBE_S):
                found[0] = None
        except HTTPError as error:  # it answers, and may want a password or have no such page
            found[0] = None if error.code < 500 else f"{error.code} {error.reason}"
        except (OSError, ValueError) as error:
            found[0] = str(getattr(error, "reason", error))

    # Looking its name up knows no timeout, nor does a server that sends a letter a second.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PROBE_S)
    return found[0]


def track_run(config: RunConfig, folder: Path, anodiff: Sequence[str]) -> None:
    """Have a finished run logged by a process of its own, which `anodiff` starts: the command line's command.

    Says in one line what comes of it; never raises, and costs PROBE_S at most.
    """
    if not config.track.enabled:
        return
    if not is_installed():
        log.info("not tracked: mlflow is not installed (pip install 'dualanodiff[tracking]')")
        return
    store = place_of(config.store)
    later = f"anodiff track sync {folder.name} --store {store}"
    try:
        to = destination(config.store, config.track)
        silent = why_silent(to)
        if silent is not None:
            log.warning("run %s: not tracked, %s: %s; later: %s", folder.name, to.name, silent, later)
            return
        process = _start([*anodiff, "track", "sync", folder.name, "--store", store], folder / TRACK_LOG)
        log.info("run %s: tracked in MLflow, %s", folder.name, shown(to))
        if config.track.wait_s:
            code = process.wait(config.track.wait_s)
            if code:
                log.warning("run %s: not tracked, see %s; later: %s", folder.name, folder / TRACK_LOG, later)
    except subprocess.TimeoutExpired:
        log.warning(
            "run %s: still being tracked after %g s; to see whether it was: %s",
            folder.name,
            config.track.wait_s,
            later,
        )
    except Exception as error:  # showing never fails what is done
        log.warning("run %s: not tracked: %s; later: %s", folder.name, error, later)


def shown(to: Destination) -> str:
    """A destination for people: where on this machine, or the server's address."""
    return str(to.artifacts.parent / Path(to.uri).name) if to.artifacts is not None else to.name


def _start(command: list[str], log_file: Path) -> "subprocess.Popen[bytes]":
    """A process that lives on when this one ends."""
    with log_file.open("ab") as lines:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=subprocess.STDOUT,
            env={**MLFLOW_ENV, **os.environ},
            start_new_session=True,
        )


def tracked_as(folder: Path, to: Destination) -> str | None:
    """The MLflow run that a run's folder is logged as already; None: not there."""
    entry = _marks(folder).get(to.name)
    return str(entry["run_id"]) if isinstance(entry, Mapping) and "run_id" in entry else None


def mark_tracked(store: Path, folder: Path, to: Destination, run_id: str) -> None:
    """Write down that a run is logged, in a store elsewhere too: other machines sync its runs as well."""
    entry = {
        "experiment": to.experiment,
        "run_id": run_id,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps({**_marks(folder), to.name: entry}, indent=1) + "\n"
    (folder / f"{TRACKED}.new").write_text(text)
    (folder / f"{TRACKED}.new").rename(folder / TRACKED)
    remote = remote_of(store)
    if remote is not None:
        with suppress(ArtifactError):  # MLflow itself knows, too, and is asked before anything is logged
            write(remote, f"runs/{folder.name}/{TRACKED}", text.encode())


def _marks(folder: Path) -> dict[str, Any]:
    try:
        marks = json.loads((folder / TRACKED).read_text())
    except (OSError, ValueError):
        return {}
    return marks if isinstance(marks, dict) else {}


def show_ui(to: Destination, port: int) -> int:
    """Run MLflow's own page on a database, on this machine alone, until it is stopped; its exit code.

    Raises: AnodiffError if mlflow is not installed.
    """
    if (
        not is_installed()
        or (command := shutil.which("mlflow", path=str(Path(sys.executable).parent))) is None
    ):
        raise AnodiffError("mlflow is not installed: pip install 'dualanodiff[tracking]'")
    arguments = [command, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    arguments += ["--backend-store-uri", to.uri]
    if to.artifacts is not None:
        arguments += ["--artifacts-destination", str(to.artifacts)]
    return subprocess.run(arguments, env={**MLFLOW_ENV, **os.environ}, check=False).returncode
