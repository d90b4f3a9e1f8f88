"""Doses of pairs and shots in a run: curves, advice, and keys that stay."""

import pandas as pd

from flows.cli.tables import dose_table
from tasks.config import DosesConfig, RunConfig
from tests.flows.running import only, run


def test_doses_make_curves_on_the_same_test_pictures_and_advice(config: RunConfig) -> None:
    compare = config.compare.model_copy(update={"training_sets": ("real",)})
    off = config.model_copy(
        update={"compare": compare, "split": config.split.model_copy(update={"shots": 2})}
    )
    doses = DosesConfig(pairs=(0, 1), shots=(1,))
    on = off.model_copy(update={"compare": compare.model_copy(update={"doses": doses})})
    summary = run(on)
    assert summary.state == "completed"
    trained = [stage.label for stage in summary.stages if stage.stage == "localize"]
    # 0 pairs is `real`, and 2 shots are all that there are: both are trained once.
    assert trained == [
        "bolt/real/seed 0",
        "bolt/generated+real, 1 pairs/seed 0",
        "bolt/generated+real, 1 shots/seed 0",
        "bolt/generated+real/seed 0",
    ]
    assert {"finetune bolt/dent, 1 shots", "generate bolt/stain, 1 shots"} <= only(summary, "ran")
    curves = pd.read_parquet(summary.folder / "dose.parquet")
    pd.testing.assert_frame_equal(curves, summary.dose)
    found = curves[curves["metric"] == "pixel_ap"].groupby(["kind", "defect_type"])["dose"].agg(list)
    assert found.to_dict() == {
        (kind, defect): dose
        for kind, dose in (("pairs", [0, 1]), ("shots", [1, 2]))
        for defect in ("all", "dent", "stain")
    }
    assert set(summary.metrics["training_set"]) == {"real"}, "doses are no training sets of the table"
    # Two good pictures are tested.
    assert summary.advice[0].startswith("bolt, localize: nothing can be said on the number of pairs: 2 test")
    assert any("more pictures of `dent`" in line for line in summary.advice)
    assert (summary.folder / "advice.txt").read_text().splitlines() == list(summary.advice)
    table = dose_table(summary, "shots")
    assert table.row_count == 3 * 2
    assert [column.header for column in table.columns][-2:] == ["1", "2"]

    # Off, all keys are those of a run that never had doses; the report alone is another, and what it is shown by.
    assert only(run(off), "ran") == {"report bolt", "page bolt"}
