"""A Prefect server for the tests, and a run small enough for seconds: random tiny models, real stages."""

import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tasks.config import RunConfig, load_config
from tasks.runtime.server import OWN_URL
from tests.tasks.data_folders import healthy_category
from tests.tiny_base import tiny_base


@pytest.fixture(scope="session", autouse=True)
def _prefect_server() -> Iterator[None]:
    """Taken for one that lives only for a run, as where the user has none: what a user's own costs besides, such as
    asking for the limit of each tag, is for the tests that ask for `users_server`."""
    from prefect.settings import get_current_settings
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        os.environ[OWN_URL] = str(get_current_settings().api.url)
        yield
        del os.environ[OWN_URL]


@pytest.fixture
def users_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is the user's: tags, artifacts and bars for its UI, and its limit on the device."""
    monkeypatch.delenv(OWN_URL)


@pytest.fixture(scope="package", autouse=True)
def _device_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A lock file that no other run has: neither those of the suite's other processes nor real ones on this machine.

    Not for tests outside this folder: PostgreSQL's account may not enter pytest's folders (tests/test_compose.py).
    """
    before = tempfile.gettempdir()
    tempfile.tempdir = str(tmp_path_factory.mktemp("device"))
    yield
    tempfile.tempdir = before


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """On pictures this small a second thread only costs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random base model and a random encoder, in the formats of those that come along."""
    import timm
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("models")
    tiny_base(root / "base")
    encoder = root / "encoder"
    encoder.mkdir()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        network = timm.create_model("resnet10t", num_classes=0)
    save_file(network.state_dict(), encoder / "model.safetensors")
    spec = {"architecture": "resnet10t", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (encoder / "config.json").write_text(json.dumps(spec))
    return root


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories with the defect types dent and stain."""
    root = tmp_path_factory.mktemp("data")
    for category in ("bolt", "nut"):
        healthy_category(root / category, normals=6, tests=2, defects=4)
    return root


@pytest.fixture(scope="session")
def yaml_file(models: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run as a config file."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(f"""
data: {data}
categories: [bolt]
finetune:
  base: {models / "base"}
  size_px: 64
  adapter: {{lora_rank: 2, saim_rank: 2, text_encoder_lora_rank: 0}}
  train_steps: 2
  batch_size: 1
generate: {{num_pairs: 3, num_inference_steps: 1, guidance_scale: 1}}
localize:
  encoder: {models / "encoder"}
  size_px: 32
  train_steps: 2
  batch_size: 2
  decoder_channels: [8, 8, 8, 8, 8]
classify: {{encoder: {models / "encoder"}, size_px: 32, train_steps: 2, batch_size: 3}}
detect:
  model: supersimplenet
  backbone: {models / "encoder"}
  size_px: 128
  train_steps: 2
  batch_size: 2
curate: {{rules: [empty]}}  # a random base draws masks of the whole picture
report: {{bootstrap_samples: 100, sheet_rows: 2, sheet_size_px: 32}}
track: {{enabled: false}}  # a process of its own for each run; tests of tracking switch it on
""")
    return path


@pytest.fixture
def config(yaml_file: Path, tmp_path: Path) -> RunConfig:
    """The tiny run with a store of its own."""
    return load_config(yaml_file, store=tmp_path / "store")
