"""Pairs that start from pictures: how many steps, how far from the start, and what is held."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dual_anodiff.config import FinetuneConfig
from dual_anodiff.errors import InputError
from dual_anodiff.generation import SCHEDULERS
from dual_anodiff.images import Shot
from dual_anodiff.objective import decode, encode
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.start import Starts, draw_strengths, steps_of, widened
from dual_anodiff.training import train
from tests.tiny_base import tiny_base

SIZE = 64
SEEDS = [5, 6, 7]


@pytest.fixture(scope="module")
def pipe(
    config: FinetuneConfig, shots: list[Shot], tmp_path_factory: pytest.TempPathFactory
) -> DualAnoDiffPipeline:
    """On the random VAE whose pictures are patchy; the other one's are of one colour."""
    base = tiny_base(tmp_path_factory.mktemp("kl"), vae="kl")
    folder = tmp_path_factory.mktemp("adapter")
    strong = config.model_copy(update={"base": str(base), "learning_rate": 2e-2, "train_steps": 10})
    train(shots, strong, folder, progress=False)
    pipe = DualAnoDiffPipeline.from_adapter(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def starts() -> Starts:
    """Three patchy normals with a square of another colour, each elsewhere; held around it."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, 8, 8, generator=generator) * 2 - 1
    normals = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="nearest")
    masks = torch.zeros(3, SIZE, SIZE, dtype=torch.bool)
    for i in range(3):
        masks[i, 8 : 8 + 12, 8 + 12 * i : 20 + 12 * i] = True
    pictures = torch.where(masks[:, None], torch.tensor([0.9, -0.9, 0.2])[:, None, None], normals)
    return Starts(pictures, pictures * masks[:, None], (0.2, 0.8), normals, widened(masks, 1))


def rows(starts: Starts, which: slice) -> Starts:
    names = ("pictures", "parts", "normals", "regions")
    return replace(starts, **{name: getattr(starts, name)[which] for name in names})


def draw(
    pipe: DualAnoDiffPipeline, starts: Starts | None, seeds: list[int] = SEEDS, steps: int = 10
) -> Tensor:
    return pipe.sample(seeds, num_inference_steps=steps, guidance_scale=2.0, starts=starts)


def use(pipe: DualAnoDiffPipeline, scheduler: str) -> None:
    pipe.scheduler = SCHEDULERS[scheduler].from_config(pipe.scheduler.config)


def cells(regions: Tensor) -> Tensor:
    """Shape: (n, s, s) → (n, 1, 1, s/8, s/8) bool."""
    return torch.nn.functional.max_pool2d(regions[:, None].float(), 8)[:, None] > 0


def latents_at_each_step(
    pipe: DualAnoDiffPipeline, starts: Starts, seed: int, steps: int
) -> tuple[list[float], Tensor]:
    """The timesteps that the UNet is asked at, and what it is given. Shape: (calls, f=2, c, h, w)."""
    asked: list[float] = []
    given: list[Tensor] = []

    def note(module: torch.nn.Module, args: tuple[Tensor, Tensor]) -> None:
        given.append(args[0].clone())
        asked.append(float(args[1]))

    handle = pipe.unet.register_forward_pre_hook(note)
    pipe.sample([seed], num_inference_steps=steps, guidance_scale=1.0, starts=starts)
    handle.remove()
    return asked, torch.stack(given)


def test_a_strength_runs_its_share_of_the_steps_and_one_at_least() -> None:
    assert [steps_of(s, 25) for s in (0.01, 0.2, 0.28, 0.5, 1.0)] == [1, 5, 7, 12, 25]
    assert steps_of(0.29, 100) == 29, "though 100 * 0.29 is 28.999999999999996"


def test_strengths_come_from_each_pairs_own_seed_and_fill_the_range() -> None:
    drawn = draw_strengths((0.2, 0.5), range(400))
    assert draw_strengths((0.2, 0.5), [17, 3]) == [drawn[17], drawn[3]]
    assert 0.2 <= min(drawn) < 0.21
    assert 0.49 < max(drawn) <= 0.5
    assert draw_strengths(0.3, [1, 2]) == [0.3, 0.3]


def test_a_widened_mask_is_made_of_whole_cells_around_what_it_touches() -> None:
    masks = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    masks[0, 7, 16] = True
    expected = torch.zeros_like(masks)
    expected[0, :16, 8:32] = True  # cell (0, 2) and its neighbours
    assert torch.equal(widened(masks, 1), expected)
    assert widened(masks, 0).sum() == 64


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_only_the_last_steps_are_run_from_the_noised_start(
    pipe: DualAnoDiffPipeline, starts: Starts, scheduler: str
) -> None:
    use(pipe, scheduler)
    asked, given = latents_at_each_step(pipe, replace(rows(starts, slice(1)), strength=0.4), 5, 10)
    pipe.scheduler.set_timesteps(10)
    assert asked == [float(t) for t in pipe.scheduler.timesteps[6:]]
    # The UNet takes √ᾱ x + √(1−ᾱ) ε whatever scale the scheduler steps in.
    clean = encode(pipe.vae, torch.cat([starts.pictures[:1], starts.parts[:1]]))[0]
    kept = pipe.scheduler.alphas_cumprod[round(asked[0])]
    from_noise = draw_noise(pipe, 5)
    assert starts.regions is not None
    inside = cells(starts.regions[:1])[0].expand_as(clean)
    expected = kept.sqrt() * clean + (1 - kept).sqrt() * from_noise
    torch.testing.assert_close(given[0][inside], expected[inside], atol=1e-4, rtol=1e-4)


def draw_noise(pipe: DualAnoDiffPipeline, seed: int) -> Tensor:
    """A pair's first noise: what the UNet is given where nothing but noise is. Shape: (f=2, c, h, w)."""
    given: list[Tensor] = []
    handle = pipe.unet.register_forward_pre_hook(lambda module, args: given.append(args[0].clone()))
    pipe.sample([seed], num_inference_steps=1, guidance_scale=1.0)
    handle.remove()
    return given[0]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_pair_depends_on_its_seed_and_start_alone(
    pipe: DualAnoDiffPipeline, starts: Starts, scheduler: str
) -> None:
    """Strengths, and so numbers of steps, differ within the batch. Tolerance: see test_pipeline."""
    use(pipe, scheduler)
    together = draw(pipe, starts)
    assert len({steps_of(s, 10) for s in draw_strengths(starts.strength, SEEDS)}) == 3
    for i, seed in enumerate(SEEDS):
        alone = draw(pipe, rows(starts, slice(i, i + 1)), [seed])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-3, rtol=0)
    assert torch.equal(draw(pipe, starts), together), "same seed, same pair"
    assert (draw(pipe, starts, [8, 9, 10]) - together).abs().max() > 1e-2


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_further_it_is_noised_the_further_a_pair_comes_from_its_start(
    pipe: DualAnoDiffPipeline, starts: Starts, scheduler: str
) -> None:
    use(pipe, scheduler)
    both = torch.stack([starts.pictures, starts.parts], 1).flatten(0, 1)
    start = decode(pipe.vae, encode(pipe.vae, both)[0]).unflatten(0, (3, 2))
    free = replace(starts, normals=None, regions=None)
    near, far = ((draw(pipe, replace(free, strength=s)) - start).detach().square().mean() for s in (0.1, 0.9))
    assert near < far


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_full_strength_without_a_hold_forgets_the_start(
    pipe: DualAnoDiffPipeline, starts: Starts, scheduler: str
) -> None:
    """The base's noise schedule ends in noise alone, so nothing but noise is left. Tolerance: 2/255, since diffusers
    keeps a share of 2⁻¹² of the start there."""
    use(pipe, scheduler)
    full = replace(starts, strength=1.0, normals=None, regions=None)
    torch.testing.assert_close(draw(pipe, full), draw(pipe, None), atol=2 / 127.5, rtol=0)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_outside_of_the_regions_both_branches_are_the_held_ones(
    pipe: DualAnoDiffPipeline, starts: Starts, scheduler: str
) -> None:
    """At each step in what the UNet is given, and at the end in the latents, before they are decoded."""
    use(pipe, scheduler)
    one = replace(rows(starts, slice(1)), strength=0.6)
    assert one.normals is not None
    assert one.regions is not None
    held = encode(pipe.vae, torch.cat([one.normals, torch.zeros_like(one.normals)]))[0]
    noise, outside = draw_noise(pipe, 5), ~cells(one.regions)[0].expand_as(held)
    asked, given = latents_at_each_step(pipe, one, 5, 10)
    assert len(asked) == 6
    for t, latents in zip(asked, given, strict=True):
        kept = pipe.scheduler.alphas_cumprod[round(t)]
        expected = kept.sqrt() * held + (1 - kept).sqrt() * noise
        torch.testing.assert_close(latents[outside], expected[outside], atol=1e-4, rtol=1e-4)
        assert (latents - expected)[~outside].abs().max() > 1e-2
    ended: list[Tensor] = []
    handle = pipe.vae.post_quant_conv.register_forward_pre_hook(lambda module, args: ended.append(args[0]))
    draw(pipe, one, [5])
    handle.remove()
    torch.testing.assert_close(ended[0][outside] * pipe.vae.config.scaling_factor, held[outside])


