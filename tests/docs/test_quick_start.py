"""docs/quick-start.md does what it says: its shell blocks are run, in their order, in one folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "quick-start.md"
BLOCK = re.compile(r"(?:<!-- run: (\w+) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)


def blocks(mark: str) -> list[str]:
    """The page's shell blocks of one mark, "" for those without."""
    return [
        code
        for found, language, code in BLOCK.findall(PAGE.read_text())
        if language == "bash" and found == mark
    ]


def run_blocks(code: list[str], folder: Path, **env: str) -> str:
    """Run blocks as one script that stops at the first failure; what they printed."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "ANODIFF_"))
    }
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", "\n".join(code)],
        cwd=folder,
        env={
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PREFECT_HOME": str(folder / "prefect"),
            "TMPDIR": str(folder),  # the device's lock file: that of no other run on this machine
            "OMP_NUM_THREADS": "1",
            # Tracking has tests of its own; nobody is there, so no process of it outlives the test.
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
            **env,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_block_is_run_or_shows_what_is_printed() -> None:
    text = PAGE.read_text()
    found = BLOCK.findall(text)
    assert len(found) == text.count("```") / 2
    assert {mark for mark, _, _ in found} <= {"", "stack"}
    assert {language for _, language, _ in found} <= {"bash", "text"}
    assert len(blocks("")) >= 6
    assert len(blocks("stack")) == text.count("<!-- run: stack -->")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_by_hand_do_what_the_page_says(tmp_path: Path) -> None:
    # A worker of xdist at a time on a core: the run that the page promises in minutes shares the machine here.
    said = run_blocks(blocks(""), tmp_path)
    assert "a run can start" in said
    assert "nothing that a run would refuse" in said
    assert said.count("completed: ") == 2
    assert re.search(r"completed: (\d+) of \1 stages cached", said)
    assert len(list((tmp_path / "more-holes" / "mask").glob("*.png"))) == 2


@pytest.mark.stack
@pytest.mark.timeout(1800)
def test_the_demo_ends_in_a_verdict(tmp_path: Path) -> None:
    # In the project's folder, as the page says; data and store go elsewhere.
    (line,) = blocks("stack")
    said = run_blocks([f"cd {ROOT}", line], tmp_path, MAKEFLAGS=f"DEMO={tmp_path}")
    assert "Lift over the baselines" in said
    assert list((tmp_path / "store" / "runs").glob("*/sheets/*.png"))
