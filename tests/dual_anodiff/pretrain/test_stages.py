"""The stages that make `mini`, at a size that trains in seconds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

from dual_anodiff.pretrain.corpus import (
    DEFECT_NAMES,
    KIND_NAMES,
    Corpus,
    anomaly_caption,
    image_caption,
    read_corpus,
    write_corpus,
)
from dual_anodiff.pretrain.denoiser import build_noise_scheduler, build_tokenizer, build_unet, diffusion_loss
from dual_anodiff.pretrain.image_encoder import train_image_encoder
from dual_anodiff.pretrain.vae import (
    LATENT_CHANNELS,
    build_vae,
    encode_corpus,
    reconstruct,
    start_as_blur,
    train_vae,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, 800, 64, seed=0)
    return read_corpus(folder)


def test_corpus_holds_every_kind_and_defect_with_masks_where_there_are_defects(corpus: Corpus) -> None:
    assert set(corpus.kinds) == set(range(len(KIND_NAMES)))
    assert set(corpus.defects) == set(range(len(DEFECT_NAMES)))
    assert not corpus.masks[corpus.defects == 0].any()
    assert corpus.masks[corpus.defects > 0].any((1, 2)).mean() > 0.95


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
    image, _ = corpus.batch(np.arange(0, 800, 40))
    output = reconstruct(vae, image)
    chroma, kept = (x - x.mean(1, keepdim=True) for x in (image, output))
    assert (kept - chroma).abs().mean() < 0.75 * chroma.abs().mean()


def test_vae_training_resumes_and_writes_diffusers_format(corpus: Corpus, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    train_vae(corpus, tmp_path / "vae", work, num_steps=3, batch_size=2, device="cpu", seed=0)
    train_vae(corpus, tmp_path / "vae", work, num_steps=5, batch_size=2, device="cpu", seed=0)
    assert torch.load(work / "vae.pt", weights_only=True)["step"] == 5
    assert (work / "vae.png").is_file()
    vae = AutoencoderTiny.from_pretrained(tmp_path / "vae")
    encode_corpus(vae, corpus, work / "latents.npy", device="cpu")
    latents = np.load(work / "latents.npy")
    assert latents.shape == (800, 2, LATENT_CHANNELS, 8, 8)
    good = latents[corpus.defects == 0, 1]  # a good picture has no anomaly part: mid-grey everywhere
    assert good.std(0).max() < 0.05


def test_diffusion_loss_carries_min_snr_weights() -> None:
    torch.manual_seed(0)
    scheduler = build_noise_scheduler()
    unet = build_unet()
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    latents, text = torch.randn(2, LATENT_CHANNELS, 16, 16), torch.randn(2, 4, 128)
    for t in (5, 500, 990):
        timesteps = torch.tensor([t, t])
        torch.manual_seed(1)
        loss = diffusion_loss(unet, scheduler, latents, text, timesteps)
        torch.manual_seed(1)
        velocity = scheduler.get_velocity(latents, torch.randn_like(latents), timesteps)
        alpha = scheduler.alphas_cumprod[t]
        weight = min(alpha / (1 - alpha), 5.0) * (1 - alpha)  # min(snr, 5) / (snr + 1)
        torch.testing.assert_close(loss, weight * velocity.square().mean(), atol=1e-4, rtol=1e-2)


def test_image_encoder_is_written_and_its_held_out_accuracy_told(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_image_encoder(corpus, tmp_path / "out", tmp_path, num_steps=2, batch_size=4, device="cpu", seed=0)
    assert (tmp_path / "image_encoder.png").is_file()
    assert "held_out_defect_accuracy" in capsys.readouterr().out
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "resnet10t"
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 12e6
