"""What Prefect's UI has to show after a run: figures, verdicts, sheets, progress, names and tags."""

import base64
import io
from typing import Any

from PIL import Image
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

from tasks.config import RunConfig
from tests.flows.running import run


def artifacts(**wanted: str) -> list[Any]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(limit=200)
    return [each for each in found if all(getattr(each, name) == value for name, value in wanted.items())]


def test_a_category_shows_its_figures_verdicts_and_sheets_and_how_far_its_stages_are(
    config: RunConfig,
) -> None:
    summary = run(config)
    (figures,) = artifacts(key="bolt-figures")
    assert '"training_set": "generated+real"' in figures.data
    assert '"pixel_ap"' in figures.data
    (text,) = artifacts(key="bolt-summary")
    assert "| localize | generated+real | pixel_ap |" in text.data
    assert "| dent | 3 | 3 |" in text.data
    (sheet,) = artifacts(key="bolt-dent")
    kind, _, data = sheet.data.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size[0] > 100
    for stage in ("finetune", "generate", "localize"):
        refs = [each.artifact for each in summary.stages if each.stage == stage]
        for ref in refs:
            assert ref is not None
            (bar,) = artifacts(key=f"{stage}-{ref.rpartition('/')[2]}")
            assert float(bar.data) == 100

    tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=["bolt"]))
    with get_client(sync_client=True) as client:
        flows = client.read_flow_runs(flow_run_filter=tagged)
        assert {each.name for each in flows} == {"bolt"}
        tasks = client.read_task_runs(flow_run_filter=tagged)
    (tuned,) = [each for each in tasks if each.name == "finetune bolt/dent"]
    assert {"finetune", "bolt", "dent"} <= set(tuned.tags)
