"""Search over sampling settings: kept steps and strength are what they say, the best mean rank wins."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from dual_anodiff.adapter import kept_weights
from dual_anodiff.config import FinetuneConfig, GenerateConfig, SearchConfig
from dual_anodiff.errors import AdapterError
from dual_anodiff.generation import generate_pairs
from dual_anodiff.images import Shot
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.quality.pairs import load_images, load_shots
from dual_anodiff.search import SETTINGS, mean_ranks, search
from dual_anodiff.training import train


@pytest.fixture(scope="module")
def adapter(config: FinetuneConfig, shots: list[Shot], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapter")
    train(shots, config.model_copy(update={"keep_checkpoints": (2, 4)}), out, progress=False)
    return out


def test_a_kept_step_is_the_adapter_of_a_training_that_ended_there(
    adapter: Path, config: FinetuneConfig, shots: list[Shot], tmp_path: Path
) -> None:
    train(shots, config.model_copy(update={"train_steps": 4}), tmp_path / "four", progress=False)
    kept, four = load_file(kept_weights(adapter, 4)), load_file(tmp_path / "four" / "adapter.safetensors")
    assert kept.keys() == four.keys()
    assert all(torch.equal(kept[name], four[name]) for name in kept)


def test_steps_kept_before_a_kill_are_there_after_it(
    adapter: Path, config: FinetuneConfig, shots: list[Shot], tmp_path: Path
) -> None:
    keeping = config.model_copy(update={"keep_checkpoints": (2, 4)})
    checkpoint = tmp_path / "checkpoint.pt"
    first_half = keeping.model_copy(update={"train_steps": 3})
    train(shots, first_half, tmp_path / "half", checkpoint=checkpoint, progress=False)
    train(shots, keeping, tmp_path / "whole", checkpoint=checkpoint, progress=False)
    for step in (2, 4):
        kept, expected = (
            load_file(kept_weights(tmp_path / "whole", step)),
            load_file(kept_weights(adapter, step)),
        )
        assert all(torch.equal(kept[name], expected[name]) for name in expected)


def test_a_step_that_was_not_kept_is_refused_with_those_that_were(adapter: Path) -> None:
    with pytest.raises(AdapterError, match=r"adapter_step is one of \[2, 4\]"):
        DualAnoDiffPipeline.from_adapter(adapter, step=3)


def test_strength_scales_what_the_lora_adds(adapter: Path) -> None:
    def added(strength: float) -> dict[str, torch.Tensor]:
        pipe = DualAnoDiffPipeline.from_adapter(adapter, strength=strength)
        return {n: p for n, p in pipe.unet.named_parameters() if ".lora_B." in n}

    whole, half, none = added(1), added(0.5), added(0)
    assert any(p.abs().sum() > 0 for p in whole.values())
    for name, p in whole.items():
        torch.testing.assert_close(half[name], p / 2)
        assert not none[name].any()


def test_the_search_measures_each_candidate_once_and_chooses_the_best_mean_rank(
    adapter: Path, shots: list[Shot]
) -> None:
    asked = SearchConfig(
        rounds=3, num_pairs=2, guidance_scale=(1, 3), adapter_strength=(0.5, 1), adapter_step=(2,)
    )
    drawn = GenerateConfig(num_inference_steps=1, guidance_scale=1)
    few = load_shots(shots, 64)
    normals = load_images([shot.image for shot in shots], 64)
    torch.manual_seed(0)
    table = search(adapter, drawn, asked, few, normals)
    assert len(table) == len(table[list(SETTINGS)].drop_duplicates()) >= 4
    assert table["chosen"].sum() == 1
    assert table.loc[table["chosen"], "mean_rank"].item() == table["mean_rank"].min()
    torch.manual_seed(1)
    pd.testing.assert_frame_equal(search(adapter, drawn, asked, few, normals), table)


def test_a_better_figure_wins_and_of_equals_the_first() -> None:
    same = {"kid_encoder": 0.1, "coverage": 0.5, "aligned": 0.5, "near_copies": 0.0}
    assert mean_ranks([same, same]).idxmin() == 0
    for better in ({"kid_encoder": 0.05}, {"coverage": 0.6}, {"aligned": 0.6}):
        assert mean_ranks([same, same | better]).idxmin() == 1
    assert mean_ranks([same, same | {"near_copies": 0.1}]).idxmin() == 0


def test_pairs_of_later_numbers_are_those_of_one_long_run(adapter: Path, tmp_path: Path) -> None:
    drawn = GenerateConfig(num_inference_steps=1, guidance_scale=1, num_pairs=4, batch_size=3)
    generate_pairs(adapter, drawn, tmp_path / "four", progress=False)
    later = drawn.model_copy(update={"num_pairs": 2})
    table = generate_pairs(adapter, later, tmp_path / "later", first=2, progress=False)
    assert table["index"].tolist() == [2, 3]
    for path in table[["image_path", "mask_path"]].to_numpy().ravel():
        assert (tmp_path / "later" / path).read_bytes() == (tmp_path / "four" / path).read_bytes()
