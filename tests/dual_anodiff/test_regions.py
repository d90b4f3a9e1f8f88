"""Pairs at a wished place and size: the wish, its regions, and the sampling that holds defects to them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pydantic import ValidationError
from scipy import ndimage

from dual_anodiff.adapter import save_adapter
from dual_anodiff.adapter_card import AdapterCard, ShotTrace, read_card
from dual_anodiff.config import FinetuneConfig, GenerateConfig, WhereConfig
from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.generation import SCHEDULERS, generate_pairs
from dual_anodiff.images import Shot
from dual_anodiff.objective import decode, encode
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.regions import (
    STRENGTHS,
    RegionGuide,
    box_of,
    check_where,
    draw_regions,
    read_region,
    trace_shots,
)
from dual_anodiff.training import train
from tests.dual_anodiff.previews import SIZE, judge_by_coin, squares


@pytest.fixture(scope="module")
def adapter(config: FinetuneConfig, shots: list[Shot], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    train(shots, config, folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def card(adapter: Path) -> AdapterCard:
    return read_card(adapter)


@pytest.fixture
def pipe(adapter: Path) -> DualAnoDiffPipeline:
    pipe = DualAnoDiffPipeline.from_adapter(adapter)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def corner(n: int) -> torch.Tensor:
    regions = torch.zeros(n, SIZE, SIZE, dtype=torch.bool)
    regions[:, :24, :24] = True
    return regions


def test_training_keeps_each_shots_box_and_contrast(card: AdapterCard) -> None:
    """The shots are 80×64 px with squares of 14 px from (10 + 12 i, 20 + 10 i)."""
    assert card.shots is not None
    for i, shot in enumerate(card.shots):
        expected = [(10 + 12 * i) / 64, (20 + 10 * i) / 80, (24 + 12 * i) / 64, (34 + 10 * i) / 80]
        np.testing.assert_allclose(shot.box, expected, atol=1.5 / SIZE)
        assert np.shape(shot.contrast) == (2, 4)
        assert np.abs(shot.contrast).max() > 0


def test_contrast_is_what_was_added_to_the_defects_latents() -> None:
    latents = torch.zeros(1, 2, 3, 8, 8)
    masks = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    masks[:, 16:32, 24:40] = True
    latents[:, 0, :, 2:4, 3:5] += torch.tensor([1.0, -2.0, 0.5])[:, None, None]
    (trace,) = trace_shots(latents + 7, masks)
    assert trace.box == [0.25, 0.375, 0.5, 0.625]
    assert trace.contrast == [[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]


def test_an_adapter_made_before_is_read_and_refused_only_where_a_place_is_wished(
    adapter: Path, card: AdapterCard, tmp_path: Path
) -> None:
    save_adapter(tmp_path, card, {})
    assert read_card(tmp_path) == card
    told = json.loads((tmp_path / "adapter.json").read_text())
    del told["shots"]
    (tmp_path / "adapter.json").write_text(json.dumps(told))
    old = read_card(tmp_path)
    assert old == replace(card, shots=None)
    check_where(WhereConfig(), old)
    with pytest.raises(AdapterError, match=r"generate\.where.*fine-tune again"):
        check_where(WhereConfig(size="shots"), old)


def test_a_box_is_the_same_in_shares_and_px_and_from_a_file(card: AdapterCard, tmp_path: Path) -> None:
    mask = np.zeros((40, 100), dtype=np.uint8)
    mask[10:20, 50:75] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    wishes = [(0.5, 0.25, 0.75, 0.5), (32.0, 16.0, 48.0, 32.0), tmp_path / "mask.png"]
    drawn = [draw_regions(WhereConfig(region=wish), card, [3, 4], SIZE) for wish in wishes]
    expected = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    expected[:, 16:32, 32:48] = True
    for regions in drawn:
        assert regions is not None
        assert torch.equal(regions, expected)


def test_a_line_thinner_than_a_cell_stays_a_line(pipe: DualAnoDiffPipeline, tmp_path: Path) -> None:
    assert pipe.card is not None
    drawn = Image.new("L", (900, 900))
    ImageDraw.Draw(drawn).line([(40, 100), (420, 380), (860, 520)], fill=255, width=6)
    drawn.save(tmp_path / "crack.png")
    region = read_region(tmp_path / "crack.png", SIZE)
    cells = RegionGuide(pipe.card, pipe.vae, region[None], [0], SIZE // 8).region[0, 0] > 0
    for marked, side in ((region, SIZE), (cells, SIZE // 8)):
        assert ndimage.label(marked, np.ones((3, 3)))[1] == 1
        np.testing.assert_allclose(box_of(marked), np.array([100, 40, 520, 860]) / 900, atol=1 / side)
        assert 1 <= marked.sum(0).max() <= 3, "and no broader than it is"


def test_regions_come_from_the_seed_alone_and_are_as_large_as_wished(card: AdapterCard) -> None:
    seeds = list(range(150))
    where = WhereConfig(size=(0.2, 0.4))
    regions = draw_regions(where, card, seeds, SIZE)
    assert regions is not None
    again = draw_regions(where, card, seeds[7:9], SIZE)
    assert again is not None
    assert torch.equal(regions[7:9], again)
    longer = (
        torch.stack([torch.stack([r.any(1).sum(), r.any(0).sum()]).max() for r in regions]).float() / SIZE
    )
    assert (longer >= 0.2 - 1 / SIZE).all()
    assert (longer <= 0.4 + 1 / SIZE).all()
    assert longer.max() - longer.min() > 0.1
    assert regions.any(0).float().mean() > 0.9  # all over the picture

    like = draw_regions(WhereConfig(size="shots"), card, seeds, SIZE)
    assert like is not None
    # The shots' squares are 14 of 64 px high and 14 of 80 px wide.
    np.testing.assert_allclose(like.any(2).sum(1).float().mean() / SIZE, 14 / 64, rtol=0.15)
    np.testing.assert_allclose(like.any(1).sum(1).float().mean() / SIZE, 14 / 80, rtol=0.15)


def test_with_a_size_the_boxes_lie_in_the_region(card: AdapterCard, tmp_path: Path) -> None:
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    mask[:, :20] = mask[40:, :] = 255  # an L
    Image.fromarray(mask).save(tmp_path / "object.png")
    where = WhereConfig(region=tmp_path / "object.png", size=(0.1, 0.2))
    regions = draw_regions(where, card, range(30), SIZE)
    assert regions is not None
    assert not (regions & ~torch.from_numpy(mask > 0)).any()
    assert len({tuple(region.nonzero()[0].tolist()) for region in regions}) > 20


def test_what_cannot_be_is_refused_by_name(card: AdapterCard, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="is no box"):
        WhereConfig(region=(0.5, 0.1, 0.2, 0.3))
    with pytest.raises(ValidationError, match="is no range"):
        WhereConfig(size=(0.3, 0.1))
    with pytest.raises(InputError, match=r"out of the picture, which is 64 px"):
        check_where(WhereConfig(region=(0, 0, 65, 10)), card)
    Image.new("L", (8, 8)).save(tmp_path / "empty.png")
    with pytest.raises(InputError, match=r"empty\.png: marks no pixel"):
        check_where(WhereConfig(region=tmp_path / "empty.png"), card)


def test_outside_the_region_the_anomaly_branch_is_flat_and_inside_not(pipe: DualAnoDiffPipeline) -> None:
    part = pipe.sample([1, 2], num_inference_steps=3, guidance_scale=2.0, regions=corner(2))[:, 1]
    flat = decode(pipe.vae, encode(pipe.vae, torch.zeros(1, 3, SIZE, SIZE))[0])[0]
    # The decoder looks a few cells around each pixel.
    torch.testing.assert_close(
        part[:, :, 56:, 56:], flat[:, 56:, 56:].expand(2, -1, -1, -1), atol=1e-4, rtol=0
    )
    assert (part - flat).abs()[:, :, :24, :24].max() > 1e-2
    free = pipe.sample([1, 2], num_inference_steps=3, guidance_scale=2.0)[:, 1]
    assert (free - flat).abs()[:, :, 56:, 56:].max() > 1e-2


def test_the_place_that_leans_as_wished_is_moved_to_the_region_and_no_other_is_left(
    pipe: DualAnoDiffPipeline,
) -> None:
    """Sides in cells: 8; the region is the upper left 3 by 3, bumps are planted in the lower right and upper right."""
    assert pipe.card is not None
    guide = RegionGuide(pipe.card, pipe.vae, corner(2), [0, 1], SIZE // 8)
    towards = guide.mean
    noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noise[..., 4:7, 4:7] += 2.5 * towards
    noise[..., 0:3, 4:7] += 4 * towards
    moved = noise.roll((-4, -4), (-2, -1))
    before = (moved * towards).sum((1, 2))
    leans = (before[:, None] * guide.weight).sum((1, 2, 3)).tolist()
    steered = torch.cat(
        [guide.of([i]).steer(noise[i : i + 1], lean, towards) for i, lean in enumerate(leans)]
    )
    after = (steered * towards).sum((1, 2))
    torch.testing.assert_close(
        steered - after[:, None, None] * towards, moved - before[:, None, None] * towards
    )
    torch.testing.assert_close(after[:, :3, :3], before[:, :3, :3], msg="it leans so much by itself")
    greater, left = (some[:, 4:7, :3].mean((1, 2)) for some in (before, after))
    assert (greater > 2).all()
    assert (left < greater / 2).all()


def test_noise_that_leans_too_little_is_raised_in_the_region(pipe: DualAnoDiffPipeline) -> None:
    assert pipe.card is not None
    guide = RegionGuide(pipe.card, pipe.vae, corner(20), range(20), SIZE // 8)
    noise = torch.randn(20, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    steered = guide.steer(noise, 4.0, guide.own)
    leaning = (steered * guide.own).sum((1, 2))[:, None]
    torch.testing.assert_close((leaning * guide.weight).sum((1, 2, 3)), torch.full((20,), 4.0))
    again = guide.steer(steered, 4.0, guide.own)
    torch.testing.assert_close(again[..., :3, :3], steered[..., :3, :3], msg="once is enough")


def test_a_defect_has_reached_its_region_when_a_tenth_of_it_is_masked(pipe: DualAnoDiffPipeline) -> None:
    """Of 24 × 24 px: more than a tenth are 8 × 8 and 20 × 20, less are 0 and 6 × 6."""
    assert pipe.card is not None
    guide = RegionGuide(pipe.card, pipe.vae, corner(4), range(4), SIZE // 8)
    assert guide.reached(squares(8, 0, 20, 6)).tolist() == [True, False, True, False]


def test_a_pair_keeps_the_first_noise_that_reaches_its_region_and_leans_no_further(
    pipe: DualAnoDiffPipeline,
) -> None:
    """The first pair's defect reaches its region at once, the second's at the second try, the third's never.

    At once it leans towards one shot's contrast, later towards their mean.
    """
    assert pipe.card is not None
    guide = RegionGuide(pipe.card, pipe.vae, corner(3), range(3), SIZE // 8)
    streams = [torch.Generator().manual_seed(i) for i in range(3)]
    drawn = [torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(9))]
    asked: list[list[int]] = []

    def draw(which: list[int]) -> torch.Tensor:
        drawn.append(torch.zeros(3, 2, 4, 8, 8))
        drawn[-1][which] = torch.stack([torch.randn(2, 4, 8, 8, generator=streams[i]) for i in which])
        return drawn[-1][which]

    def preview(which: list[int], noise: torch.Tensor) -> torch.Tensor:
        asked.append(which)
        assert len(noise) == len(which)
        return squares(*(20 if i == 0 or (i == 1 and len(asked) == 2) else 0 for i in which))

    settled = guide.settle(drawn[0], draw, preview)
    assert asked == [[0, 1, 2], [1, 2], *[[2]] * (len(STRENGTHS) - 3)]
    for i, attempt in enumerate([0, 1, len(STRENGTHS) - 1]):
        towards = guide.mean if attempt else guide.own[i : i + 1]
        expected = guide.of([i]).steer(drawn[attempt][i : i + 1], STRENGTHS[attempt], towards)
        torch.testing.assert_close(settled[i : i + 1], expected)


def test_the_contrast_moves_both_branches_and_nothing_else_does(pipe: DualAnoDiffPipeline) -> None:
    """With a region that is everywhere there is nothing to hold flat."""
    assert pipe.card is not None
    assert pipe.card.shots is not None
    everywhere = torch.ones(1, SIZE, SIZE, dtype=torch.bool)
    free = pipe.sample([1], num_inference_steps=2, guidance_scale=2.0)
    for contrast, moves in (([20.0, 0.0, -20.0, 0.0], True), ([0.0] * 4, False)):
        shots = [ShotTrace(shot.box, [contrast] * 2) for shot in pipe.card.shots]
        pipe.card = replace(pipe.card, shots=shots)
        pushed = pipe.sample([1], num_inference_steps=2, guidance_scale=2.0, regions=everywhere)
        moved = (pushed - free).abs().amax((2, 3, 4))
        assert (moved > 1e-3).all() if moves else (moved == 0).all(), moved


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_pair_with_a_region_does_not_depend_on_its_batch(
    pipe: DualAnoDiffPipeline, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor when it is drawn again. Tolerance: below one 8-bit level, since batched products round otherwise."""
    tries = judge_by_coin(monkeypatch)
    pipe.scheduler = SCHEDULERS[scheduler].from_config(pipe.scheduler.config)
    seeds = [5, 6, 7]
    together = pipe.sample(seeds, num_inference_steps=4, guidance_scale=2.0, regions=corner(3))
    for i, seed in enumerate(seeds):
        tries.append(0)
        alone = pipe.sample([seed], num_inference_steps=4, guidance_scale=2.0, regions=corner(1))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-3, rtol=0)
    assert tries[0] == max(tries[1:]) > min(tries[1:]), tries


