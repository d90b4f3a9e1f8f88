"""The flows as deployments of a Prefect server: for its schedule, its UI and its workers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker
from pydantic import ValidationError

from flows.augmentation import augment
from flows.category import run_category
from flows.comparison import compare
from tasks.config import RunConfig
from tasks.errors import AnodiffError, ConfigError
from tasks.runtime.device import create_device_limit

# Fields that hold a name or a folder, and the name that is never a folder.
NAME_OR_FOLDER = {"base": "mini", "encoder": "imagenet", "backbone": "imagenet"}
# The worker imports Prefect before `tasks.environment` can say so: our log lines belong to the run in the UI.
JOB_VARIABLES = {
    "env": {"PREFECT_LOGGING_EXTRA_LOGGERS": "anodiff", "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore"}
}


@dataclass(frozen=True)
class Deployed:
    """A deployment as it is now on the server."""

    name: str
    schedule: CronSchedule | None


def deploy_flows(
    config: RunConfig, tags: Sequence[str], work_pool: str, schedule: CronSchedule | None
) -> list[Deployed]:
    """Put the full run, that of one category and a comparison on the server; only the first has the schedule."""
    create_work_pool(work_pool)
    create_device_limit(config.workers)
    values = {"config": config.model_dump(mode="json")}
    return [
        put(augment, "full", values, tags, work_pool, schedule=schedule),
        put(run_category, "one", values, tags, work_pool),
        put(compare, "runs", {"store": values["config"]["store"], "runs": []}, tags, work_pool),
    ]


def schedule_of(cron: str | None, timezone: str) -> CronSchedule | None:
    """Raises: ConfigError if Prefect can't read it."""
    if cron is None:
        return None
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        option = f"--{error.errors()[0]['loc'][0]} {error.errors()[0]['input']!r}"
        raise ConfigError(
            f"{option}: cannot be read; write --cron as minute hour day month weekday (Saturday at two: "
            f'"0 2 * * 6") and --timezone as Europe/Berlin'
        ) from error


def find_server() -> str:
    """The address of the Prefect server. Raises: AnodiffError if none is named or it does not answer."""
    url = get_current_settings().api.url
    if url is None:
        raise AnodiffError(
            "deploy: which Prefect server? Start one with `prefect server start`, and name it: "
            "export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    with get_client(sync_client=True) as client:
        silent = client.api_healthcheck()
    if silent is not None:
        raise AnodiffError(
            f"deploy: the Prefect server at {url} does not answer ({type(silent).__name__}); start it with "
            "`prefect server start`, or name another in PREFECT_API_URL (it ends in /api)"
        )
    return url


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same folders, wherever a worker runs: its working folder is not this one."""

    def absolute(name: str, value: Any) -> Any:
        match value:
            case dict():
                return {key: absolute(key, inner) for key, inner in value.items()}
            case Path():
                return value.absolute()
            case str() if value != NAME_OR_FOLDER.get(name, value) and Path(value).exists():
                return str(Path(value).absolute())
        return value

    return type(config).model_validate(absolute("", config.model_dump()))


def create_work_pool(name: str) -> None:
    """Create a pool for workers that start each run as a process; one that is there stays as it is."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))


def put(
    flow: Flow[..., Any],
    name: str,
    parameters: Mapping[str, Any],
    tags: Sequence[str],
    work_pool: str,
    schedule: CronSchedule | None = None,
) -> Deployed:
    """Make a flow's deployment, or bring it up to date; without `schedule` it has none from now on.

    A worker finds the flow as a module, since the package is installed where it runs.
    """
    deployment = RunnerDeployment.from_flow(
        flow,
        name,
        parameters=dict(parameters),
        tags=list(tags),
        schedules=[] if schedule is None else [schedule],
        work_pool_name=work_pool,
        job_variables=JOB_VARIABLES,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    for field, shape in deployment._parameter_openapi_schema.properties.items():
        if field != "config":  # whose form is long: what else is asked for stands above it
            shape["position"] = -1
    deployment.apply()
    return Deployed(deployment.full_name, schedule)
