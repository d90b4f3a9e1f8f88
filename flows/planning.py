"""What a run would do, before it does it: the flow itself is walked, and its stages noted instead of run."""

from flows.augmentation import check_inputs
from flows.category import all_stages
from tasks.config import RunConfig
from tasks.runtime.stage import Started, planned
from tasks.stages.prepare import plan_prepare, prepare
from tasks.store.artifacts import verified
from tasks.tables.prepared import categories_of, check_defects


def plan_run(config: RunConfig) -> list[Started]:
    """Every stage of a run in its order; `outcome.status` says cached or planned.

    The split is made if it is not there: what follows depends on it, and it trains nothing. Pairs that may have to be
    drawn again for refused ones cannot be known before they are drawn: one round is planned.
    Raises: an error of ours for what a run would refuse.
    """
    check_inputs(config)
    categories = categories_of(config)
    splits = [plan_prepare(config, category).out for category in categories]
    for split in splits:
        if not verified(split):
            prepare.fn(split, config)
    check_defects(splits, config)
    noted: list[Started] = []
    token = planned.set(noted)
    try:
        for category in categories:
            all_stages(config, category)
    finally:
        planned.reset(token)
    return noted
