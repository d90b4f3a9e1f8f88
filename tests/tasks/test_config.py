"""Configs: presets load, every refusal names the key's path, what was found and what is allowed."""

import json
from pathlib import Path

import pytest

from tasks.config import PRESETS, RunConfig, load_config, start_of
from tasks.errors import ConfigError


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    return path


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_presets_load_by_name_and_hold_no_default(name: str) -> None:
    import yaml

    config = load_config(name, data=Path("anywhere"))
    defaults = RunConfig(data=Path("anywhere"))
    for section, values in yaml.safe_load((PRESETS / f"{name}.yaml").read_text()).items():
        if not isinstance(values, dict):
            assert getattr(config, section) != getattr(defaults, section), section
            continue
        for key in values:
            assert getattr(getattr(config, section), key) != getattr(getattr(defaults, section), key), (
                section,
                key,
            )


def test_paper_has_the_reference_settings() -> None:
    config = load_config("paper", data=Path("mvtec"))
    finetune, generate = config.finetune, config.generate
    assert (finetune.size_px, finetune.batch_size, finetune.train_steps) == (512, 4, 5000)
    assert (finetune.learning_rate, finetune.weight_decay, finetune.adapter.saim_rank) == (2e-5, 1e-2, "full")
    assert (finetune.adapter.lora_rank, finetune.adapter.text_encoder_lora_rank) == (32, 32)
    assert finetune.horizontal_flip
    assert finetune.vertical_flip
    assert config.compare.oracle
    assert (generate.num_inference_steps, generate.guidance_scale, generate.num_pairs) == (50, 2.0, 500)


def test_an_unquoted_off_is_what_it_says() -> None:
    config = load_config("paper", ["finetune.adapter.background=off"], data=Path("mvtec"))
    assert config.finetune.adapter.background == "off"


def test_overrides_reach_any_depth_and_come_last(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("data: here\nseed: 1\nfinetune: {train_steps: 7, learning_rate: 1e-4}\n")
    config = load_config(
        path,
        [
            "finetune.adapter.lora_rank=4",
            "seed=3",
            "compare.training_sets=[real, generated]",
            "defects=[crack]",
        ],
        store=Path("there"),
        data=None,
    )
    assert config.data == Path("here")
    assert config.store == Path("there")
    assert (config.seed, config.finetune.train_steps, config.finetune.adapter.lora_rank) == (3, 7, 4)
    # YAML 1.1 reads 1e-4 as text; pydantic makes a number of it.
    assert config.finetune.learning_rate == 1e-4
    assert config.compare.training_sets == ("real", "generated")
    assert config.defects == ("crack",)


@pytest.mark.parametrize(
    ("override", "path", "allowed"),
    [
        ("finetune.train_steps=0", "finetune.train_steps", "at least 1, at most 100000"),
        ("finetune.train_steps=many", "finetune.train_steps", "a whole number"),
        ("finetune.learning_rate=-1", "finetune.learning_rate", "above 0, at most 0.1"),
        ("finetune.size_px=100", "finetune.size_px", "multiple of 8"),
        ("finetune.adapter.lora_rank=0", "finetune.adapter.lora_rank", "at least 1"),
        ("finetune.adapter.saim_rank=wide", "finetune.adapter.saim_rank", "full"),
        ("finetune.precision=fp16", "finetune.precision", "auto, bf16, fp32"),
        ("finetune.horizontal_flip=sometimes", "finetune.horizontal_flip", "true or false"),
        ("generate.scheduler=magic", "generate.scheduler", "dpmsolver++, ddim"),
        ("generate.mask.threshold=high", "generate.mask.threshold", "a number or auto"),
        ("split.shots=0", "split.shots", "third"),
        ("split.val_share=1", "split.val_share", "above 0, below 1"),
        (
            "compare.training_sets=[imagined]",
            "compare.training_sets",
            "real, copy-paste, perlin, copy-paste+real, perlin+real, generated, generated+real",
        ),
        ("compare.training_sets=[]", "compare.training_sets", "at least one"),
        ("compare.seeds=[1, 1]", "compare.seeds", "the same value twice"),
        ("localize.focal_weight=-1", "localize.focal_weight", "at least 0"),
        ("report.bootstrap_samples=3", "report.bootstrap_samples", "at least 100"),
        ("seed=-1", "seed", "at least 0"),
        ("device=tpu", "device", "auto, cpu, cuda"),
        ("finetune=fast", "finetune", "a mapping with keys"),
    ],
)
def test_values_out_of_range_are_refused_with_path_and_range(
    empty: Path, override: str, path: str, allowed: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_config(empty, [override], data=Path("anywhere"))
    (line,) = str(refusal.value).splitlines()[1:]
    assert line.strip().startswith(f"{path}: ")
    assert allowed in line
    assert "input should be" not in line.lower()


@pytest.mark.parametrize(
    ("override", "path", "hint"),
    [
        ("finetune.steps=5", "finetune.steps", "did you mean finetune.train_steps?"),
        ("finetune.adapter.rank=5", "finetune.adapter.rank", "did you mean finetune.adapter."),
        ("finetun.train_steps=5", "finetun", "did you mean finetune?"),
        ("generate.xyzzy=5", "generate.xyzzy", "known keys: adapter_step, adapter_strength"),
    ],
)
def test_unknown_keys_are_refused_with_the_key_that_was_meant(
    empty: Path, override: str, path: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_config(empty, [override], data=Path("anywhere"))
    (line,) = str(refusal.value).splitlines()[1:]
    assert line.strip().startswith(f"{path}: unknown key")
    assert hint in line


def test_every_fault_is_told_at_once(empty: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_config(empty, ["finetune.train_steps=0", "generate.num_pairs=0", "seeed=1"])
    lines = str(refusal.value).splitlines()[1:]
    assert [line.strip().split(":")[0] for line in lines] == [
        "data", "finetune.train_steps", "generate.num_pairs", "seeed",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["compare.doses.pairs=[0, 500]", "generate.num_pairs=500"],
            "compare.doses.pairs: 500 is more than the 400 pairs that are trained on of 500 generated, the others "
            "validate; set generate.num_pairs to 625 or more",
        ),
        (
            ["compare.doses.shots=[1, 5]"],
            "compare.doses.shots: 5 is more than split.shots (third) is sure to give",
        ),
        (["compare.doses.shots=[1, 5]", "split.shots=3"], "set split.shots to 5 or more"),
        (["compare.doses.shots=[0]"], "compare.doses.shots: 0 is not allowed"),
    ],
)
def test_doses_that_cannot_be_had_are_refused(empty: Path, overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_config(empty, overrides, data=Path("anywhere"))
    (line,) = str(refusal.value).splitlines()[1:]
    assert told in line
    assert line.strip().startswith("compare.")


def test_doses_are_sorted_and_all_of_the_pairs_can_be_one(empty: Path) -> None:
    overrides = [
        "compare.doses={pairs: [400, 0, 100], shots: [3, 1]}",
        "split.shots=3",
        "generate.num_pairs=500",
    ]
    doses = load_config(empty, overrides, data=Path("anywhere")).compare.doses
    assert (doses.pairs, doses.shots) == ((0, 100, 400), (1, 3))


def test_what_is_no_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean demo"):
        load_config("dmeo", data=Path("x"))
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "gone.yaml", data=Path("x"))
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match="holds a list"):
        load_config(tmp_path / "list.yaml", data=Path("x"))
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(tmp_path / "broken.yaml", data=Path("x"))


@pytest.mark.parametrize(
    "override", ["finetune.train_steps", "=3", "finetune..x=3", "seed=[1", "seed.deep=3"]
)
def test_a_malformed_override_is_refused(tmp_path: Path, override: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("seed: 1\n")
    with pytest.raises(ConfigError, match="--set"):
        load_config(path, [override], data=Path("x"))


def test_the_form_has_words_for_every_field() -> None:
    schema = RunConfig.model_json_schema()
    for name, model in {"RunConfig": schema, **schema["$defs"]}.items():
        for key, field in model["properties"].items():
            assert field.get("description"), f"{name}.{key} has no description"
    json.dumps(schema)


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ([], "shot"),
        (["finetune.base=stable-diffusion-v1-5/stable-diffusion-v1-5"], "noise"),
        (["finetune.base=hub/base", "generate.start=shot"], "shot"),
        (["finetune.adapter.background=convex"], "noise"),
        (["generate.where.size=shots"], "noise"),
        (["search.rounds=1"], "noise"),
    ],
)
def test_pairs_start_from_shots_where_the_base_is_mini_and_nothing_asks_for_noise(
    changes: list[str], start: str, tmp_path: Path
) -> None:
    assert start_of(load_config("demo", changes, data=tmp_path, store=tmp_path / "store")) == start


