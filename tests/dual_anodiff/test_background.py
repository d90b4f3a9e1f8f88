"""Background compensation: what it may touch, its two forms, its gradients, and what is asked of the caller."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from dual_anodiff.adapter import adapter_parameters, attach_adapter
from dual_anodiff.adapter_card import AdapterCard, read_card
from dual_anodiff.attention import BackgroundMemory, branch_linear
from dual_anodiff.background import recall, record_background
from dual_anodiff.base import load_base
from dual_anodiff.config import AdapterConfig, FinetuneConfig, GenerateConfig
from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.generation import generate_pairs
from dual_anodiff.images import Background, Shot, load_background, load_image
from dual_anodiff.lora import export_lora
from dual_anodiff.objective import two_branch_loss
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.randomness import seeded
from dual_anodiff.training import train
from tests.dual_anodiff.previews import judge_by_coin
from tests.tiny_base import tiny_base

Mix = Literal["convex", "residual"]
MIXES: list[Mix] = ["convex", "residual"]


def attached(base: Path, mix: Mix = "convex", amount: float | None = None) -> Any:
    """A tiny pipeline with trained-looking LoRA, fresh SAIM, and shares of the background as asked."""
    pipe = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32)
    config = AdapterConfig(lora_rank=4, saim_rank=8, text_encoder_lora_rank=0, background=mix)
    attach_adapter(pipe.unet, pipe.text_encoder, config)
    g = torch.Generator().manual_seed(1)
    for name, p in adapter_parameters(pipe.unet, torch.nn.Module()):
        if ".lora_" in name:
            p.data = 0.2 * torch.randn(p.shape, generator=g)
        elif name.endswith(".amount") and amount is not None:
            p.data.fill_(amount)
    return pipe


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two pairs, their timesteps and text, and two backgrounds."""
    g = torch.Generator().manual_seed(0)
    latents = torch.randn(4, 4, 8, 8, generator=g)
    text = torch.randn(2, 5, 32, generator=g).repeat(2, 1, 1)
    return latents, torch.tensor([30, 30, 700, 700]), text, torch.randn(2, 4, 8, 8, generator=g)


@torch.no_grad()
def run(unet: Any, backgrounds: Tensor | None) -> Tensor:
    latents, t, text, _ = inputs()
    memory = None if backgrounds is None else record_background(unet, backgrounds, t[::2], text[::2])
    kwargs = None if memory is None else {"background": memory}
    out: Tensor = unet(latents, t, encoder_hidden_states=text, cross_attention_kwargs=kwargs).sample
    return out


def test_a_share_of_zero_is_the_identity_bit_for_bit(base: Path) -> None:
    unet = attached(base).unet
    assert torch.equal(run(unet, inputs()[3]), run(unet, None))


def test_the_papers_form_starts_at_a_tenth(base: Path) -> None:
    unet = attached(base, "residual").unet
    assert (run(unet, inputs()[3]) - run(unet, None)).abs().max() > 1e-4


@pytest.mark.parametrize("mix", MIXES)
@torch.no_grad()
def test_keys_and_values_follow_the_formula(base: Path, mix: Mix) -> None:
    """Reference: the hidden states are mixed first, then projected, as the paper writes it."""
    unet, a = attached(base, mix, 0.3).unet, 0.3
    layer = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    bcm = layer.processor.background
    g = torch.Generator().manual_seed(0)
    h, seen = torch.randn(4, 9, 16, generator=g), torch.randn(2, 9, 16, generator=g)
    mixed = h.clone()
    mixed[::2] = ((1 - a) * h[::2] if mix == "convex" else h[::2]) + a * bcm.mlp(seen)
    for linear, added in zip((layer.to_k, layer.to_v), bcm.keys_and_values(layer, seen), strict=True):
        ours = bcm.add(branch_linear(linear, h), added)
        torch.testing.assert_close(ours, branch_linear(linear, mixed), atol=1e-5, rtol=1e-5)


