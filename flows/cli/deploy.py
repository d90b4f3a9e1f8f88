"""`anodiff deploy`: the flows on a Prefect server, and what comes next."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.terminal import (
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
    from flows.deployments import Deployed
    from tasks.config import RunConfig


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
        from flows.deployments import deploy_flows, find_server, schedule_of, with_absolute_paths

        loaded = with_absolute_paths(loaded)
        schedule = schedule_of(cron, timezone)
        known = check_data(loaded)
        url = find_server()
        tags = ["anodiff", Path(config).stem, *(loaded.categories or ())]
        made = deploy_flows(loaded, tags, work_pool, schedule)
    say(made, url, work_pool, known)


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


def say(made: "list[Deployed]", url: str, work_pool: str, categories: list[str]) -> None:
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