def test_regions_that_do_not_fit_the_pairs_are_refused(pipe: DualAnoDiffPipeline) -> None:
    with pytest.raises(InputError, match="1 were given for 2 pairs"):
        pipe(2, num_inference_steps=1, regions=corner(1))
    with pytest.raises(InputError, match="1 of them empty"):
        pipe(1, num_inference_steps=1, regions=torch.zeros(1, SIZE, SIZE, dtype=torch.bool))


def test_a_generation_with_a_wish_resumes_to_the_same_pixels(adapter: Path, tmp_path: Path) -> None:
    config = GenerateConfig(
        num_pairs=3, batch_size=2, num_inference_steps=2, where=WhereConfig(size=(0.1, 0.6))
    )
    generate_pairs(adapter, config, tmp_path / "whole", seed=1, progress=False)
    one = config.model_copy(update={"num_pairs": 1})
    generate_pairs(adapter, one, tmp_path / "cut", seed=1, progress=False)
    generate_pairs(adapter, config, tmp_path / "cut", seed=1, progress=False)
    off = config.model_copy(update={"where": WhereConfig()})
    generate_pairs(adapter, off, tmp_path / "off", seed=1, progress=False)
    changed = []
    for i in range(3):
        for kind in ("image", "anomaly"):
            whole, cut, free = (
                np.asarray(Image.open(tmp_path / run / kind / f"{i:06}.png"), dtype=int)
                for run in ("whole", "cut", "off")
            )
            assert np.abs(whole - cut).max() <= 1
            changed.append((whole != free).any())
    assert any(changed)
