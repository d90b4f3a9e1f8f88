"""Every model on every training set in one run: one table, what cannot be is said, what does not count is marked."""

from pathlib import Path

import pandas as pd
from rich.table import Table

from flows.cli.tables import figures_table, tables_of
from tasks.config import RunConfig
from tasks.report.run_folder import RunSummary
from tasks.stages.prepare import plan_prepare
from tests.flows.running import run


def test_every_model_on_every_training_set_makes_one_table_and_what_cannot_be_is_said(
    config: RunConfig,
) -> None:
    sets = ("real", "copy-paste", "copy-paste+real", "perlin", "perlin+real", "generated", "generated+real")
    compare = config.compare.model_copy(
        update={"models": ("localize", "classify", "detect"), "training_sets": sets, "oracle": True}
    )
    localize = config.localize.model_copy(update={"evaluate_every_steps": 1})
    summary = run(config.model_copy(update={"compare": compare, "localize": localize}))
    assert summary.state == "completed"
    check_oracle(config, summary)
    left_out = [stage for stage in summary.stages if stage.status == "left out"]
    assert [(stage.stage, stage.label) for stage in left_out] == [
        ("classify", "bolt/perlin"),
        ("classify", "bolt/perlin+real"),
    ]
    assert "no defect type" in (left_out[0].error or "")
    trained = summary.metrics[["model", "training_set"]].drop_duplicates().value_counts("model").to_dict()
    assert trained == {"localize": 7, "detect": 7, "classify": 5}
    compared = summary.lift[["model", "against"]].drop_duplicates()
    assert set(compared[compared["model"] == "detect"]["against"]) == {*sets} - {
        "generated",
        "generated+real",
    }
    assert set(compared[compared["model"] == "classify"]["against"]) == {
        "real",
        "copy-paste",
        "copy-paste+real",
    }
    assert set(summary.lift[summary.lift["model"] == "classify"]["metric"]) == {
        "accuracy", "balanced_accuracy", "macro_f1",
    }  # fmt: skip

    # A detector that learns from normals alone is trained once, and the others say why they are not.
    detect = config.detect.model_copy(update={"model": "padim"})
    alone = compare.model_copy(update={"models": ("detect",), "training_sets": ("real", "generated")})
    summary = run(config.model_copy(update={"compare": alone, "detect": detect}))
    assert summary.state == "completed"
    assert {stage.label: stage.status for stage in summary.stages if stage.stage == "detect"} == {
        "bolt/real/seed 0": "ran", "bolt/generated": "left out",
    }  # fmt: skip


def check_oracle(config: RunConfig, summary: RunSummary) -> None:
    """What the test pictures chose is apart from all else: file, columns, table; no checkpoint stays."""
    oracle = pd.read_parquet(summary.folder / "oracle.parquet")
    pd.testing.assert_frame_equal(oracle, summary.oracle)
    models = oracle[["model", "training_set"]].drop_duplicates().value_counts("model").to_dict()
    assert models == {"localize": 7, "classify": 5}
    looks = set(oracle[["model", "n_checkpoints"]].itertuples(index=False, name=None))
    assert looks == {("localize", 2), ("classify", 1)}
    best, honest = (
        table[(table["metric"] == "pixel_ap") & (table["defect_type"] == "all") & (table["size"] == "all")]
        .query("model == 'localize'")
        .set_index("training_set")["value"]
        for table in (oracle, summary.metrics)
    )
    assert (best >= honest.loc[best.index]).all(), "the kept weights are among the checkpoints"
    assert "chosen_by" not in summary.metrics
    titles = [str(each.title) for each in tables_of(summary) if isinstance(each, Table)]
    assert sum("not an honest figure" in title for title in titles) == 2
    assert not list((config.store / "artifacts").rglob("checkpoints"))


def test_figures_of_the_naive_split_say_that_they_do_not_count(config: RunConfig) -> None:
    naive = config.model_copy(update={"split": config.split.model_copy(update={"naive": True})})
    assert plan_prepare(naive, "bolt").out.ref != plan_prepare(config, "bolt").out.ref
    summary = RunSummary("r", Path(), "completed", (), naive_metrics(), pd.DataFrame(), (), naive=True)
    assert "these figures do not count" in str(figures_table(summary, "localize").caption)
    honest = RunSummary("r", Path(), "completed", (), naive_metrics(), pd.DataFrame(), ())
    assert figures_table(honest, "localize").caption is None


def naive_metrics() -> pd.DataFrame:
    row = {"category": "bolt", "model": "localize", "training_set": "real", "seed": 0, "defect_type": "all"}
    figures = {"size": "all", "metric": "pixel_ap", "value": 0.5, "n_good": 1, "n_defect": 1}
    return pd.DataFrame([row | figures])
