"""The whole chain on real, tiny stages: what is cached, what is done again, what a failure leaves alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from rich.table import Table
from typer.testing import CliRunner

from flows.augmentation import augment
from flows.cli import app
from flows.tables import dose_table, figures_table, tables_of
from tasks.artifacts import Artifact, plan
from tasks.config import DosesConfig, RunConfig, load_config
from tasks.finetune import plan_finetune
from tasks.normals import plan_adapt
from tasks.prepare import plan_prepare
from tasks.report import RunSummary
from tests.flows.running import run


def statuses(summary: RunSummary) -> dict[str, str]:
    return {f"{stage.stage} {stage.label}": stage.status for stage in summary.stages}


def only(summary: RunSummary, status: str) -> set[str]:
    return {name for name, found in statuses(summary).items() if found == status}


def artifact(config: RunConfig, ref: str | None) -> Path:
    assert ref is not None
    return config.store / "artifacts" / ref


def stage_path(config: RunConfig, summary: RunSummary, name: str) -> Path:
    (found,) = [s.artifact for s in summary.stages if f"{s.stage} {s.label}" == name]
    return artifact(config, found)


def block(planned: Artifact) -> Path:
    """Make a stage fail for real: a file lies where its staging folder must be."""
    planned.staging.parent.mkdir(parents=True, exist_ok=True)
    planned.staging.write_text("in the way")
    return planned.staging


STAGES = [
    "prepare bolt",
    "objects bolt",
    "finetune bolt/dent",
    "generate bolt/dent",
    "curate bolt/dent",
    "quality bolt/dent",
    "finetune bolt/stain",
    "generate bolt/stain",
    "curate bolt/stain",
    "quality bolt/stain",
    "localize bolt/real/seed 0",
    "localize bolt/generated+real/seed 0",
    "report bolt",
    "page bolt",
]


def test_a_run_from_start_to_end_and_what_makes_its_stages_run_again(config: RunConfig) -> None:
    first = run(config)
    assert statuses(first) == dict.fromkeys(STAGES, "ran")
    check_run_folder(config, first)

    again = run(config)
    assert statuses(again) == dict.fromkeys(STAGES, "cached")
    assert again.run != first.run
    pd.testing.assert_frame_equal(again.metrics.drop(columns="run"), first.metrics.drop(columns="run"))
    assert set(again.metrics["run"]) == {again.run}

    # A deleted and a damaged artifact: these stages run again, and no other; what they make is the same.
    shutil.rmtree(stage_path(config, first, "finetune bolt/dent"))
    pair = stage_path(config, first, "generate bolt/stain") / "mask" / "000001.png"
    before = pair.read_bytes()
    Image.new("L", (64, 64), 7).save(pair)
    mended = run(config)
    assert only(mended, "ran") == {"finetune bolt/dent", "generate bolt/stain"}
    assert pair.read_bytes() == before
    assert only(mended, "failed") == set()

    # Prefect's own record gone, the artifacts there: nothing is made again.
    shutil.rmtree(config.store / "results")
    assert only(run(config), "cached") == set(STAGES)

    # A changed field runs the stages that read it and those after them.
    changed = config.model_copy(update={"localize": config.localize.model_copy(update={"train_steps": 3})})
    assert only(run(changed), "ran") == {
        name for name in STAGES if name.startswith(("localize", "report", "page"))
    }

    # Fields that change no artifact, another copy of the same data, a moved store: nothing runs again.
    shutil.copytree(config.data, config.store.parent / "copy")
    config.store.rename(config.store.parent / "moved")
    elsewhere = config.model_copy(
        update={
            "generate": config.generate.model_copy(update={"batch_size": 2}),
            "finetune": config.finetune.model_copy(update={"checkpoint_every_steps": 7}),
            "device": "cpu",
            "data": config.store.parent / "copy",
            "store": config.store.parent / "moved",
        }
    )
    assert only(run(elsewhere), "cached") == set(STAGES)


def check_run_folder(config: RunConfig, summary: RunSummary) -> None:
    """run.json refers to artifacts by name; tables and sheets are there; no artifact holds a path of the data."""
    described = json.loads((summary.folder / "run.json").read_text())
    assert described["state"] == "completed"
    assert str(config.store) not in (summary.folder / "run.json").read_text()
    for stage in described["stages"]:
        assert (artifact(config, stage["artifact"]) / "manifest.json").is_file()
    for file in (config.store / "artifacts").rglob("*"):
        assert not file.is_file() or str(config.data).encode() not in file.read_bytes(), file
    assert not list((config.store / "staging").rglob("out"))

    metrics = pd.read_parquet(summary.folder / "metrics.parquet")
    of_all = metrics[(metrics["defect_type"] == "all") & (metrics["size"] == "all")]
    assert set(of_all["training_set"]) == {"real", "generated+real"}
    assert {
        "image_auroc",
        "image_ap",
        "image_f1_max",
        "pixel_auroc",
        "pixel_ap",
        "pixel_f1_max",
        "aupro",
    } <= set(of_all["metric"])
    pairs = pd.read_parquet(summary.folder / "pairs.parquet")
    assert pairs.groupby("label").size().to_dict() == {"dent": 3, "stain": 3}
    assert {"run", "category", "reasons", "seed", "adapter_key"} <= set(pairs.columns)
    quality = pd.read_parquet(summary.folder / "quality.parquet")
    assert set(quality["defect"]) == {"dent", "stain"}
    lift = pd.read_parquet(summary.folder / "lift.parquet")
    assert set(lift["training_set"]) == {"generated+real"}
    assert (lift["low"] <= lift["difference"]).all() or lift["low"].isna().any()
    assert [sheet.name for sheet in summary.sheets] == ["bolt-dent.png", "bolt-stain.png"]
    with Image.open(summary.sheets[0]) as sheet:
        assert sheet.width > 5 * 32
        assert sheet.height > 2 * 32


def test_a_failing_defect_and_category_leave_the_others_alone(
    config: RunConfig, yaml_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = config.model_copy(update={"categories": ("bolt", "nut")})
    in_the_way = [block(plan_finetune(both, plan_prepare(both, "bolt"), "dent"))]
    in_the_way += [block(plan_finetune(both, plan_prepare(both, "nut"), d)) for d in ("dent", "stain")]
    arguments = ["run", "--config", str(yaml_file), "--categories", "bolt,nut", "--store", str(config.store)]
    monkeypatch.setattr("sys.argv", ["anodiff", *arguments])
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1, result.output
    assert "Failed" in result.output
    assert "a stage before it failed" in result.output
    assert "NotADirectoryError" in result.output
    assert "Traceback" not in result.output
    assert " ".join(["anodiff", *arguments]) in result.output.replace("\n", "")
    assert "Figures lack what failed in: bolt, nut" in result.output

    for path in in_the_way:
        path.unlink()
    summary = run(both)
    assert summary.state == "completed"
    cached = only(summary, "cached")
    whole = {f"{stage} bolt/stain" for stage in ("finetune", "generate", "curate", "quality")}
    assert cached == whole | {
        f"{stage} {category}" for stage in ("prepare", "objects") for category in ("bolt", "nut")
    }
    # With all pairs there, the models are other ones than those of the run that lacked some.
    assert {"localize bolt/real/seed 0", "localize nut/real/seed 0", "report bolt", "page bolt"} <= only(
        summary, "ran"
    )


def remove_a_mask(data: Path) -> None:
    (data / "nut/ground_truth/stain/000_mask.png").unlink()


def break_a_picture(data: Path) -> None:
    (data / "nut/train/good/001.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("arguments", "damage", "expected"),
    [
        (["--set", "finetune.steps=5"], None, "did you mean finetune.train_steps?"),
        (
            ["--set", "finetune.train_steps=0"],
            None,
            "finetune.train_steps: 0 is not allowed; allowed: a whole number",
        ),
        (["--categories", "bolt,cable"], None, "no category cable"),
        (["--defects", "crack"], None, "no defect type crack; found: dent, stain"),
        (["--set", "finetune.base=/nowhere"], None, "/nowhere"),
        (
            ["--set", "localize.encoder_weights=/no", "--set", "localize.encoder=resnet18"],
            None,
            "no file /no",
        ),
        (["--data", "/nowhere"], None, "/nowhere: no such folder"),
        (["--categories", "bolt,nut"], remove_a_mask, "mask missing"),
        (["--categories", "bolt,nut"], break_a_picture, "001.png"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(
    config: RunConfig,
    yaml_file: Path,
    tmp_path: Path,
    arguments: list[str],
    damage: Callable[[Path], None] | None,
    expected: str,
) -> None:
    if damage is not None:
        shutil.copytree(config.data, tmp_path / "data")
        damage(tmp_path / "data")
        arguments = [*arguments, "--data", str(tmp_path / "data")]
    result = CliRunner().invoke(
        app, ["run", "--config", str(yaml_file), "--store", str(config.store), *arguments]
    )
    assert result.exit_code == 2, result.output
    assert expected in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (config.store / "artifacts" / "finetune").exists()


def test_a_config_is_a_form_that_prefect_can_show() -> None:
    schema = augment.parameters.model_dump()["definitions"]["RunConfig"]
    assert schema["properties"]["device"]["enum"] == ["auto", "cpu", "cuda"]
    train_steps = augment.parameters.model_dump()["definitions"]["FinetuneConfig"]["properties"][
        "train_steps"
    ]
    assert train_steps["minimum"] == 1
    assert train_steps["description"]


def test_a_key_is_of_content_not_of_place(config: RunConfig, tmp_path: Path) -> None:
    here = plan_prepare(config, "bolt")
    shutil.copytree(config.data / "bolt", tmp_path / "elsewhere" / "bolt")
    there = plan_prepare(config.model_copy(update={"data": tmp_path / "elsewhere" / "bolt"}), "bolt")
    assert here.ref == there.ref
    assert plan(config.store, "prepare", 1, "bolt").ref != here.ref
    (tmp_path / "elsewhere/bolt/test/dent/000.png").write_bytes(b"another")
    changed = plan_prepare(load_config("demo", data=tmp_path / "elsewhere"), "bolt")
    assert changed.ref != here.ref


def test_every_model_on_every_training_set_makes_one_table_and_what_cannot_be_is_said(
    config: RunConfig,
) -> None:
    sets = ("real", "copy-paste", "perlin", "generated", "generated+real")
    compare = config.compare.model_copy(
        update={"models": ("localize", "classify", "detect"), "training_sets": sets, "oracle": True}
    )
    localize = config.localize.model_copy(update={"evaluate_every_steps": 1})
    summary = run(config.model_copy(update={"compare": compare, "localize": localize}))
    assert summary.state == "completed"
    check_oracle(config, summary)
    left_out = [stage for stage in summary.stages if stage.status == "left out"]
    assert [(stage.stage, stage.label) for stage in left_out] == [("classify", "bolt/perlin")]
    assert "no defect type" in (left_out[0].error or "")
    trained = summary.metrics[["model", "training_set"]].drop_duplicates().value_counts("model").to_dict()
    assert trained == {"localize": 5, "detect": 5, "classify": 4}
    compared = summary.lift[["model", "against"]].drop_duplicates()
    assert set(compared[compared["model"] == "detect"]["against"]) == {"real", "perlin"}
    assert set(compared[compared["model"] == "classify"]["against"]) == {"real"}
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


def test_figures_of_the_naive_split_say_that_they_do_not_count(config: RunConfig) -> None:
    naive = config.model_copy(update={"split": config.split.model_copy(update={"naive": True})})
    assert plan_prepare(naive, "bolt").ref != plan_prepare(config, "bolt").ref
    summary = RunSummary("r", Path(), "completed", (), naive_metrics(), pd.DataFrame(), (), naive=True)
    assert "these figures do not count" in str(figures_table(summary, "localize").caption)
    honest = RunSummary("r", Path(), "completed", (), naive_metrics(), pd.DataFrame(), ())
    assert figures_table(honest, "localize").caption is None


def naive_metrics() -> pd.DataFrame:
    row = {"category": "bolt", "model": "localize", "training_set": "real", "seed": 0, "defect_type": "all"}
    figures = {"size": "all", "metric": "pixel_ap", "value": 0.5, "n_good": 1, "n_defect": 1}
    return pd.DataFrame([row | figures])


def check_oracle(config: RunConfig, summary: RunSummary) -> None:
    """What the test pictures chose is apart from all else: file, columns, table; no checkpoint stays."""
    oracle = pd.read_parquet(summary.folder / "oracle.parquet")
    pd.testing.assert_frame_equal(oracle, summary.oracle)
    models = oracle[["model", "training_set"]].drop_duplicates().value_counts("model").to_dict()
    assert models == {"localize": 5, "classify": 4}
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


def adapting(config: RunConfig) -> RunConfig:
    """The tiny run with the base trained on normals first."""
    normals = config.finetune.normals.model_copy(update={"train_steps": 2, "batch_size": 1, "lora_rank": 2})
    return config.model_copy(
        update={
            "finetune": config.finetune.model_copy(update={"adapt_to_normals": True, "normals": normals}),
            "compare": config.compare.model_copy(update={"training_sets": ("real",)}),
        }
    )


def test_all_defects_share_one_adaptation_to_the_normals(config: RunConfig) -> None:
    on = adapting(config)
    first = run(on)
    stages = list(statuses(first))
    assert stages[:4] == ["prepare bolt", "objects bolt", "adapt bolt", "finetune bolt/dent"]
    assert [name for name in stages if name.startswith("adapt")] == ["adapt bolt"]
    assert set(statuses(first).values()) == {"ran"}
    for defect in ("dent", "stain"):
        adapter = stage_path(on, first, f"finetune bolt/{defect}")
        ours, theirs = (
            (folder / "normals.safetensors").read_bytes()
            for folder in (adapter, stage_path(on, first, "adapt bolt"))
        )
        assert ours == theirs
    assert set(statuses(run(on)).values()) == {"cached"}

    # Without it, adapters are other ones; settings of the normals then count for nothing.
    off = on.model_copy(update={"finetune": on.finetune.model_copy(update={"adapt_to_normals": False})})
    prepared = plan_prepare(off, "bolt")
    assert plan_adapt(off, prepared) is None
    assert (
        plan_finetune(off, prepared, "dent").ref
        != plan_finetune(on, prepared, "dent", plan_adapt(on, prepared)).ref
    )
    assert plan_finetune(off, prepared, "dent").ref == plan_finetune(config, prepared, "dent").ref


def test_what_shapes_the_adaptation_is_in_its_key(config: RunConfig) -> None:
    on = adapting(config)
    prepared = plan_prepare(on, "bolt")

    def key(**changed: object) -> str:
        finetune = on.finetune.model_copy(update=changed)
        planned = plan_adapt(on.model_copy(update={"finetune": finetune}), prepared)
        assert planned is not None
        return planned.ref

    more = on.finetune.normals.model_copy(update={"train_steps": 3})
    changes: list[dict[str, object]] = [
        {"normals": more}, {"size_px": 72}, {"vertical_flip": False}, {"base": "mini"},
    ]  # fmt: skip
    assert len({key(), *(key(**each) for each in changes)}) == len(changes) + 1
    # The few shots' own settings leave it as it is.
    assert key() == key(train_steps=9, learning_rate=1e-3, checkpoint_every_steps=9, image_prompt="other")


def test_a_failed_adaptation_leaves_out_its_category_alone(config: RunConfig) -> None:
    both = adapting(config).model_copy(update={"categories": ("bolt", "nut")})
    planned = plan_adapt(both, plan_prepare(both, "bolt"))
    assert planned is not None
    block(planned)
    summary = run(both)
    assert only(summary, "failed") == {"adapt bolt"}
    assert only(summary, "skipped") == {
        f"{stage} bolt/{defect}"
        for stage in ("finetune", "generate", "curate")
        for defect in ("dent", "stain")
    }
    assert {"adapt nut", "finetune nut/dent", "report nut", "page nut"} <= only(summary, "ran")
