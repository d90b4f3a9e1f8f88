"""docker-compose.yml: to its specification, without secrets, and running, natively, up to a run's end."""

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from tests.compose import FILE, ROOT, Stack, in_order, programs, read
from tests.tasks.data_folders import healthy_category

SECRETS = {"POSTGRES_PASSWORD": "d0c0ffee", "S3_ACCESS_KEY": "k3y", "S3_SECRET_KEY": "5ec2e7"}
TINY = """
finetune:
  size_px: 64
  adapt_to_normals: false
  adapter: {lora_rank: 2, saim_rank: 2, text_encoder_lora_rank: 0}
  train_steps: 2
  batch_size: 1
generate: {num_pairs: 2, num_inference_steps: 1, guidance_scale: 1}
curate: {rules: []}
localize: {size_px: 32, train_steps: 2, batch_size: 2, decoder_channels: [8, 8, 8, 8, 8]}
compare: {training_sets: [real]}
report: {bootstrap_samples: 100, sheet_rows: 2, sheet_size_px: 32}
"""


def services() -> dict[str, Any]:
    found: dict[str, Any] = read({**SECRETS, "ANODIFF_DATA": "/pictures"})["services"]
    return found


def test_the_file_is_what_the_specification_allows() -> None:
    schema = json.loads(
        files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text()
    )
    jsonschema.validate(read({**SECRETS, "ANODIFF_DATA": "/pictures"}), schema)


