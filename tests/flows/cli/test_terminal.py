"""--json, --quiet, and what a newcomer's mistakes are answered with."""

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import app
from flows.cli.terminal import print_json, refusing, system_fault
from tasks.errors import AnodiffError
from tests.tasks.data_folders import healthy_category

ROOT = Path(__file__).parents[3]


def test_stdout_has_the_document_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with refusing(False, as_json=True):
        print("a library talks")
        subprocess.run(["echo", "a process of it talks"], check=True)
        logging.getLogger("anodiff").info("a log line")
    print_json({"done": True})
    said, log = capfd.readouterr()
    assert json.loads(said) == {"done": True}
    assert "a library talks" in log
    assert "a process of it talks" in log
    assert "a log line" in log


def test_an_error_is_a_document_too(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, refusing(False, as_json=True):
        raise AnodiffError("data: no such folder")
    assert ended.value.exit_code == 2
    said, log = capfd.readouterr()
    assert json.loads(said) == {"error": "data: no such folder", "exit_code": 2}
    assert log.strip() == "anodiff: data: no such folder"


def test_quiet_keeps_warnings_and_errors(capfd: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("anodiff")
    with refusing(False, quiet=True):
        log.info("a stage starts")
        log.warning("the disk is nearly full")
    assert "a stage starts" not in (said := capfd.readouterr().err)
    assert "the disk is nearly full" in said
    with refusing(False):
        log.info("a stage starts")
    assert "a stage starts" in capfd.readouterr().err


def test_the_faults_of_a_folder_are_a_document_with_the_same_exit_code(tmp_path: Path) -> None:
    folder = healthy_category(tmp_path / "bolt")
    (folder / "ground_truth/dent/000_mask.png").unlink()
    result = CliRunner().invoke(app, ["data", "check", str(folder), "--json"])
    assert result.exit_code == 2
    told = json.loads(result.stdout)
    assert told["refused"] is True
    (fault,) = told["faults"]
    assert fault["severity"] == "error"
    assert fault["path"].endswith("test/dent/000.png")
    assert fault["what"] == "mask missing"
    assert fault["fix"]


MISTAKES = {
    "a preset's name": (["run", "--config", "dmeo", "--data", "D"], "did you mean demo?"),
    "a command's name": (["rnu"], "Did you mean 'run'"),
    "no configuration": (["run", "--data", "D"], "give --config, or --resume"),
    "no pictures": (["plan", "--config", "demo"], "anodiff data demo my-data"),
    "a category's name": (
        ["plan", "--config", "demo", "--data", "D", "--categories", "blot"],
        "no category blot; found: bolt",
    ),
    "a folder that is none": (["plan", "--config", "demo", "--data", "D/nope"], "no such folder"),
    "a folder too deep": (["data", "check", "D/bolt/train"], "neither it nor a sub-folder has a train or test folder"),
    "a field's name": (
        ["plan", "--config", "demo", "--data", "D", "--set", "finetune.trian_steps=3"],
        "did you mean finetune.train_steps?",
    ),
    "a field's value": (
        ["plan", "--config", "demo", "--data", "D", "--set", "finetune.train_steps=many"],
        "allowed: a whole number, at least 1",
    ),
    "no base model": (
        ["plan", "--config", "cpu", "--data", "D", "--set", "finetune.base=/models/sd"],
        "no model_index.json in /models/sd",
    ),
    "no runs": (["runs"], "no runs; start one with `anodiff run`, or name their store with --store"),
    "a run's name": (["rerun", "2026", "--failed"], "no run '2026'; no run ended there"),
    "no run to resume": (["run", "--resume", "latest"], "no run 'latest' that was stopped"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_newcomers_mistake_is_answered_with_what_to_do(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, answer = MISTAKES[mistake]
    healthy_category(tmp_path / "D" / "bolt")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    said = " ".join(result.output.split())
    assert answer in said
    assert result.exit_code in (1, 2)
    assert "Traceback" not in said
    assert "(-v shows where)" not in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/data/store"),
            "/data/store: no permission; choose",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x.png"),
            "/data/x.png: the disk is full; see",
        ),
        (OSError(errno.EADDRINUSE, "Address already in use"), "the port is in use; "),
        (ModuleNotFoundError("No module named 'gradio'", name="gradio"), "pip install 'dualanodiff[review]'"),
        (
            ModuleNotFoundError("No module named 'mlflow.x'", name="mlflow.x"),
            "pip install 'dualanodiff[tracking]'",
        ),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/data/a.png"), "/data/a.png: is no folder"),
    ],
)
def test_what_the_system_refuses_is_said_with_what_to_do(error: Exception, said: str) -> None:
    assert said in (system_fault(error) or "")


def test_help_is_there_at_once_with_an_example_for_each_command() -> None:
    code = (
        "import sys; sys.argv = ['anodiff', '--help']; from flows.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'pandas', 'numpy', 'prefect', 'mlflow', 'gradio'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for panel in ("Start here", "Runs", "Pairs and models", "Upkeep"):
        assert panel in done.stdout
    from typer.main import get_command

    command = get_command(app)
    context = typer.Context(command)
    for name in command.list_commands(context):  # type: ignore[attr-defined]
        one = command.get_command(context, name)  # type: ignore[attr-defined]
        parts = one.commands.values() if hasattr(one, "commands") else [one]
        assert all((each.epilog or "").startswith("Example:\n\nanodiff ") for each in parts), name


def test_the_version_is_told() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("anodiff 0.")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("anodiff ru", {"run", "runs"}),
        ("anodiff run --config d", {"demo"}),
        ("anodiff rerun 2026", {"20260102-030405-abcd", "20260101-030405-abcd"}),
        ("anodiff rerun la", {"latest"}),
        ("anodiff plan --data D --categories bolt,n", {"bolt,nut"}),
    ],
)
def test_the_shell_is_offered_names(line: str, offered: set[str], tmp_path: Path) -> None:
    for run in ("20260101-030405-abcd", "20260102-030405-abcd"):
        (tmp_path / ".anodiff/store/runs" / run).mkdir(parents=True)
        (tmp_path / ".anodiff/store/runs" / run / "run.json").touch()
    for category in ("bolt", "nut"):
        (tmp_path / "D" / category / "train" / "good").mkdir(parents=True)
    done = subprocess.run(
        [Path(sys.executable).parent / "anodiff"],
        cwd=tmp_path,
        env={
            **os.environ,
            "_ANODIFF_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(line.count(" ")),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert set(done.stdout.split()) == offered, done.stderr
