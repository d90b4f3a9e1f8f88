"""The base trained on a category's normals first: once for all its defects, and a failure is its category's alone."""

from tasks.config import RunConfig
from tasks.stages.adapt import plan_adapt
from tasks.stages.finetune import plan_finetune
from tasks.stages.prepare import plan_prepare
from tests.flows.running import block, only, run, stage_path, statuses


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
    prepared = plan_prepare(off, "bolt").out
    assert plan_adapt(off, prepared) is None
    adapting_on = plan_adapt(on, prepared)
    assert adapting_on is not None
    assert (
        plan_finetune(off, prepared, "dent").out.ref
        != plan_finetune(on, prepared, "dent", adapting_on.out).out.ref
    )
    assert plan_finetune(off, prepared, "dent").out.ref == plan_finetune(config, prepared, "dent").out.ref


def test_what_shapes_the_adaptation_is_in_its_key(config: RunConfig) -> None:
    on = adapting(config)
    prepared = plan_prepare(on, "bolt").out

    def key(**changed: object) -> str:
        finetune = on.finetune.model_copy(update=changed)
        planned = plan_adapt(on.model_copy(update={"finetune": finetune}), prepared)
        assert planned is not None
        return planned.out.ref

    more = on.finetune.normals.model_copy(update={"train_steps": 3})
    changes: list[dict[str, object]] = [
        {"normals": more}, {"size_px": 72}, {"vertical_flip": False}, {"base": "mini"},
    ]  # fmt: skip
    assert len({key(), *(key(**each) for each in changes)}) == len(changes) + 1
    # The few shots' own settings leave it as it is.
    assert key() == key(train_steps=9, learning_rate=1e-3, checkpoint_every_steps=9, image_prompt="other")


def test_a_failed_adaptation_leaves_out_its_category_alone(config: RunConfig) -> None:
    both = adapting(config).model_copy(update={"categories": ("bolt", "nut")})
    planned = plan_adapt(both, plan_prepare(both, "bolt").out)
    assert planned is not None
    block(planned.out)
    summary = run(both)
    assert only(summary, "failed") == {"adapt bolt"}
    assert only(summary, "skipped") == {
        f"{stage} bolt/{defect}"
        for stage in ("finetune", "generate", "curate")
        for defect in ("dent", "stain")
    }
    assert {"adapt nut", "finetune nut/dent", "report nut", "page nut"} <= only(summary, "ran")
