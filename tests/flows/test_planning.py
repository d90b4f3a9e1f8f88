"""`anodiff plan` before anything was run: it says so, and does nothing but split the pictures."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_a_plan_trains_nothing_draws_nothing_and_starts_no_server(yaml_file: Path, tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_API")}
    code = "import sys; from flows.cli import app\ntry: app()\nfinally: assert not {'torch', 'uvicorn'} & set(sys.modules)"
    words = ["plan", "--config", str(yaml_file), "--store", str(tmp_path / "store"), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        env=env | {"PREFECT_HOME": str(tmp_path / "prefect")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    by_status = {each["stage"]: (each["status"], each["why"]) for each in told["stages"]}
    assert by_status.pop("prepare") == ("cached", None)  # made, for the rest depends on it
    assert set(by_status) == {
        "objects",
        "finetune",
        "generate",
        "curate",
        "quality",
        "localize",
        "report",
        "page",
    }
    assert set(by_status.values()) == {("planned", "no earlier run")}
    assert set(told["unknown"]) == set(by_status)
    assert {path.name for path in (tmp_path / "store" / "artifacts").iterdir()} == {"prepare"}
    assert not list(tmp_path.glob("prefect/*.db"))