def test_docker_compose_itself_takes_the_file(tmp_path: Path) -> None:
    """`docker compose config` needs no engine, only the plugin."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose absent")
    env_file = tmp_path / "env"
    env_file.write_text(
        "".join(f"{key}={value}\n" for key, value in {**SECRETS, "ANODIFF_DATA": "/x"}.items())
    )
    command = [docker, "compose", "--file", str(FILE), "--env-file", str(env_file), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [*SECRETS, "ANODIFF_DATA"])
def test_what_has_no_default_is_asked_for_by_name(name: str) -> None:
    given = {key: value for key, value in {**SECRETS, "ANODIFF_DATA": "/x"}.items() if key != name}
    with pytest.raises(LookupError, match=f"set {name} in .env"):
        read(given)
    assert f"\n{name}=\n" in (ROOT / ".env.example").read_text(), "it is listed there, without a value"


def test_the_example_sets_only_what_the_file_reads() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    given = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    text = FILE.read_text()
    assert {name for name in given if f"${{{name}" not in text} == {"COMPOSE_PROFILES"}


def test_every_image_has_a_version_of_its_own() -> None:
    images = {name: each["image"] for name, each in services().items()}
    bases = [
        line.split()[1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("FROM ")
    ]
    for image in (*images.values(), *(base for base in bases if base != "base")):
        _, _, tag = image.partition(":")
        assert tag.count(".") >= 1, f"{image}: not pinned"


def test_every_service_that_stays_says_whether_it_is_well() -> None:
    for name, each in services().items():
        check = each["healthcheck"]
        assert check.get("disable") if each["restart"] == "no" else check["test"][0] == "CMD", name


def test_each_waits_for_what_it_talks_to() -> None:
    found = services()
    for name, each in found.items():
        settings = json.dumps(each["environment"])
        hosts = {other for other in found if f"//{other}:" in settings or f"@{other}:" in settings} - {name}
        before = set(in_order(found, (name,)))
        assert hosts - {"mlflow"} <= before, f"{name} talks to {hosts}"  # a run ends without it
        for other, how in each.get("depends_on", {}).items():
            once = found[other]["restart"] == "no"
            assert how["condition"] == ("service_completed_successfully" if once else "service_healthy")


def test_the_workers_differ_in_their_device_alone() -> None:
    found = services()
    cpu, gpu = found["worker"], found["worker-gpu"]
    assert cpu.pop("profiles") == ["cpu"]
    assert gpu.pop("profiles") == ["gpu"]
    (device,) = gpu.pop("deploy")["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert cpu == gpu


def test_volumes_and_configs_are_declared_and_used() -> None:
    whole = read({**SECRETS, "ANODIFF_DATA": "/pictures"})
    mounted = {
        volume.partition(":")[0]
        for each in whole["services"].values()
        for volume in each.get("volumes", [])
        if isinstance(volume, str)
    }
    assert mounted == set(whole["volumes"])
    used = {config["source"] for each in whole["services"].values() for config in each.get("configs", [])}
    assert used == set(whole["configs"])


def test_nothing_is_open_to_the_network_unless_asked_for() -> None:
    published = [port for each in services().values() for port in each.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_images_run_as_a_user_and_take_their_versions_from_the_lock() -> None:
    stages = (ROOT / "Dockerfile").read_text().split("\nFROM ")[1:]
    targets = {each["build"]["target"] for each in services().values() if "build" in each}
    assert {stage.split(" AS ")[1].split()[0] for stage in stages[1:]} == targets
    for stage in stages[1:]:
        assert stage.rstrip().splitlines()[-1].startswith("USER "), stage
        installs = [part for part in stage.split("RUN ") if "pip install" in part]
        assert all("/opt/requirements.lock" in part or "--no-deps" in part for part in installs)


def test_what_the_servers_are_made_of_is_locked() -> None:
    locked = {
        line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line
    }
    missing = {"prefect", "mlflow", "psycopg2-binary", "boto3", "asyncpg", "s3fs"} - locked
    assert not missing, "make lock, with --extra tracking"


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that PostgreSQL's own account may enter; pytest's are closed to others."""
    with tempfile.TemporaryDirectory(prefix="anodiff-compose-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_services_start_deploy_and_carry_a_run_to_its_end(home: Path) -> None:
    if not programs():
        pytest.skip("PostgreSQL absent: apt-get install postgresql")
    for package in ("mlflow", "psycopg2", "moto", "boto3"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} absent: the extra `tracking` and the group dev")
    data, config = home / "data", home / "tiny.yaml"
    healthy_category(data / "bolt", normals=6, tests=2, defects=4)
    config.write_text(TINY)
    store = os.environ.get("ANODIFF_COMPOSE_TEST_STORE", "s3://anodiff/store")
    chosen = {"ANODIFF_DATA": str(data), "ANODIFF_CONFIG": str(config), "ANODIFF_STORE": store}
    stack = Stack(read({**SECRETS, **chosen}), home, {"/data": data, "/store": home / "store"})
    with stack.up("mlflow", "worker"):
        watch = ["prefect", "deployment", "run", "augmentation/full", "--watch"]
        said = stack.run("worker", watch)
        assert "Completed" in said
        runs = run_files(stack, store, home)
        assert len(runs) == 1
        assert runs[0]["state"] == "completed"
        assert {stage["stage"] for stage in runs[0]["stages"]} >= {
            "prepare",
            "finetune",
            "generate",
            "localize",
        }
        deployments = rows_of(stack, "prefect", "SELECT name FROM deployment ORDER BY name")
        assert deployments.split() == ["full", "one", "runs"]
        mlflow_has_the_run(stack, runs[0]["run"])


def run_files(stack: Stack, store: str, home: Path) -> list[dict[str, Any]]:
    """The run.json of every run in the store, read past our own code."""
    if not store.startswith("s3://"):
        return [json.loads(path.read_text()) for path in (home / "store" / "runs").glob("*/run.json")]
    s3 = s3_client(stack)
    bucket, _, prefix = store.removeprefix("s3://").partition("/")
    keys = [each["Key"] for each in s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/runs/")["Contents"]]
    found = [key for key in keys if key.endswith("/run.json")]
    return [json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read()) for key in found]


def mlflow_has_the_run(stack: Stack, name: str) -> None:
    """The worker's run logs itself: figures go to PostgreSQL, files to S3; strange host names are refused."""
    query = (
        "SELECT DISTINCT m.key FROM metrics m JOIN runs r ON r.run_uuid = m.run_uuid "
        f"WHERE r.name = '{name}' AND r.status = 'FINISHED' AND m.key = 'localize/real/pixel_ap'"
    )
    for _ in range(60):  # a process of its own logs it, once the run has ended
        if rows_of(stack, "mlflow", query):
            break
        time.sleep(2)
    assert rows_of(stack, "mlflow", query) == "localize/real/pixel_ap"
    listed = s3_client(stack).list_objects_v2(Bucket="anodiff", Prefix="mlflow/")["Contents"]
    assert {"run.json", "report.html"} <= {each["Key"].rpartition("/")[2] for each in listed}
    url = f"http://127.0.0.1:{stack.ports['mlflow']}/api/2.0/mlflow/experiments/search?max_results=1"
    for host, status in (("mlflow:5000", 200), ("elsewhere.example", 403)):
        assert httpx.get(url, headers={"Host": host}).status_code == status, host


def s3_client(stack: Stack) -> Any:
    import boto3

    env = stack.env_of("worker")
    return boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_DEFAULT_REGION"],
    )


def rows_of(stack: Stack, database: str, query: str) -> str:
    """What PostgreSQL answers, a line a row."""
    env = stack.env_of("postgres")
    own = {"PGHOST": "127.0.0.1", "PGUSER": env["POSTGRES_USER"], "PGPASSWORD": env["POSTGRES_PASSWORD"]}
    command = ["psql", "-d", database, "-A", "-t", "-c", query]
    done = subprocess.run(command, env=env | own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_yaml_surprise() -> None:
    """Command lines are lists of text: YAML would make a number of a port, a truth value of an `on`."""
    for name, each in yaml.safe_load(FILE.read_text())["services"].items():
        assert all(isinstance(part, str) for part in each.get("command", [])), name
        assert all(isinstance(value, str) for value in each["environment"].values()), name
