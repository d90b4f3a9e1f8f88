"""Which room may import which, and what must not be paid for before it is needed."""

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parent.parent


def test_imports_run_one_way(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    status = lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import flows.cli", "prefect torch pandas numpy"),
        # A run that finds everything cached needs the flows alone: with torch and diffusers it would take 10 s more.
        ("import flows.augmentation, flows.cli.tables", "torch diffusers transformers anomalib"),
        ("import dual_anodiff.config, downstream.config", "torch pandas prefect"),
        ("import dual_anodiff", "torch pandas prefect"),
        ("import dual_anodiff.objects.masks", "cv2"),
    ],
)
def test_start_up_does_not_import(statement: str, absent: str) -> None:
    code = f"{statement}\nimport sys\nprint(*(name for name in {absent.split()} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