def test_backgrounds_go_by_branch_0_alone_as_peft_runs_it(base: Path) -> None:
    """Reference: peft's own forward of the image branch, without interaction."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    latents, t, text, _ = inputs()
    pipe = attached(base)
    with torch.no_grad():
        kwargs: dict[str, BackgroundMemory] = {"record": {}}
        ours = pipe.unet(latents, t, encoder_hidden_states=text, cross_attention_kwargs=kwargs).sample
        pipe.unet.set_attn_processor(AttnProcessor2_0())
        pipe.unet.set_adapter("image")
        torch.testing.assert_close(
            ours, pipe.unet(latents, t, encoder_hidden_states=text).sample, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("mix", MIXES)
def test_another_background_changes_its_own_pairs_image_and_nothing_else(base: Path, mix: Mix) -> None:
    """SAIM is fresh, so that nothing else carries from branch 0 to the anomaly branch."""
    unet = attached(base, mix, 0.5).unet
    backgrounds = inputs()[3]
    other = backgrounds.clone()
    other[0] += 1
    before, after = run(unet, backgrounds), run(unet, other)
    assert (after[0] - before[0]).abs().max() > 1e-3
    assert torch.equal(after[[1, 3]], before[[1, 3]])
    torch.testing.assert_close(after[2], before[2], atol=1e-5, rtol=1e-5)


def test_only_self_attention_has_a_background_module(base: Path) -> None:
    pipe = attached(base)
    names = [n for n, _ in adapter_parameters(pipe.unet, pipe.text_encoder) if ".processor.background." in n]
    layers = {name.split(".processor.")[0] for name in names}
    assert layers == {f"unet.{n}" for n, _ in pipe.unet.named_modules() if n.endswith(".attn1")}
    plain = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32)
    attach_adapter(plain.unet, plain.text_encoder, AdapterConfig(lora_rank=4, saim_rank=8))
    assert not any(".background." in n for n, _ in adapter_parameters(plain.unet, plain.text_encoder))


def gradients(base: Path, amount: float, *, checkpointing: bool = False) -> dict[str, Tensor]:
    pipe = attached(base, amount=amount)
    pipe.unet.train()
    if checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    latents, t, text, backgrounds = inputs()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
    memory = record_background(pipe.unet, backgrounds, t[::2], text[::2])
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    two_branch_loss(pipe.unet, scheduler, latents, text[:2], t[::2], noise, memory).backward()
    return {n: p.grad for n, p in adapter_parameters(pipe.unet, torch.nn.Module()) if p.grad is not None}


def test_gradients_reach_the_share_and_once_it_moved_the_mlp(base: Path) -> None:
    """As in the reference: at a share of zero the MLP learns nothing, but the share does."""
    for amount in (0.0, 0.5):
        grads = {n: g for n, g in gradients(base, amount).items() if ".background." in n}
        assert grads
        for name, grad in grads.items():
            assert bool(grad.abs().sum() > 0) == (amount > 0 or name.endswith(".amount")), name


def test_checkpointed_gradients_are_the_gradients(base: Path) -> None:
    """What the pass of the backgrounds leaves behind is made again in the backward pass, and must not differ."""
    plain, saved = gradients(base, 0.5), gradients(base, 0.5, checkpointing=True)
    assert plain.keys() == saved.keys()
    for name, grad in plain.items():
        torch.testing.assert_close(saved[name], grad, atol=1e-7, rtol=1e-4)


@torch.no_grad()
def test_exact_backgrounds_are_as_noisy_as_the_step_and_the_fast_one_is_clean(base: Path) -> None:
    """With Euler, too, whose own latents are of another scale than the UNet's input."""
    pipe = attached(base, amount=0.5)
    scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(3)
    seen: list[tuple[float, float]] = []
    pipe.unet.register_forward_pre_hook(lambda _, args: seen.append((float(args[0].std()), float(args[1]))))
    text, clean = inputs()[2][:1], torch.zeros(1, 4, 8, 8)
    at = recall(pipe.unet, scheduler, clean, text, [seeded(0)], "exact")
    for t in scheduler.timesteps:
        at(t)
        expected = float((1 - scheduler.alphas_cumprod[round(float(t))]) ** 0.5)
        assert seen[-1][0] == pytest.approx(expected, rel=0.15)
        assert seen[-1][1] == float(t)
    at = recall(pipe.unet, scheduler, clean + 1, text, [seeded(0)], "fast")
    assert seen[-1] == (0, 0)
    assert at(scheduler.timesteps[0]) is at(scheduler.timesteps[2])
    assert len(seen) == 4


