"""Stage 2: the UNet, and with it the text encoder, on latents of the drawn corpus."""

import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dual_anodiff.pretrain.corpus import DEFECT_NAMES, KIND_NAMES, Corpus, anomaly_caption, image_caption
from dual_anodiff.pretrain.stage import Checkpoint, Ema, Log, contact_sheet, learning_rate
from dual_anodiff.pretrain.vae import LATENT_CHANNELS

TEXT_WIDTH = 128
MAX_TOKENS = 32
CAPTION_DROPOUT = 0.1
MIN_SNR_GAMMA = 5.0


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with a byte-level vocabulary of the captions' words; any other word falls into pieces."""
    captions = [image_caption(k, d) for k in range(len(KIND_NAMES)) for d in range(len(DEFECT_NAMES))]
    blank = CLIPTokenizer()
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = blank.backend_tokenizer.normalizer
    tokenizer.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    alphabet = [chr(c) for c in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
    )
    tokenizer.train_from_iterator([*captions, *(c + " " + c for c in alphabet)] * 2, trainer)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.model.save(folder)
        vocab = json.loads((Path(folder) / "vocab.json").read_text())
        lines = (Path(folder) / "merges.txt").read_text().splitlines()
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#")]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(96, 160, 192),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # heads, despite its name (diffusers keeps the misnomer for SD 1.x)
        norm_num_groups=16,
    )


def build_noise_scheduler() -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
    )


def diffusion_loss(
    unet: UNet2DConditionModel, scheduler: DDPMScheduler, latents: Tensor, text: Tensor, timesteps: Tensor
) -> Tensor:
    """v-prediction with min-SNR weights (Hang et al. 2023, Eq. 6 for v: min(snr, γ) / (snr + 1))."""
    noise = torch.randn_like(latents)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    with torch.autocast(latents.device.type, dtype=torch.bfloat16):
        predicted = unet(noisy, timesteps, text).sample
    target = scheduler.get_velocity(latents, noise, timesteps)
    alpha = scheduler.alphas_cumprod.to(latents.device)[timesteps]
    snr = alpha / (1 - alpha)
    weight = snr.clamp_max(MIN_SNR_GAMMA) / (snr + 1)
    error = F.mse_loss(predicted.float(), target, reduction="none").mean((1, 2, 3))
    return (weight * error).mean()


def train_denoiser(
    corpus: Corpus,
    latents_file: Path,
    out: Path,
    work: Path,
    *,
    num_steps: int,
    batch_size: int,
    device: str,
    seed: int,
) -> None:
    """Train UNet and text encoder together; write unet, text_encoder, tokenizer, scheduler, half precision."""
    torch.manual_seed(seed)
    latents = torch.from_numpy(np.load(latents_file)).to(device)
    tokenizer = build_tokenizer()
    text_encoder, unet = build_text_encoder(tokenizer).to(device), build_unet().to(device)
    scheduler = build_noise_scheduler()
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    print(
        {"unet_million": sum(p.numel() for p in unet.parameters()) / 1e6, "parameters": len(parameters)},
        flush=True,
    )
    optimizer = torch.optim.AdamW(parameters, lr=4e-4, betas=(0.9, 0.99), weight_decay=1e-2)
    ema = Ema(parameters, 0.9995)
    checkpoint, log = Checkpoint(work / "denoiser.pt", every_s=600), Log(work / "denoiser.jsonl")

    image_ids = _tokens(tokenizer, [corpus.caption(i) for i in range(len(corpus))]).to(device)
    part_ids = _tokens(tokenizer, [anomaly_caption(d) for d in range(len(DEFECT_NAMES))]).to(device)
    empty_ids = _tokens(tokenizer, [""]).to(device)
    defects = torch.from_numpy(corpus.defects).to(device)
    first = 0
    if (state := checkpoint.load()) is not None:
        unet.load_state_dict(state["unet"])
        text_encoder.load_state_dict(state["text_encoder"])
        optimizer.load_state_dict(state["optimizer"])
        ema.shadow = [s.to(device) for s in state["ema"]]
        first = state["step"]

    for step in range(first, num_steps):
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)
        torch.manual_seed(seed * 1_000_003 + step)
        index = torch.randint(len(corpus), (batch_size,), generator=g).to(device)
        # A quarter of the batch is anomaly parts, the rest whole pictures; good pictures have no part.
        part = ((torch.rand(batch_size, generator=g) < 0.3).to(device)) & (defects[index] > 0)
        batch = latents[index, part.long()].float()
        ids = torch.where(part[:, None], part_ids[defects[index]], image_ids[index])
        dropped = (torch.rand(batch_size, generator=g) < CAPTION_DROPOUT).to(device)
        ids = torch.where(dropped[:, None], empty_ids, ids)
        timesteps = torch.randint(1000, (batch_size,), generator=g).to(device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps, 4e-4, 300)
        loss = diffusion_loss(unet, scheduler, batch, text_encoder(ids).last_hidden_state, timesteps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        ema.update(step)
        log.step(step, loss)
        if checkpoint.due() or step + 1 == num_steps:
            checkpoint.save({
                "unet": unet.state_dict(), "text_encoder": text_encoder.state_dict(),
                "optimizer": optimizer.state_dict(), "ema": ema.shadow, "step": step + 1,
            })  # fmt: skip
            backup = [p.detach().clone() for p in parameters]
            ema.copy_to_model()
            save(out, unet, text_encoder, tokenizer)
            samples_sheet(out, work / "denoiser.png", device=device)
            with torch.no_grad():
                for p, b in zip(parameters, backup, strict=True):
                    p.copy_(b)


def _tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    ids: Tensor = tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def save(
    out: Path,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    *,
    vae_class: str = "AutoencoderTiny",
) -> None:
    """Write everything but the VAE of a StableDiffusionPipeline folder, weights in half precision."""
    copy.deepcopy(unet).half().save_pretrained(out / "unet")
    copy.deepcopy(text_encoder).half().save_pretrained(out / "text_encoder")
    # transformers loads in the config's dtype, diffusers in float32: say float32, so that both do.
    text_config = out / "text_encoder" / "config.json"
    text_config.write_text(
        json.dumps(json.loads(text_config.read_text()) | {"dtype": "float32"}, indent=2) + "\n"
    )
    tokenizer.save_pretrained(out / "tokenizer")
    DPMSolverMultistepScheduler.from_config(build_noise_scheduler().config).save_pretrained(out / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", vae_class],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def samples_sheet(base: Path, path: Path, *, device: str, guidance_scale: float = 3.0, seed: int = 0) -> None:
    """One row a kind: a good part, then three defects; below, every defect's part alone."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None, dtype=torch.float32).to(device)
    pipe.set_progress_bar_config(disable=True)
    prompts = [
        image_caption(k, (k + j) % len(DEFECT_NAMES) if j else 0)
        for k in range(len(KIND_NAMES))
        for j in range(4)
    ]
    prompts += [anomaly_caption(d) for d in range(1, len(DEFECT_NAMES))]
    generator = torch.Generator().manual_seed(seed)
    images = pipe(
        prompts, num_inference_steps=25, guidance_scale=guidance_scale, output_type="pt", generator=generator,
        height=128, width=128,
    ).images  # fmt: skip
    contact_sheet(images * 2 - 1, path, 8)