@pytest.mark.parametrize(
    "option", ["generate.where.size=shots", "search.rounds=1", "finetune.adapter.background=convex"]
)
def test_a_start_from_shots_is_refused_beside_what_needs_noise(option: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"generate\.start: shot goes without"):
        load_config("demo", [option, "generate.start=shot"], data=tmp_path, store=tmp_path / "store")


def test_a_strength_is_a_range_of_shares(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give the lower one first"):
        load_config("demo", ["generate.strength=[0.4, 0.2]"], data=tmp_path, store=tmp_path / "store")
    with pytest.raises(ConfigError, match=r"generate\.strength"):
        load_config("demo", ["generate.strength=[0, 0.2]"], data=tmp_path, store=tmp_path / "store")


def test_the_users_home_is_found_wherever_a_path_stands(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    empty.write_text("data: ~/data\nstore: ~/store\nobjects: {masks: ~/masks}\nsplit: {shots: ~/shots.txt}\n")
    config = load_config("~/empty.yaml", ["finetune.base=~/sd"])
    assert (config.data, config.store) == (tmp_path / "data", tmp_path / "store")
    assert (config.objects.masks, config.split.shots) == (tmp_path / "masks", tmp_path / "shots.txt")
    assert config.finetune.base == str(tmp_path / "sd")
    assert load_config(empty, data=Path("~/mine")).data == tmp_path / "mine"
    assert load_config(empty, ["finetune.base=a~/b"]).finetune.base == "a~/b"


def test_what_yaml_takes_for_yes_or_no_is_explained_and_names_are_in_one_form(empty: Path) -> None:
    empty.write_text("data: x\ndefects: [no]\n")
    with pytest.raises(ConfigError, match="defects: False is no text; YAML reads no, yes, on and off so"):
        load_config(empty)
    empty.write_text("data: x\ndefects: ['no', O\u0308se]\n", encoding="utf-8")
    assert load_config(empty).defects == ("no", "\u00d6se")
