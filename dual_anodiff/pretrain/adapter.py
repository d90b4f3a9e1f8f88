"""Stage 3: a two-branch adapter that few-shot fine-tuning starts from, trained on many kinds of defects.

A fresh adapter's branches know nothing of each other, and five shots are few to learn it from. Here both branches'
LoRA and their interaction see thousands of (image, anomaly part) pairs; a handful of shots then only has to say which
defect is meant.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor, nn

from dual_anodiff.adapter import adapter_parameters, attach_adapter
from dual_anodiff.base import fingerprint, load_base
from dual_anodiff.config import AdapterConfig
from dual_anodiff.initial import DESCRIPTION, WEIGHTS, InitialCard
from dual_anodiff.objective import encode, target
from dual_anodiff.pretrain.corpus import DEFECT_NAMES, Corpus, anomaly_caption
from dual_anodiff.pretrain.stage import Plan, fit
from dual_anodiff.pretrain.vae import encode_corpus

CAPTION_DROPOUT = 0.1
PLAIN_SHARE = 0.3  # of the pairs are called "a defect": at a line no word of the corpus need fit


class Pairs(nn.Module):
    """UNet and text encoder with a two-branch adapter. Shape: latents ((b f), c, h, w), ids ((b f), tokens)."""

    def __init__(self, unet: Any, text_encoder: Any) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, latents: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        text = self.text_encoder(ids).last_hidden_state
        predicted: Tensor = self.unet(latents, timesteps, encoder_hidden_states=text).sample
        return predicted


def train_adapter(
    corpus: Corpus,
    base: str,
    out: Path,
    work: Path,
    plan: Plan,
    config: AdapterConfig,
    *,
    learning_rate: float,
) -> bool:
    """Train on the corpus' pictures with a defect; write adapter.safetensors and initial.json; whether it is finished.

    Raises: BaseModelError if the base can't be loaded.
    """
    torch.manual_seed(plan.seed)
    pipe = load_base(StableDiffusionPipeline, base)
    pipe.to(plan.device)
    for part in (pipe.vae, pipe.unet, pipe.text_encoder):
        part.float()
    pipe.vae.requires_grad_(False)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    kept = corpus.with_defect()
    pipe.vae.to(memory_format=torch.channels_last)
    latents = encode_corpus(lambda pictures: encode(pipe.vae, pictures)[0], kept)
    attach_adapter(pipe.unet, pipe.text_encoder, config, seed=plan.seed)
    model = Pairs(pipe.unet, pipe.text_encoder).to(plan.device).train()
    ids = _Captions(pipe.tokenizer, kept)

    taken = 0

    def loss(step: int) -> Tensor:
        nonlocal taken
        taken = step + 1
        g = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        index = torch.randint(len(kept), (plan.batch_size,), generator=g)
        both = latents[index.to(latents.device)].flatten(0, 1).float()
        noise = torch.randn(both.shape, generator=g).to(plan.device)
        # Stratified, so that a small batch sees clean and noisy pairs alike.
        at = (torch.arange(plan.batch_size) + torch.rand(plan.batch_size, generator=g)) / plan.batch_size
        steps = (at * scheduler.config.num_train_timesteps).long().to(plan.device).repeat_interleave(2)
        tokens = ids.of(index, g).to(plan.device)
        noisy = scheduler.add_noise(both, noise, steps)
        with torch.autocast(plan.device.split(":")[0], dtype=torch.bfloat16):
            predicted = model(noisy, steps, tokens)
        return F.mse_loss(predicted.float(), target(scheduler, both, noise, steps))

    def show() -> None:
        own = dict(adapter_parameters(pipe.unet, pipe.text_encoder))
        out.mkdir(parents=True, exist_ok=True)
        weights = {name: p.detach().half().cpu().contiguous() for name, p in own.items()}
        save_file(weights, out / WEIGHTS)
        card = InitialCard(fingerprint(base), config.model_dump(), taken, len(kept), plan.seed)
        (out / DESCRIPTION).write_text(json.dumps(asdict(card), indent=2) + "\n")

    return fit(
        "adapter", model, loss, show, work, plan,
        peak_rate=learning_rate, weight_decay=1e-2, ema_decay=0.998,
    )  # fmt: skip


class _Captions:
    """Token ids of both branches' prompts."""

    def __init__(self, tokenizer: Any, corpus: Corpus) -> None:
        def ids(captions: list[str]) -> Tensor:
            tokens: Tensor = tokenizer(
                captions,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            return tokens

        n = range(len(corpus))
        self.image = ids([corpus.caption(i) for i in n])
        self.plain = ids([f"{corpus.caption(i).partition(' with ')[0]} with defect" for i in n])
        self.part = ids([anomaly_caption(d) for d in range(len(DEFECT_NAMES))])[corpus.defects.cpu()]
        self.plain_part, self.empty = ids(["defect"]), ids([""])

    def of(self, index: Tensor, g: torch.Generator) -> Tensor:
        """Shape: index (b,) → ((b f), tokens)."""
        named = torch.stack([self.image[index], self.part[index]], 1)
        plain = torch.stack([self.plain[index], self.plain_part.expand(len(index), -1)], 1)
        chosen = torch.where(torch.rand(len(index), 1, 1, generator=g) < PLAIN_SHARE, plain, named)
        dropped = torch.rand(len(index), 1, 1, generator=g) < CAPTION_DROPOUT
        return torch.where(dropped, self.empty, chosen).flatten(0, 1)
