"""Stages at once, in threads, processes and on a Dask cluster: the same run, and a failure leaves the others alone."""

from pathlib import Path

import pandas as pd
import pytest

from tasks.config import RunConfig, load_config
from tasks.errors import ConfigError
from tasks.report.run_folder import RunSummary
from tasks.stages.finetune import plan_finetune
from tasks.stages.prepare import plan_prepare
from tests.flows.running import STAGES, block, only, run, statuses


@pytest.fixture(scope="module")
def expected(yaml_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """The tiny run, one stage after the other."""
    return run(load_config(yaml_file, store=tmp_path_factory.mktemp("serial") / "store"))


@pytest.mark.timeout(900)  # three runs, two of them by processes that each import torch
@pytest.mark.parametrize(
    "runner",
    [
        "threads",
        pytest.param("processes", marks=pytest.mark.stack),  # `make demo` runs by processes, too
        pytest.param("dask", marks=pytest.mark.stack),
    ],
)
def test_a_run_is_the_same_whoever_runs_its_stages(
    runner: str, expected: RunSummary, config: RunConfig
) -> None:
    config = config.model_copy(update={"runner": runner, "workers": 2})
    adapter = plan_finetune(config, plan_prepare(config, "bolt").out, "dent", None).out
    in_the_way = block(adapter)
    broken = run(config)
    assert only(broken, "failed") == {"finetune bolt/dent"}
    assert only(broken, "skipped") == {"generate bolt/dent", "curate bolt/dent"}
    assert "finetune bolt/stain" in only(broken, "ran")

    in_the_way.unlink()
    mended = run(config)
    assert set(statuses(mended)) == set(STAGES)
    assert "finetune bolt/stain" in only(mended, "cached")
    assert {each.artifact for each in mended.stages} == {each.artifact for each in expected.stages}
    columns = ["model", "training_set", "seed", "defect_type", "size", "metric"]
    found, wanted = (
        each.metrics.drop(columns="run").sort_values(columns, ignore_index=True)
        for each in (mended, expected)
    )
    pd.testing.assert_frame_equal(found, wanted, rtol=1e-3)


def test_a_scheduler_without_the_runner_that_uses_it_is_refused(yaml_file: Path) -> None:
    with pytest.raises(ConfigError, match="dask_scheduler: the runner is serial; set runner to dask"):
        load_config(yaml_file, ["dask_scheduler=tcp://127.0.0.1:8786"])