@pytest.fixture(scope="module")
def objects(shots: list[Shot], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The right half of each of the shots is the object."""
    folder, made = tmp_path_factory.mktemp("objects"), []
    for i in range(len(shots)):
        mask = np.zeros((64, 80), dtype=np.uint8)
        mask[:, 40:] = 255
        made.append(folder / f"{i}.png")
        Image.fromarray(mask).save(made[-1])
    return made


@pytest.fixture(scope="module")
def backgrounds(shots: list[Shot], objects: list[Path]) -> list[Background]:
    return [Background(shot.image, mask) for shot, mask in zip(shots, objects, strict=True)]


def with_background(config: FinetuneConfig, **settings: Any) -> FinetuneConfig:
    adapter = config.adapter.model_copy(update={"background": "convex", **settings})
    return config.model_copy(update={"adapter": adapter})


@pytest.fixture(scope="module")
def adapter(
    config: FinetuneConfig, shots: list[Shot], objects: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    short = with_background(config).model_copy(update={"train_steps": 2, "learning_rate": 1e-2})
    train(shots, short, folder, objects=objects, progress=False)
    return folder


@pytest.fixture(scope="module")
def pipe() -> DualAnoDiffPipeline:
    """On `mini`, since the tiny base's random VAE gives all pictures the same latents."""
    pipe: DualAnoDiffPipeline = load_base(DualAnoDiffPipeline, "mini")
    config = AdapterConfig(lora_rank=4, saim_rank=8, text_encoder_lora_rank=0, background="convex")
    attach_adapter(pipe.unet, pipe.text_encoder, config)
    for name, p in adapter_parameters(pipe.unet, pipe.text_encoder):
        if name.endswith(".amount"):
            p.data.fill_(0.6)
    pipe.card = AdapterCard(
        base="mini", base_fingerprint="", revision=None, image_prompt="a part with a hole", anomaly_prompt="hole",
        size_px=64, adapter=config.model_dump(), train_steps=0, num_shots=0, mask_threshold=0.1, mask_iou=1, seed=0,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("form", ["exact", "fast"])
def test_a_pair_depends_on_its_seed_and_background_not_on_its_batch(
    pipe: DualAnoDiffPipeline, backgrounds: list[Background], form: Literal["exact", "fast"]
) -> None:
    """Tolerance as in test_pipeline: batched products round otherwise."""

    def draw(seeds: list[int], seen: list[Background]) -> Tensor:
        return pipe.sample(
            seeds, backgrounds=seen, background=form, num_inference_steps=3, guidance_scale=2.0
        )

    first, second, third = backgrounds
    together = draw([5, 6, 7], [first, second, third])
    torch.testing.assert_close(together[1:2], draw([6], [second]), atol=1e-3, rtol=0)
    assert (draw([6], [third])[0, 0] - together[1, 0]).abs().max() > 5e-3


def test_a_grey_background_without_prompt_guides_elsewhere(
    pipe: DualAnoDiffPipeline, backgrounds: list[Background]
) -> None:
    def draw(unguided: Literal["same", "grey"], scale: float) -> Tensor:
        return pipe.sample(
            [1], backgrounds=backgrounds[:1], unguided_background=unguided, num_inference_steps=2,
            guidance_scale=scale,
        )  # fmt: skip

    assert (draw("grey", 3.0) - draw("same", 3.0)).abs().max() > 1e-3
    torch.testing.assert_close(draw("grey", 1.0), draw("same", 1.0))


@pytest.mark.parametrize(("seen_in_training", "calls"), [("noised", 2 * 3), ("clean", 3 + 1)])
def test_sampling_takes_the_form_that_training_saw(
    adapter: Path,
    backgrounds: list[Background],
    tmp_path: Path,
    seen_in_training: str,
    calls: int,
) -> None:
    (tmp_path / "adapter.safetensors").write_bytes((adapter / "adapter.safetensors").read_bytes())
    card = json.loads((adapter / "adapter.json").read_text())
    card["adapter"]["background_from"] = seen_in_training
    (tmp_path / "adapter.json").write_text(json.dumps(card))
    pipe = DualAnoDiffPipeline.from_adapter(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    counted: list[int] = []
    pipe.unet.register_forward_hook(lambda *_: counted.append(1))
    pipe(1, backgrounds=backgrounds[:1], num_inference_steps=3)
    assert len(counted) == calls
    other: Literal["exact", "fast"] = "fast" if seen_in_training == "noised" else "exact"
    with pytest.warns(UserWarning, match="adapter was trained for"):
        pipe(1, backgrounds=backgrounds[:1], num_inference_steps=1, background=other)


@pytest.mark.parametrize("form", ["exact", "fast"])
@pytest.mark.filterwarnings("ignore:background:UserWarning")
def test_a_pair_with_a_background_and_a_wish_does_not_depend_on_its_batch(
    adapter: Path,
    backgrounds: list[Background],
    form: Literal["exact", "fast"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor when some are drawn again. Tolerance: below one 8-bit level, since batched products round otherwise."""
    pipe = DualAnoDiffPipeline.from_adapter(adapter)
    pipe.set_progress_bar_config(disable=True)
    tries = judge_by_coin(monkeypatch)
    regions = torch.zeros(3, 64, 64, dtype=torch.bool)
    regions[:, 8:32, 32:56] = True

    def draw(some: slice, wished: bool = True) -> Tensor:
        return pipe.sample(
            [5, 6, 7][some], num_inference_steps=3, guidance_scale=2.0, backgrounds=backgrounds[:3][some],
            background=form, regions=regions[some] if wished else None,
        )  # fmt: skip

    together = draw(slice(0, 3))
    for i in range(3):
        tries.append(0)
        torch.testing.assert_close(together[i : i + 1], draw(slice(i, i + 1)), atol=1e-3, rtol=0)
    assert tries[0] == max(tries[1:]) > min(tries[1:]), tries
    assert (together - draw(slice(0, 3), wished=False)).abs().amax((1, 2, 3, 4)).min() > 1e-3


def test_pairs_say_which_background_they_had_and_continue_with_the_same(
    adapter: Path, backgrounds: list[Background], tmp_path: Path
) -> None:
    config = GenerateConfig(num_pairs=6, batch_size=4, num_inference_steps=1, background="fast")

    def draw(out: Path, num_pairs: int) -> pd.DataFrame:
        short = config.model_copy(update={"num_pairs": num_pairs})
        return generate_pairs(adapter, short, out, seed=2, backgrounds=backgrounds, progress=False)

    whole, _, cut = draw(tmp_path / "whole", 6), draw(tmp_path / "cut", 1), draw(tmp_path / "cut", 6)
    assert list(whole["background"]) == list(cut["background"])
    assert set(whole["background"]) <= {b.image.name for b in backgrounds}
    assert whole["background"].nunique() > 1
    for path in whole["image_path"]:
        a, b = (np.asarray(Image.open(tmp_path / run / path), dtype=int) for run in ("whole", "cut"))
        assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize("seen_in_training", ["noised", "clean"])
def test_resumed_training_with_backgrounds_is_uninterrupted_training_bit_for_bit(
    config: FinetuneConfig, shots: list[Shot], objects: list[Path], tmp_path: Path, seen_in_training: str
) -> None:
    whole = with_background(config, background_from=seen_in_training).model_copy(update={"train_steps": 2})
    half = whole.model_copy(update={"train_steps": 1, "checkpoint_every_steps": 1})
    checkpoint = tmp_path / "checkpoint.pt"

    def weights(out: str, config: FinetuneConfig, checkpoint: Path | None) -> dict[str, Tensor]:
        train(shots, config, tmp_path / out, seed=3, objects=objects, checkpoint=checkpoint, progress=False)
        return load_file(tmp_path / out / "adapter.safetensors")

    a = weights("whole", whole, None)
    weights("half", half, checkpoint)
    b = weights("resumed", whole, checkpoint)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert all(a[name].abs().sum() > 0 for name in a if name.endswith(".amount"))
    assert read_card(tmp_path / "whole").adapter["background_from"] == seen_in_training


def test_a_base_with_a_vae_as_sd_has_it_trains_and_draws_with_backgrounds(
    config: FinetuneConfig,
    shots: list[Shot],
    objects: list[Path],
    backgrounds: list[Background],
    tmp_path: Path,
) -> None:
    base = tiny_base(tmp_path / "base", vae="kl")
    short = with_background(config, background="residual").model_copy(
        update={"base": str(base), "train_steps": 1, "gradient_checkpointing": True}
    )
    train(shots, short, tmp_path / "out", objects=objects, progress=False)
    pipe = DualAnoDiffPipeline.from_adapter(tmp_path / "out")
    pipe.set_progress_bar_config(disable=True)
    assert len(pipe(2, backgrounds=backgrounds[:2], num_inference_steps=2).images) == 2


def test_an_adapter_from_before_backgrounds_loads_and_draws_the_same(
    config: FinetuneConfig, shots: list[Shot], tmp_path: Path
) -> None:
    train(shots, config.model_copy(update={"train_steps": 1}), tmp_path, progress=False)

    def draw() -> Tensor:
        pipe = DualAnoDiffPipeline.from_adapter(tmp_path)
        pipe.set_progress_bar_config(disable=True)
        return pipe.sample([1], num_inference_steps=2, guidance_scale=2.0)

    now = draw()
    card = json.loads((tmp_path / "adapter.json").read_text())
    for field in ("background", "background_from"):
        del card["adapter"][field]
    (tmp_path / "adapter.json").write_text(json.dumps(card))
    assert torch.equal(draw(), now)


def test_the_image_branch_is_exported_without_the_background(adapter: Path, tmp_path: Path) -> None:
    export_lora(adapter, tmp_path)
    exported = load_file(next(tmp_path.glob("*.safetensors")))
    assert exported
    assert not [name for name in exported if "background" in name or "processor" in name]


def test_what_is_cut_out_is_mid_grey_and_the_rest_is_kept(shots: list[Shot], objects: list[Path]) -> None:
    cut = load_background(Background(shots[0].image, objects[0]), 64)
    whole = load_background(Background(shots[0].image, None), 64)
    assert cut[..., 34:].abs().max() == 0
    torch.testing.assert_close(cut[..., :30], whole[..., :30])
    torch.testing.assert_close(whole.mean(), load_image(shots[0].image).mean(), atol=1e-2, rtol=0)


def test_missing_and_superfluous_backgrounds_are_named(
    config: FinetuneConfig,
    shots: list[Shot],
    objects: list[Path],
    backgrounds: list[Background],
    pipe: DualAnoDiffPipeline,
    adapter: Path,
    tmp_path: Path,
) -> None:
    for few in (None, objects[:1]):
        with pytest.raises(InputError, match=r"objects: [01] object masks .* adapter\.background = 'convex'"):
            train(shots, with_background(config), tmp_path, objects=few)
    with pytest.raises(InputError, match="is 'off'; give no object masks"):
        train(shots, config, tmp_path, objects=objects)
    small = tmp_path / "small.png"
    Image.new("L", (10, 10), 255).save(small)
    with pytest.raises(InputError, match=r"small\.png: is 10x10 px"):
        train(shots, with_background(config), tmp_path, objects=[small] * 3)
    with pytest.raises(AdapterError, match="trained with backgrounds"):
        pipe(1)
    with pytest.raises(AdapterError, match="trained with backgrounds"):
        generate_pairs(adapter, GenerateConfig(num_pairs=1), tmp_path)
    with pytest.raises(InputError, match="1 were given for 2 pairs"):
        pipe(2, backgrounds=backgrounds[:1])
    train(shots, config.model_copy(update={"train_steps": 1}), tmp_path / "off", progress=False)
    with pytest.raises(InputError, match="trained without"):
        generate_pairs(tmp_path / "off", GenerateConfig(num_pairs=1), tmp_path, backgrounds=backgrounds)
