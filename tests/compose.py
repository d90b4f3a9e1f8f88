"""docker-compose.yml without an engine: its services' own commands and environment, run on this machine.

What an image does by itself is done here by hand: PostgreSQL's first start, and the S3 store, which is moto's server.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.services import clean_env, free_port, service, tail, wait_until

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docker-compose.yml"
PORTS = {"postgres": 5432, "s3": 8333, "prefect": 4200, "mlflow": 5000, "worker": 8080}
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")
HEALTHY_AFTER_S = 150


def read(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with its ${VARIABLES} filled in.

    Raises: LookupError with the file's own message, if one that it insists on is missing.
    """

    def fill(found: re.Match[str]) -> str:
        name, kind, text = found.groups()
        if variables.get(name):
            return variables[name]
        if kind == ":?":
            raise LookupError(text)
        return text or ""

    def walk(value: Any) -> Any:
        match value:
            case dict():
                return {key: walk(inner) for key, inner in value.items()}
            case list():
                return [walk(inner) for inner in value]
            case str():
                return VARIABLE.sub(fill, value)
        return value

    filled: dict[str, Any] = walk(yaml.safe_load(FILE.read_text()))
    return filled


@dataclass
class Stack:
    """The services as processes; `ports` and `folders` stand for those of the containers."""

    file: dict[str, Any]
    home: Path
    folders: Mapping[str, Path]  # mount target → folder here
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in PORTS})

    def here(self, text: str) -> str:
        """A command's argument or a variable's value, as it has to be on this machine."""
        for name, port in PORTS.items():
            text = re.sub(
                rf"\b({name}|127\.0\.0\.1|0\.0\.0\.0):{port}\b", f"127.0.0.1:{self.ports[name]}", text
            )
            text = str(self.ports[name]) if text == str(port) else text
        for target, folder in self.folders.items():
            text = re.sub(rf"^((?:--\w+=)?){target}$", rf"\g<1>{folder}", text)
        return "127.0.0.1" if text == "0.0.0.0" else text

    def env_of(self, name: str) -> dict[str, str]:
        """Its own variables and nothing of ours; its programs are those of this Python."""
        own = {key: self.here(value) for key, value in self.file["services"][name]["environment"].items()}
        home = self.home / name
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        return clean_env(
            **own,
            HOME=str(home),
            TMPDIR=str(home / "tmp"),
            PATH=f"{Path(sys.executable).parent}:{programs()}:{os.environ['PATH']}",
            PGPORT=str(self.ports["postgres"]),
            PREFECT_WORKER_WEBSERVER_PORT=str(self.ports["worker"]),
            OMP_NUM_THREADS="1",
        )

    def command_of(self, name: str) -> list[str]:
        return [self.here(argument) for argument in self.file["services"][name]["command"]]

    def run(self, name: str, command: list[str], timeout_s: float = 300) -> str:
        """A command in a service's environment, to its end; what it printed."""
        log = self.home / f"{name}.once.log"
        with log.open("wb") as lines:
            done = subprocess.run(
                command, env=self.env_of(name), cwd=self.home / name, stdout=lines,
                stderr=subprocess.STDOUT, timeout=timeout_s,
            )  # fmt: skip
        assert done.returncode == 0, f"{shlex.join(command)}:\n{tail(log)}"
        return log.read_text()

    @contextmanager
    def up(self, *wanted: str) -> Iterator[None]:
        """Start services in the order that their depends_on asks for, each when those before it are as it asks."""
        with ExitStack() as running:
            for name in in_order(self.file["services"], wanted):
                own = self.file["services"][name]
                if name == "postgres":
                    running.enter_context(self.postgres())
                elif name == "s3":
                    running.enter_context(self.s3())
                elif own["restart"] == "no":
                    self.run(name, self.command_of(name))
                else:
                    log = self.home / f"{name}.log"
                    env = self.env_of(name)
                    running.enter_context(service(self.command_of(name), env, log, self.home / name))
                    self.wait_until_healthy(name, log)
            yield

    def wait_until_healthy(self, name: str, log: Path) -> None:
        """By the service's own health check."""
        kind, *test = self.file["services"][name]["healthcheck"]["test"]
        assert kind == "CMD"
        test, env = [self.here(argument) for argument in test], self.env_of(name)

        def healthy() -> bool:
            return subprocess.run(test, env=env, capture_output=True).returncode == 0

        wait_until(healthy, HEALTHY_AFTER_S, lambda: f"{name} is not healthy:\n{tail(log)}")

    @contextmanager
    def postgres(self) -> Iterator[None]:
        """What the image does on its first start: a superuser, a database, and what lies in its folder of scripts."""
        own = self.file["services"]["postgres"]
        user, password, database = (
            own["environment"][f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB")
        )
        data, log, secret = self.home / "postgres-data", self.home / "postgres.log", self.home / "secret"
        env = self.env_of("postgres") | {"PGHOST": "127.0.0.1", "PGUSER": user, "PGPASSWORD": password}
        account = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        data.mkdir()
        secret.write_text(password)
        if account is not None:
            for path in (data, secret):
                shutil.chown(path, account)
        initdb = [
            "initdb",
            "--auth=scram-sha-256",
            f"--username={user}",
            f"--pwfile={secret}",
            f"--pgdata={data}",
        ]
        done = subprocess.run(
            [*initdb, "--no-sync"], env=env, cwd=data, user=account, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        command = [
            "postgres",
            "-D",
            str(data),
            "-p",
            str(self.ports["postgres"]),
            "-k",
            "",
            "-c",
            "fsync=off",
        ]
        with service(command, env, log, data, account):
            # The health check asks for a database that is not made yet: pg_isready needs none.
            self.wait_until_healthy("postgres", log)
            scripts = [self.file["configs"][mounted["source"]]["content"] for mounted in own["configs"]]
            for script in (f"CREATE DATABASE {database};", *scripts):
                subprocess.run(
                    ["psql", "-d", "postgres", "-c", script], env=env, check=True, capture_output=True
                )
            yield

    @contextmanager
    def s3(self) -> Iterator[None]:
        """moto's server with the bucket that the service's command names."""
        import boto3
        import httpx

        (bucket,) = (
            argument.removeprefix("-bucket=")
            for argument in self.file["services"]["s3"]["command"]
            if argument.startswith("-bucket=")
        )
        log, env = self.home / "s3.log", self.env_of("s3")
        url = f"http://127.0.0.1:{self.ports['s3']}"

        def answers() -> bool:
            try:
                return httpx.get(url).status_code < 500
            except httpx.TransportError:
                return False

        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.ports["s3"])]
        with service(command, env, log, self.home):
            wait_until(answers, HEALTHY_AFTER_S, lambda: f"moto does not answer:\n{tail(log)}")
            boto3.client(
                "s3",
                endpoint_url=url,
                aws_access_key_id="any",
                aws_secret_access_key="any",
                region_name="us-east-1",
            ).create_bucket(Bucket=bucket)
            yield


def in_order(services: Mapping[str, Any], wanted: tuple[str, ...]) -> list[str]:
    """The services wanted and all that they depend on, those first."""
    order: list[str] = []

    def add(name: str) -> None:
        for before in services[name].get("depends_on", {}):
            add(before)
        if name not in order:
            order.append(name)

    for name in wanted:
        add(name)
    return order


def programs() -> str:
    """The folder of PostgreSQL's programs; Debian keeps them out of the PATH. Empty where there is none."""
    found = shutil.which("initdb")
    folders = (
        [str(Path(found).parent)] if found else sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
    )
    return folders[-1] if folders else ""
