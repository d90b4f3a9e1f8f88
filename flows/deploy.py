"""`anodiff deploy`: the flows as deployments of a Prefect server, for its schedule, its UI and its workers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.terminal import (
    Categories,
    Changes,
    Config,
    Data,
    Defects,
    OwnDevice,
    OwnStore,
    Verbose,
    load,
    out,
    refusing,
)

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.schedules import CronSchedule

    from tasks.config import RunConfig

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
    schedule: "CronSchedule | None"


def deploy(
    config: Config,
    data: Data = None,
    categories: Categories = None,
    defects: Defects = None,
    set_: Changes = None,
    store: OwnStore = None,
    device: OwnDevice = None,
    cron: Annotated[str | None, typer.Option(help='When the full run starts by itself: "0 2 * * 6".')] = None,
    timezone: Annotated[str, typer.Option(help="Time zone of --cron, such as Europe/Berlin.")] = "UTC",
    work_pool: Annotated[str, typer.Option(help="Where workers look for runs; made if missing.")] = "anodiff",
    verbose: Verbose = False,
) -> None:
    """Put the full run, that of one category and a comparison on a Prefect server, startable there and by schedule."""
    with refusing(verbose):
        loaded = load(config, data, categories, defects, set_, store, device)
        loaded = with_absolute_paths(loaded)
        schedule = schedule_of(cron, timezone)
        known = check_data(loaded)
        url = find_server()

        from flows.augmentation import augment
        from flows.category import run_category
        from flows.comparison import compare
        from tasks.runtime.device import create_device_limit

        create_work_pool(work_pool)
        create_device_limit(loaded.workers)
        tags = ["anodiff", Path(config).stem, *(loaded.categories or ())]
        values = {"config": loaded.model_dump(mode="json")}
        made = [
            put(augment, "full", values, tags, work_pool, schedule=schedule),
            put(run_category, "one", values, tags, work_pool),
            put(compare, "runs", {"store": values["config"]["store"], "runs": []}, tags, work_pool),
        ]
    say(made, url, work_pool, known)


def schedule_of(cron: str | None, timezone: str) -> "CronSchedule | None":
    """Raises: ConfigError if Prefect can't read it."""
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    from tasks.errors import ConfigError

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
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    from tasks.errors import AnodiffError

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


def with_absolute_paths(config: "RunConfig") -> "RunConfig":
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


def check_data(config: "RunConfig") -> list[str]:
    """The categories to run; none, with a warning, if the folder is not on this machine.

    Raises: DataError if the folder is here and lacks what was asked for.
    """
    from tasks.tables.prepared import categories_of

    if not config.data.is_dir():
        out.print(
            f"{config.data}: not on this machine, so its categories are not checked; the workers must have it there",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
        return list(config.categories or ())
    return categories_of(config)


def create_work_pool(name: str) -> None:
    """Create a pool for workers that start each run as a process; one that is there stays as it is."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))


def put(
    flow: "Flow[..., Any]",
    name: str,
    parameters: Mapping[str, Any],
    tags: list[str],
    work_pool: str,
    schedule: "CronSchedule | None" = None,
) -> Deployed:
    """Make a flow's deployment, or bring it up to date; without `schedule` it has none from now on.

    A worker finds the flow as a module, since the package is installed where it runs.
    """
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    deployment = RunnerDeployment.from_flow(
        flow,
        name,
        parameters=dict(parameters),
        tags=tags,
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


def say(made: list[Deployed], url: str, work_pool: str, categories: list[str]) -> None:
    """What is there now, and the commands that come next."""
    lines = [
        each.name
        if each.schedule is None
        else f"{each.name}  at {each.schedule.cron} ({each.schedule.timezone})"
        for each in made
    ]
    lines += [
        "",
        "a worker, on each machine that has this package, the data and the store:",
        f"  PREFECT_API_URL={url} prefect worker start --pool {work_pool} --type process",
        "a run now:",
        "  prefect deployment run augmentation/full",
        "  prefect deployment run comparison/runs",
        f"  prefect deployment run category/one --param category={categories[0] if categories else 'NAME'}",
    ]
    out.print("\n".join(lines), highlight=False, soft_wrap=True)