def test_a_call_takes_starts_and_gives_pictures_and_masks(pipe: DualAnoDiffPipeline, starts: Starts) -> None:
    use(pipe, "dpmsolver++")
    out = pipe(num_pairs=3, seeds=SEEDS, starts=starts, num_inference_steps=4)
    assert len(out.images) == len(out.masks) == 3
    assert out.images[0].size == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strength": 0.0}, r"starts\.strength: 0\.0; .*above 0"),
        ({"strength": (0.5, 0.2)}, r"starts\.strength"),
        ({"strength": (0.5, 1.2)}, r"starts\.strength"),
        ({"normals": None}, r"starts\.normals, starts\.regions: one was given"),
        (
            {"parts": torch.zeros(2, 3, SIZE, SIZE)},
            r"starts\.parts: has shape \(2, 3, 64, 64\); 3 pairs of 64 px",
        ),
        ({"pictures": torch.zeros(3, 3, 32, 32)}, r"starts\.pictures: has shape"),
        ({"regions": torch.zeros(3, SIZE, SIZE)}, r"starts\.regions: is torch\.float32"),
        ({"regions": torch.zeros(3, SIZE, SIZE, dtype=torch.bool)}, r"starts\.regions: one marks nothing"),
    ],
)
def test_starts_that_cannot_be_used_are_refused_by_field(
    pipe: DualAnoDiffPipeline, starts: Starts, change: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        draw(pipe, replace(starts, **change))  # type: ignore[arg-type]


def test_starts_and_wished_regions_are_not_mixed(pipe: DualAnoDiffPipeline, starts: Starts) -> None:
    with pytest.raises(InputError, match="regions, starts: were both given"):
        pipe.sample(SEEDS, num_inference_steps=2, guidance_scale=1.0, regions=starts.regions, starts=starts)
