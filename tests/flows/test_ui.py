"""What Prefect's UI has to show after a run: figures, verdicts, sheets, progress, names and tags."""

import base64
import io
from typing import Any

import pytest
from PIL import Image
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterTags,
)
from prefect.client.schemas.sorting import ArtifactSort

from tasks.config import RunConfig
from tests.flows.running import run


def newest(key: str) -> Any:
    """The newest artifact of a key: the server is that of other tests, too."""
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        found = client.read_artifacts(artifact_filter=wanted, limit=1, sort=ArtifactSort.CREATED_DESC)
    return found[0]


@pytest.mark.usefixtures("users_server")
def test_a_category_shows_its_figures_verdicts_and_sheets_and_how_far_its_stages_are(
    config: RunConfig,
) -> None:
    summary = run(config)
    figures = newest("bolt-figures")
    assert '"training_set": "generated+real"' in figures.data
    assert '"pixel_ap"' in figures.data
    text = newest("bolt-summary")
    assert "| localize | generated+real | pixel_ap |" in text.data
    assert "| dent | 3 | 3 |" in text.data
    sheet = newest("bolt-dent")
    kind, _, data = sheet.data.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size[0] > 100
    for stage in ("finetune", "generate", "localize"):
        refs = [each.artifact for each in summary.stages if each.stage == stage]
        for ref in refs:
            assert ref is not None
            bar = newest(f"{stage}-{ref.rpartition('/')[2]}")
            assert float(bar.data) == 100

    tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=["bolt"]))
    with get_client(sync_client=True) as client:
        flows = client.read_flow_runs(flow_run_filter=tagged)
        assert {each.name for each in flows} == {"bolt"}
        # The server is that of other tests, too: their stages have no tags.
        of_stage = TaskRunFilter(tags=TaskRunFilterTags(all_=["finetune", "bolt", "dent"]))
        tasks = client.read_task_runs(task_run_filter=of_stage)
    assert {each.name for each in tasks} == {"finetune bolt/dent"}
