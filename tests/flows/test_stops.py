"""A run that is stopped by Ctrl-C or SIGTERM: out at once, nothing left behind, and the same command completes it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.settings import get_current_settings

from tasks.runs.ended import find_run, list_runs
from tasks.runtime.server import OWN_URL
from tasks.store.artifacts import MANIFEST, Artifact, fault

ROOT = Path(__file__).parent.parent.parent
SOON_S = 30.0  # on a busy machine; two or three seconds otherwise
LATEST_S = 400.0


started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _nobody_is_left_by_a_test_that_fails() -> Iterator[None]:
    yield
    while started:
        process = started.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


class Anodiff:
    """`anodiff run` as a user starts it: a process group of its own, its lines kept."""

    def __init__(self, *words: str, url: str | None, slots: Path) -> None:
        env = {
            key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_API", OWN_URL))
        }
        if url is not None:
            env["PREFECT_API_URL"] = url
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "run", *words],
            cwd=ROOT,
            # The device's slots are files there: not those of real runs on this machine.
            env=env | {"OMP_NUM_THREADS": "1", "TMPDIR": str(slots)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A suite that was started in the background ignores it, and so would what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(self.process)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def family(self) -> list[psutil.Process]:
        return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]

    def stop(self, number: int, whole_group: bool) -> int:
        """Send a signal; the exit code. Nobody of the family is left."""
        family = self.family()
        (os.killpg if whole_group else os.kill)(self.process.pid, number)
        code = self.wait(SOON_S)
        _, alive = psutil.wait_procs(family, timeout=SOON_S)
        assert not [each.cmdline() for each in alive]
        return code

    def wait(self, seconds: float) -> int:
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            pytest.fail(f"still there after {seconds} s:\n{self.said}")
        self.reader.join(5)
        return code


def in_the_middle_of_training(run: Anodiff, store: Path) -> None:
    """Wait until a training has saved a checkpoint, and was not near its end by then."""
    deadline = time.monotonic() + LATEST_S
    while not list(store.glob("staging/finetune/*/*/checkpoint*")):
        assert run.process.poll() is None, run.said
        assert time.monotonic() < deadline, run.said
        time.sleep(0.1)


def nothing_half_written(store: Path) -> None:
    """Every folder that lies where artifacts lie is a whole one."""
    for folder in store.glob("artifacts/*/*/*"):
        stage, category, digest = folder.parts[-3:]
        assert (folder / MANIFEST).is_file()
        assert fault(Artifact(store, stage, category, digest, "", {})) is None


def states_on_server() -> dict[str, str]:
    """The states of this category's flow runs, and of all task runs."""
    with get_client(sync_client=True) as client:
        flows = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=["bolt"])))
        tasks = client.read_task_runs()
    named = [(each.name, each.id, each.state_name) for each in flows]
    named += [(each.name, each.id, each.state_name) for each in tasks]
    return {f"{name} {number}": str(state) for name, number, state in named}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stops") / "store"


CHANGES = (
    "--defects=dent",
    "--set=finetune.train_steps=200",
    "--set=finetune.checkpoint_every_steps=5",
    "--set=compare.training_sets=[real]",
)
WORKERS = ("--set", "runner=processes", "--set", "workers=2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runner", "number", "whole_group", "code"),
    [
        ((), signal.SIGINT, True, 130),
        ((), signal.SIGTERM, False, 143),
        pytest.param(WORKERS, signal.SIGINT, True, 130, marks=pytest.mark.stack),
        pytest.param(WORKERS, signal.SIGTERM, False, 143, marks=pytest.mark.stack),
    ],
    ids=["Ctrl-C", "SIGTERM", "Ctrl-C with workers", "SIGTERM with workers"],
)
def test_a_stopped_run_leaves_nothing_half_done(
    runner: tuple[str, ...], number: int, whole_group: bool, code: int, store: Path, yaml_file: Path
) -> None:
    url = get_current_settings().api.url
    before = states_on_server()
    for old in store.glob("staging/finetune/*/*/checkpoint*"):
        old.unlink()
    run = Anodiff(
        "--config", str(yaml_file), "--store", str(store), *CHANGES, *runner, url=url, slots=store.parent
    )
    in_the_middle_of_training(run, store)
    assert run.stop(number, whole_group) == code, run.said
    assert "the same command resumes" in run.said
    assert "Traceback" not in run.said, run.said
    nothing_half_written(store)
    assert "stopped" in {each.state for each in list_runs(store)}
    states = {name: state for name, state in states_on_server().items() if name not in before}
    assert states
    assert not {name for name, state in states.items() if state in ("Running", "Pending")}, states


@pytest.mark.slow
def test_the_same_command_completes_what_was_stopped(store: Path, yaml_file: Path) -> None:
    """After the tests before: by the name of the run, with whatever is finished or saved."""
    (stopped, *_) = [each.name for each in list_runs(store) if each.state == "stopped"]
    run = Anodiff(
        "--resume", "latest", "--store", str(store), url=get_current_settings().api.url, slots=store.parent
    )
    assert run.wait(LATEST_S) == 0, run.said
    assert find_run(store, stopped).state == "completed"
    nothing_half_written(store)
