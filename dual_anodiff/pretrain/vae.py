"""Stage 1: a tiny autoencoder, f8 with 16 latent channels, that keeps thin scratches."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import Tensor, nn

from dual_anodiff.pretrain.corpus import Corpus
from dual_anodiff.pretrain.stage import HELD_OUT, Plan, contact_sheet, fit

LATENT_CHANNELS = 16
LEARNING_RATE = 1e-3
PERCEPTION = 1.0  # weight of what the image encoder sees beside the pixel losses
CROP_PX = 64  # it is fully convolutional: crops give four times the pictures for the same work


# Distance of two pictures in a network's eyes. Shape: (b, 3, h, w) in [-1, 1] twice → ().
Perception = Callable[[Tensor, Tensor], Tensor]


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
    """L1 + squared error + edges, colour twice; the defect counts most, it is what the pictures are for.

    The smaller a defect the heavier each of its pixels, or a scratch of 60 px is lost among 4,000 of the part.
    """
    area = mask.mean((1, 2, 3), keepdim=True)
    weight = 1 + mask * (0.12 / area.clamp_min(1e-4)).clamp(2, 30)
    error = output - target
    error = 2 * error - error.mean(1, keepdim=True)
    pixel = (weight * (error.abs() + 2 * error.square())).mean()
    dx, dy = error.diff(dim=-1) * weight[..., 1:], error.diff(dim=-2) * weight[..., 1:, :]
    coarse = sum(F.avg_pool2d(error, k).square().mean() for k in (4, 8))
    return pixel + 0.5 * (dx.abs().mean() + dy.abs().mean()) + 6 * coarse


def crops(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A crop of each picture, three times of four around its defect. Shape: (b, c, h, w) → (b, c, 64, 64)."""
    b, _, size, _ = image.shape
    device = image.device
    at = torch.randint(0, size - CROP_PX + 1, (2, b), device=device)
    # The largest of random numbers within the mask is a random pixel of it; where there is none, it is the first.
    marked = (mask[:, 0] * (0.1 + torch.rand(b, size, size, device=device))).flatten(1).argmax(1)
    around = torch.stack([marked // size, marked % size]) - torch.randint(
        8, CROP_PX - 8, (2, b), device=device
    )
    wanted = (torch.rand(b, device=device) < 0.75) & mask.flatten(1).any(1)
    y, x = torch.where(wanted, around, at).clamp(0, size - CROP_PX)
    span = torch.arange(CROP_PX, device=device)
    which, rows, columns = (
        torch.arange(b, device=device)[:, None, None],
        (y[:, None] + span)[:, :, None],
        (x[:, None] + span)[:, None],
    )
    both = torch.cat([image, mask], dim=1).permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2)
    return both[:, :3], both[:, 3:]


def train_vae(corpus: Corpus, out: Path, work: Path, plan: Plan, *, start: Path | None = None) -> bool:
    """Train and write `out` in diffusers format, half precision; whether it is finished.

    A fifth of the pictures are anomaly parts. `start` is a VAE to go on from.
    """
    torch.manual_seed(plan.seed)
    if start is None:
        vae = build_vae()
        start_as_blur(vae)
    else:
        vae = AutoencoderTiny.from_pretrained(start).float()
    # channels_last with bf16 trains several times as fast as fp32 on an AVX512-bf16 CPU.
    vae = vae.to(plan.device, memory_format=torch.channels_last)
    held_out = torch.arange(len(corpus) - HELD_OUT, len(corpus))

    def loss(step: int) -> Tensor:
        g = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        index = torch.randint(len(corpus) - HELD_OUT, (plan.batch_size,), generator=g)
        image, mask = crops(*corpus.batch(index.to(corpus.kinds.device)))
        image = image.contiguous(memory_format=torch.channels_last)
        image[: plan.batch_size // 5] *= mask[: plan.batch_size // 5]
        with torch.autocast(plan.device, dtype=torch.bfloat16):
            latents = vae.encode(image).latents
            # A little noise on the latents keeps the decoder smooth around what diffusion will hand it.
            output = vae.decode(latents + 0.05 * torch.randn_like(latents)).sample
        return reconstruction_loss(output.float(), image, mask) + 0.1 * latent_penalty(latents.float())

    def show() -> None:
        image, _ = corpus.batch(held_out[::32].to(corpus.kinds.device))
        contact_sheet(torch.cat([image, reconstruct(vae, image)]), work / "vae.png", 16)

    done = fit(
        "vae", vae, loss, show, work, plan, peak_rate=LEARNING_RATE, weight_decay=1e-4, ema_decay=0.998
    )
    vae.half().save_pretrained(out)
    return done


@torch.no_grad()
def reconstruct(vae: AutoencoderTiny, image: Tensor) -> Tensor:
    return vae.decode(vae.encode(image).latents).sample.clamp(-1, 1)


@torch.no_grad()
def encode_corpus(encode: Callable[[Tensor], Tensor], corpus: Corpus) -> Tensor:
    """Latents of every picture and of every anomaly part. Shape: (n, 2, c, h/8, w/8) half precision."""
    latents = []
    for index in torch.arange(len(corpus), device=corpus.kinds.device).split(64):
        image, mask = corpus.batch(index)
        both = torch.stack([image, image * mask], dim=1).flatten(0, 1)
        with torch.autocast(both.device.type, dtype=torch.bfloat16):
            of_both = encode(both.contiguous(memory_format=torch.channels_last))
        latents.append(of_both.half().unflatten(0, (len(index), 2)))
    return torch.cat(latents)


def train_decoder(
    corpus: Corpus, base: Path, out: Path, work: Path, plan: Plan, perceived: Perception
) -> bool:
    """Go on with a base's decoder alone and write the whole VAE to `out`; whether it is finished.

    The encoder stays: latents mean what they did, so that UNet and adapters made for this base still fit. `perceived` adds
    what a network that has seen real pictures misses: the pixel losses alone would rather blur grain than misplace it.
    """
    torch.manual_seed(plan.seed)
    vae = AutoencoderTiny.from_pretrained(base / "vae").float()
    vae = vae.to(plan.device, memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)

    def loss(step: int) -> Tensor:
        g = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        index = torch.randint(len(corpus) - HELD_OUT, (plan.batch_size,), generator=g)
        image, mask = crops(*corpus.batch(index.to(corpus.kinds.device)))
        image = image.contiguous(memory_format=torch.channels_last)
        image[: plan.batch_size // 5] *= mask[: plan.batch_size // 5]
        with torch.autocast(plan.device, dtype=torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(image).latents
            output = vae.decode(latents + 0.05 * torch.randn_like(latents)).sample.float()
            seen = perceived(output, image)
        return reconstruction_loss(output, image, mask) + PERCEPTION * seen.float()

    def show() -> None:
        image, _ = corpus.batch(torch.arange(len(corpus) - HELD_OUT, len(corpus))[::32])
        contact_sheet(torch.cat([image, reconstruct(vae, image)]), work / "decoder.png", 16)
        copy.deepcopy(vae).half().save_pretrained(out)

    return fit("decoder", vae, loss, show, work, plan, peak_rate=4e-4, weight_decay=1e-4, ema_decay=0.998)
