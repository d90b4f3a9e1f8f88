"""The adapter that a base brings: trained, resumed, taken by fine-tuning where it fits, refused where it does not."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dual_anodiff.config import AdapterConfig, FinetuneConfig
from dual_anodiff.errors import AdapterError
from dual_anodiff.images import Shot
from dual_anodiff.initial import DESCRIPTION, initial_adapter, read_initial
from dual_anodiff.pretrain.adapter import train_adapter
from dual_anodiff.pretrain.corpus import Corpus, read_corpus, write_corpus
from dual_anodiff.pretrain.stage import Plan
from dual_anodiff.training import train
from tests.tiny_base import tiny_base

SIZES = AdapterConfig(lora_rank=4, saim_rank=8, text_encoder_lora_rank=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, 640, 64, seed=0)
    return read_corpus(folder)


@pytest.fixture(scope="module")
def own_base(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Path:
    """A base that brings an adapter, trained for a few steps in two sittings."""
    base = tiny_base(tmp_path_factory.mktemp("base"))
    work = tmp_path_factory.mktemp("work")
    for steps, done in ((2, True), (6, True)):
        plan = Plan(steps, 2, seed=0, device="cpu")
        assert (
            train_adapter(corpus, str(base), base / "adapter", work, plan, SIZES, learning_rate=1e-3) is done
        )
    return base


def finetune(base: Path, **changes: object) -> FinetuneConfig:
    config = FinetuneConfig(
        base=str(base), size_px=64, adapter=SIZES, train_steps=1, batch_size=2, learning_rate=1e-12
    )
    return config.model_copy(update=changes)


def test_the_card_says_what_it_was_made_of(own_base: Path) -> None:
    card = read_initial(own_base / "adapter")
    assert card.train_steps == 6
    assert 0 < card.num_pictures < 640
    assert AdapterConfig(**card.adapter) == SIZES


def test_fine_tuning_starts_from_the_bases_own_adapter_and_from_a_fresh_one_if_asked(
    own_base: Path, shots: list[Shot], tmp_path: Path
) -> None:
    given = load_file(own_base / "adapter" / "adapter.safetensors")
    for choice in ("auto", str(own_base / "adapter"), "fresh"):
        out = tmp_path / choice.replace("/", "_")
        train(shots, finetune(own_base, initial_adapter=choice), out, progress=False)
        trained = load_file(out / "adapter.safetensors")
        assert trained.keys() == given.keys()
        same = all(torch.allclose(trained[n], given[n].float(), atol=1e-6) for n in given)
        assert same is (choice != "fresh")
    out_weights = [n for n in given if "saim.to_out.weight" in n]
    assert any(given[n].abs().max() > 0 for n in out_weights)


def test_a_background_module_stays_fresh_beside_it(own_base: Path, shots: list[Shot], tmp_path: Path) -> None:
    with_background = SIZES.model_copy(update={"background": "convex"})
    objects = [shot.mask for shot in shots]
    train(shots, finetune(own_base, adapter=with_background), tmp_path, objects=objects, progress=False)
    assert any(".background." in name for name in load_file(tmp_path / "adapter.safetensors"))


def test_other_sizes_start_fresh_and_are_refused_where_the_adapter_was_named(own_base: Path) -> None:
    larger = SIZES.model_copy(update={"lora_rank": 8})
    assert initial_adapter(finetune(own_base, adapter=larger)) is None
    with pytest.raises(AdapterError, match="lora_rank 4"):
        initial_adapter(finetune(own_base, adapter=larger, initial_adapter=str(own_base / "adapter")))


def test_an_adapter_of_another_base_is_refused(own_base: Path, base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    card = json.loads((own_base / "adapter" / DESCRIPTION).read_text())
    (other / DESCRIPTION).write_text(json.dumps(card | {"base_fingerprint": "0" * 16}))
    with pytest.raises(AdapterError, match="another base"):
        initial_adapter(finetune(base, initial_adapter=str(other)))


def test_a_folder_without_one_is_an_error_that_names_it(own_base: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"initial\.json"):
        initial_adapter(finetune(own_base, initial_adapter=str(tmp_path)))
