"""The stages that make `mini`, at a size that trains in seconds."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, DPMSolverMultistepScheduler
from torch import Tensor, nn

from dual_anodiff.pretrain.corpus import (
    BLOCK,
    KIND_NAMES,
    Corpus,
    anomaly_caption,
    draw_block,
    image_caption,
    read_corpus,
    suitable_defects,
    write_corpus,
)
from dual_anodiff.pretrain.denoiser import (
    Denoiser,
    build_noise_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    diffusion_loss,
)
from dual_anodiff.pretrain.stage import Plan, fit
from dual_anodiff.pretrain.vae import (
    LATENT_CHANNELS,
    build_vae,
    crops,
    encode_corpus,
    reconstruct,
    reconstruction_loss,
    start_as_blur,
    train_vae,
)


def plan(num_steps: int, batch_size: int = 2, deadline: float = float("inf")) -> Plan:
    return Plan(num_steps, batch_size, seed=0, device="cpu", deadline=deadline)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, 1024, 64, seed=0)
    return read_corpus(folder)


def test_corpus_holds_every_kind_with_only_the_defects_that_suit_it(corpus: Corpus) -> None:
    assert set(corpus.kinds.tolist()) == set(range(len(KIND_NAMES)))
    for kind, defect in set(zip(corpus.kinds.tolist(), corpus.defects.tolist(), strict=True)):
        assert defect == 0 or defect in suitable_defects(kind)
    assert not corpus.masks[corpus.defects == 0].any()
    assert corpus.masks[corpus.defects > 0].flatten(1).any(1).float().mean() > 0.98


def test_a_block_depends_on_seed_and_number_alone_and_is_not_drawn_twice(tmp_path: Path) -> None:
    write_corpus(tmp_path, 3 * BLOCK, 64, seed=5)
    corpus = read_corpus(tmp_path)
    for number in (2, 0):
        at = number * BLOCK
        block = (number, int(corpus.kinds[at]), int(corpus.defects[at]))
        image, mask = draw_block(block, size_px=64, seed=5)
        assert torch.equal(corpus.images[at : at + BLOCK], torch.from_numpy(image))
        assert torch.equal(corpus.masks[at : at + BLOCK], torch.from_numpy(mask))
    written = (tmp_path / "images.npy").stat().st_mtime_ns
    write_corpus(tmp_path, 3 * BLOCK, 64, seed=5)
    assert (tmp_path / "images.npy").stat().st_mtime_ns == written


def test_captions_are_nested_and_tokenized_to_whole_words() -> None:
    tokenizer = build_tokenizer()
    assert anomaly_caption(3) in image_caption(2, 3)
    words = tokenizer(image_caption(2, 3), add_special_tokens=False).input_ids
    assert len(words) == len(image_caption(2, 3).split())
    unknown = tokenizer("sks", add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in unknown


def test_an_untrained_vae_already_returns_the_picture_blurred_and_in_colour(corpus: Corpus) -> None:
    torch.manual_seed(0)
    vae = build_vae()
    start_as_blur(vae)
    image, _ = corpus.batch(torch.arange(0, 1024, 50))
    output = reconstruct(vae, image)
    chroma, kept = (x - x.mean(1, keepdim=True) for x in (image, output))
    assert (kept - chroma).abs().mean() < 0.75 * chroma.abs().mean()


def test_crops_keep_picture_and_mask_together_and_mostly_hold_the_defect() -> None:
    torch.manual_seed(0)
    mask = torch.zeros(64, 1, 128, 128)
    mask[:, :, 100:104, 20:24] = 1
    image = torch.arange(128 * 128.0).view(1, 1, 128, 128).expand(64, 3, -1, -1)
    cropped, marked = crops(image, mask)
    assert cropped.shape == (64, 3, 64, 64)
    assert marked.flatten(1).any(1).float().mean() > 0.7
    assert set(cropped[marked.expand(-1, 3, -1, -1) > 0].long().tolist()) <= set(
        image[mask.expand(-1, 3, -1, -1) > 0].long().tolist()
    )


def test_a_pixel_of_a_lost_scratch_costs_more_than_one_of_a_lost_stain() -> None:
    target = torch.zeros(1, 3, 64, 64)
    cost_each = []
    for width in (2, 20):
        mask = torch.zeros(1, 1, 64, 64)
        mask[..., 10 : 10 + width, 10:50] = 1
        loss = reconstruction_loss(0.5 * mask.expand(-1, 3, -1, -1), target, mask)
        cost_each.append(float(loss / mask.sum()))
    assert cost_each[0] > 1.5 * cost_each[1]


def test_fit_keeps_its_deadline_and_goes_on_as_if_uninterrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(work: Path, seconds: float) -> tuple[Tensor, int]:
        """The weights, and how many calls it took."""
        work.mkdir()
        calls, finished = 0, False
        while not finished:
            torch.manual_seed(7)
            model = nn.Linear(4, 1)

            def loss(step: int, model: nn.Module = model) -> Tensor:
                return (model(torch.randn(8, 4)) - 1).square().mean()

            one = plan(300, deadline=time.monotonic() + seconds)
            finished = fit(
                "toy", model, loss, lambda: None, work, one, peak_rate=0.1, weight_decay=0.0, ema_decay=0.9
            )
            calls += 1
        return model.weight.detach(), calls

    whole, once = trained(tmp_path / "whole", 1e6)
    parts, often = trained(tmp_path / "parts", 0.02)
    assert once == 1
    assert often > 1
    assert "toy: stopped at step" in capsys.readouterr().out
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)


def test_vae_training_resumes_and_writes_diffusers_format(corpus: Corpus, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    assert train_vae(corpus, tmp_path / "vae", work, plan(3))
    assert train_vae(corpus, tmp_path / "vae", work, plan(5))
    assert torch.load(work / "vae.pt", weights_only=True)["step"] == 5
    assert (work / "vae.png").is_file()
    vae = AutoencoderTiny.from_pretrained(tmp_path / "vae")
    few = Corpus(corpus.images[:160], corpus.masks[:160], corpus.kinds[:160], corpus.defects[:160])
    latents = encode_corpus(lambda pictures: vae.encode(pictures).latents, few)
    assert latents.shape == (160, 2, LATENT_CHANNELS, 8, 8)
    good = latents[few.defects == 0, 1].float()  # a good picture has no anomaly part: mid-grey everywhere
    assert good.std(0).max() < 0.05
    on = tmp_path / "on"
    on.mkdir()
    train_vae(corpus, tmp_path / "vae2", on, plan(0), start=tmp_path / "vae")
    for name, weight in AutoencoderTiny.from_pretrained(tmp_path / "vae2").state_dict().items():
        assert torch.equal(weight, vae.state_dict()[name])


def test_diffusion_loss_is_the_velocitys_mse_at_every_timestep() -> None:
    torch.manual_seed(0)
    scheduler = build_noise_scheduler()
    tokenizer = build_tokenizer()
    model = Denoiser(build_unet(), build_text_encoder(tokenizer))
    torch.nn.init.zeros_(model.unet.conv_out.weight)
    torch.nn.init.zeros_(model.unet.conv_out.bias)
    latents, ids = torch.randn(2, LATENT_CHANNELS, 16, 16), torch.ones(2, 4, dtype=torch.long)
    for t in (5, 500, 990):
        timesteps = torch.tensor([t, t])
        torch.manual_seed(1)
        loss = diffusion_loss(model, scheduler, latents, ids, timesteps)
        torch.manual_seed(1)
        velocity = scheduler.get_velocity(latents, torch.randn_like(latents), timesteps)
        torch.testing.assert_close(loss, velocity.square().mean(), atol=1e-4, rtol=1e-2)


def test_the_noisiest_step_that_training_sees_and_sampling_begins_with_holds_no_picture() -> None:
    scheduler = build_noise_scheduler()
    assert scheduler.alphas_cumprod[-1] == 0
    sampler = DPMSolverMultistepScheduler.from_config(scheduler.config)
    sampler.set_timesteps(20)
    assert sampler.timesteps[0] == 999


def test_the_command_that_makes_mini_starts_without_what_a_bare_training_machine_lacks() -> None:
    said = "import sys, dual_anodiff.pretrain.__main__; print(*{'pydantic', 'einops', 'pandas', 'timm'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
