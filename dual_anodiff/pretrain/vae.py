"""Stage 1: a tiny autoencoder, f8 with 16 latent channels, that keeps thin scratches."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import Tensor, nn

from dual_anodiff.pretrain.corpus import Corpus
from dual_anodiff.pretrain.stage import Checkpoint, Ema, Log, contact_sheet, learning_rate, use_channels_last

LATENT_CHANNELS = 16
LEARNING_RATE = 1e-3
CROP_PX = 64  # it is fully convolutional: crops give four times the pictures for the same work


def build_vae() -> AutoencoderTiny:
    return AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(48,) * 4,
        num_encoder_blocks=(1, 2, 2, 2),
        num_decoder_blocks=(2, 2, 2, 1),
    )


@torch.no_grad()
def start_as_blur(vae: AutoencoderTiny) -> None:
    """Initialise so that the untrained VAE already returns its picture blurred: three channels carry local colour.

    From torch's own initialisation the contact sheet was still grey after 1,900 steps; from this one it is in colour
    at once. Everything else starts as usual.
    """
    smooth = torch.tensor([1.0, 2.0, 1.0]) / 4
    smooth = smooth[:, None] * smooth[None]
    dirac = torch.zeros(3, 3)
    dirac[1, 1] = 1
    for block in vae.modules():
        if isinstance(block, AutoencoderTinyBlock):
            block.conv[-1].weight *= 0.1
            block.conv[-1].weight[:3] = 0
            block.conv[-1].bias.zero_()
    for half in (vae.encoder, vae.decoder):
        convs: list[Any] = [m for m in half.layers if isinstance(m, nn.Conv2d)]
        for i, conv in enumerate(convs):
            resamples = conv.stride == (2, 2) or (half is vae.decoder and 0 < i < len(convs) - 1)
            for c in range(3):
                conv.weight[c] = 0
                conv.weight[c, c] = smooth if resamples else dirac
                if conv.bias is not None:
                    conv.bias[c] = 0
        if half is vae.encoder:  # colours in [0, 1] become latents of about unit spread …
            convs[-1].weight[:3] *= 4
            convs[-1].bias[:3] = -2
            convs[-1].weight[3:] *= 2
        else:  # … and back
            convs[0].weight[:3] /= 4
            convs[0].bias[:3] = 0.5


def latent_penalty(latents: Tensor) -> Tensor:
    """Pull each channel to zero mean and unit spread, so that the diffusion needs no rescaling."""
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    return (mean.square() + (std - 1).square()).mean()


def reconstruction_loss(output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L1 + squared error + edges; the defect counts four times, it is what the pictures are for; colour twice."""
    weight = 1 + 3 * mask
    error = output - target
    error = 2 * error - error.mean(1, keepdim=True)
    pixel = (weight * (error.abs() + 2 * error.square())).mean()
    dx, dy = error.diff(dim=-1), error.diff(dim=-2)
    coarse = sum(F.avg_pool2d(error, k).square().mean() for k in (4, 8))
    return pixel + 0.5 * (dx.abs().mean() + dy.abs().mean()) + 6 * coarse


def train_vae(
    corpus: Corpus, out: Path, work: Path, *, num_steps: int, batch_size: int, device: str, seed: int
) -> None:
    """Train, then write `out` in diffusers format, half precision. A fifth of the pictures are anomaly parts."""
    torch.manual_seed(seed)
    vae = build_vae()
    start_as_blur(vae)
    vae = use_channels_last(vae.to(device))
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    ema = Ema(vae.parameters(), 0.998)
    checkpoint, log = Checkpoint(work / "vae.pt"), Log(work / "vae.jsonl")
    first = 0
    if (state := checkpoint.load()) is not None:
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.shadow = [s.to(device) for s in state["ema"]]
        first = state["step"]
    for step in range(first, num_steps):
        rng = np.random.default_rng((seed, 1, step))
        image, mask = corpus.batch(np.sort(rng.choice(len(corpus) - 256, batch_size, replace=False)))
        image[: batch_size // 5] *= mask[: batch_size // 5]
        y, x = rng.integers(0, (image.shape[-1] - CROP_PX) // 8 + 1, 2) * 8
        image, mask = (t[..., y : y + CROP_PX, x : x + CROP_PX] for t in (image, mask))
        image, mask = image.to(device, memory_format=torch.channels_last), mask.to(device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps, LEARNING_RATE)
        with torch.autocast(device, dtype=torch.bfloat16):
            latents = vae.encode(image).latents
            # A little noise on the latents keeps the decoder smooth around what diffusion will hand it.
            output = vae.decode(latents + 0.05 * torch.randn_like(latents)).sample
        loss = reconstruction_loss(output.float(), image, mask) + 0.1 * latent_penalty(latents.float())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        ema.update(step)
        log.step(step, loss)
        if checkpoint.due() or step + 1 == num_steps:
            checkpoint.save({
                "model": vae.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema.shadow, "step": step + 1,
            })  # fmt: skip
            image, _ = corpus.batch(np.arange(len(corpus) - 256, len(corpus), 16))
            contact_sheet(torch.cat([image, reconstruct(vae, image.to(device)).cpu()]), work / "vae.png", 16)
    ema.copy_to_model()
    print(held_out_figures(vae, corpus), flush=True)
    vae.half().save_pretrained(out)


@torch.no_grad()
def reconstruct(vae: AutoencoderTiny, image: Tensor) -> Tensor:
    return vae.decode(vae.encode(image).latents).sample.clamp(-1, 1)


def held_out_figures(vae: AutoencoderTiny, corpus: Corpus) -> dict[str, float]:
    """PSNR (dB) of the last 256 pictures, which no training step saw: whole, and within the defect masks alone."""
    image, mask = corpus.batch(np.arange(len(corpus) - 256, len(corpus)))
    device = next(vae.parameters()).device
    output = torch.cat([reconstruct(vae, part.to(device)).cpu() for part in image.split(32)])
    error = ((output - image) / 2).square()
    whole = -10 * error.mean((1, 2, 3)).log10().mean()
    within = -10 * ((error * mask).sum() / (3 * mask.sum())).log10()
    return {"held_out_psnr": round(float(whole), 2), "held_out_psnr_in_masks": round(float(within), 2)}


@torch.no_grad()
def encode_corpus(vae: AutoencoderTiny, corpus: Corpus, path: Path, *, device: str) -> None:
    """Latents of every picture and of every anomaly part. Shape in the file: (n, 2, c, h, w) float16."""
    if path.is_file():
        return
    size = corpus.images.shape[-1] // 8
    staged = path.with_suffix(".tmp")
    shape = (len(corpus), 2, LATENT_CHANNELS, size, size)
    latents = np.lib.format.open_memmap(staged, mode="w+", dtype=np.float16, shape=shape)
    for start in range(0, len(corpus), 64):
        index = np.arange(start, min(start + 64, len(corpus)))
        image, mask = corpus.batch(index)
        both = torch.cat([image, image * mask]).to(device, memory_format=torch.channels_last)
        with torch.autocast(device, dtype=torch.bfloat16):
            encoded = vae.encode(both).latents.float().cpu()
        latents[index] = encoded.view(2, len(index), *encoded.shape[1:]).transpose(0, 1).half().numpy()
    latents.flush()
    staged.rename(path)
