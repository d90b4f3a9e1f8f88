"""Before the few shots: plain LoRA training of the base on a category's normal pictures, and fusing it into the base."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, StableDiffusionPipeline
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from dual_anodiff.base import fingerprint, load_base
from dual_anodiff.config import FinetuneConfig
from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.images import load_image
from dual_anodiff.latents import cache_latents
from dual_anodiff.loop import Schedule, optimize, write_losses
from dual_anodiff.objective import denoising_loss, encode_prompts, uses_bf16
from dual_anodiff.randomness import seeded

WEIGHTS, DESCRIPTION = "normals.safetensors", "normals.json"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
# Attention alone moves shapes; a category's grain and colour sit in the convolutions.
TARGETS = (*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "time_emb_proj")
NAME = "normals"


@dataclass(frozen=True)
class NormalsCard:
    """What normals.json holds."""

    base: str
    base_fingerprint: str
    revision: str | None
    prompt: str
    size_px: int
    lora_rank: int
    train_steps: int
    num_pictures: int
    seed: int


def adapt(
    images: Sequence[Path],
    config: FinetuneConfig,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    checkpoint: Path | None = None,
    parts: int = 1,
    progress: bool = True,
) -> NormalsCard:
    """Train a LoRA of the base's UNet on normal pictures; write normals.safetensors, normals.json, training.csv.

    `checkpoint` as in `train`: a resumed training gives the same file, on the CPU bit for bit. The prompt is taken as
    it stands. `parts`: forward calls that a batch is shared out over, where the device's memory is small.

    Raises: InputError for no pictures or an unusable one; BaseModelError if the base can't be loaded.
    """
    if not images:
        raise InputError(
            "finetune.adapt_to_normals: no normal pictures were given; set it to false without any"
        )
    normals, size = config.normals, config.size_px
    chosen = evenly_spaced(images, normals.max_pictures)

    pipe = load_base(StableDiffusionPipeline, config.base, revision=config.revision)
    pipe.to(device)
    vae, unet, text_encoder = pipe.vae, pipe.unet, pipe.text_encoder
    for model in (vae, unet, text_encoder):
        model.float().requires_grad_(False)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    cached = cache_latents(
        vae,
        (_load(path, size)[None] for path in chosen),  # one at a time: hundreds would fill the memory
        horizontal=config.horizontal_flip,
        vertical=config.vertical_flip,
    )
    with torch.no_grad():
        text = encode_prompts(pipe.tokenizer, text_encoder, [normals.prompt])
    attach_lora(unet, normals.lora_rank, seed=seed)
    unet.to(device)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    unet.train()

    b, bf16 = -(-normals.batch_size // parts), uses_bf16(config.precision, device)

    def loss(step: int, part: int) -> Tensor:
        generator = seeded(seed, step, part)
        latents = cached.batch(b, generator)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (b,), generator=generator).to(device)
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=bf16):
            return denoising_loss(unet, scheduler, latents, text.expand(b, -1, -1), timesteps, noise)

    lora = lora_parameters(unet)
    trained = optimize(
        list(lora.values()),
        loss,
        Schedule(
            train_steps=normals.train_steps,
            learning_rate=normals.learning_rate,
            gradient_accumulation_steps=parts,
            checkpoint_every_steps=config.checkpoint_every_steps,
        ),
        name="adapt",
        device=device,
        checkpoint=checkpoint,
        progress=progress,
    )
    card = NormalsCard(
        base=config.base,
        base_fingerprint=fingerprint(config.base),
        revision=config.revision,
        prompt=normals.prompt,
        size_px=size,
        lora_rank=normals.lora_rank,
        train_steps=normals.train_steps,
        num_pictures=len(chosen),
        seed=seed,
    )
    write_losses(out / "training.csv", trained.rows)
    weights = dict(zip(lora, trained.ema, strict=True))
    save_file({name: w.detach().cpu().contiguous() for name, w in weights.items()}, out / WEIGHTS)
    # Last: its existence means that the weights are whole.
    (out / DESCRIPTION).write_text(json.dumps(asdict(card), indent=2) + "\n")
    return card


def evenly_spaced(images: Sequence[Path], most: int) -> list[Path]:
    """At most `most` of the pictures, sorted and evenly spaced: names often follow time, and all of it should count."""
    ordered = sorted(images)
    n = min(most, len(ordered))
    return [ordered[i * len(ordered) // n] for i in range(n)]


def attach_lora(unet: Any, rank: int, *, seed: int) -> None:
    """Put a fresh LoRA on a frozen UNet; its output stays the base's until it is trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # alpha = rank: the product is added unscaled, so that fusing needs no further number.
        config = LoraConfig(
            r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(TARGETS)
        )
        unet.add_adapter(config, adapter_name=NAME)


def lora_parameters(unet: Any) -> dict[str, Tensor]:
    """The LoRA's parameters under their names in the file: MODULE.lora_A.weight, MODULE.lora_B.weight."""
    return {
        name.replace(f".{NAME}.", "."): parameter
        for name, parameter in unet.named_parameters()
        if ".lora_" in name
    }


def read_normals(folder: Path) -> tuple[dict[str, Tensor], str]:
    """The LoRA of a folder that `adapt` or `train` wrote, and its digest. Raises: AdapterError if it can't be read."""
    path = folder / WEIGHTS
    try:
        return load_file(path), hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except Exception as error:
        raise AdapterError(f"{path}: can't be read ({error}); adapt to the normals again") from error


def read_normals_card(folder: Path) -> NormalsCard:
    """Read normals.json. Raises: AdapterError if it is missing or of another version."""
    try:
        return NormalsCard(**json.loads((folder / DESCRIPTION).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise AdapterError(
            f"{folder / DESCRIPTION}: {error}; is this the folder of a finished adaptation to normals?"
        ) from error


@torch.no_grad()
def fuse_normals(unet: Any, folder: Path, *, expected: str | None = None) -> str:
    """Add a folder's LoRA to the UNet's own weights, W + B·A, in float32; a UNet that has it already stays as it is.

    Returns: the file's digest.
    Raises: AdapterError if the file can't be read, is not the `expected` one, does not fit, or another is fused.
    """
    weights, digest = read_normals(folder)
    if expected not in (None, digest):
        raise AdapterError(
            f"{folder / WEIGHTS}: is not the file that this adapter was trained on; fine-tune again"
        )
    fused = getattr(unet, "fused_normals", None)
    if fused == digest:
        return digest
    if fused is not None:
        raise AdapterError("this base has other normals fused into it; load the base anew")
    own = dict(unet.named_parameters())
    changed = {}
    for name, up in weights.items():
        if ".lora_B." not in name:
            continue
        down, weight = weights[name.replace(".lora_B.", ".lora_A.")], own.get(name.replace(".lora_B.", "."))
        # A 3×3 convolution's LoRA is a 3×3 convolution to r channels, then a 1×1: one matrix product, too.
        delta = up.flatten(1) @ down.flatten(1)
        if weight is None or delta.numel() != weight.numel():
            raise AdapterError(f"{folder / WEIGHTS}: does not fit this base (at {name}); use its own base")
        changed[weight] = delta
    for weight, delta in changed.items():
        weight.copy_(weight.float() + delta.to(weight.device).view_as(weight))
    unet.fused_normals = digest
    return digest


def with_normals(branch: dict[str, Tensor], normals: dict[str, Tensor]) -> dict[str, Tensor]:
    """One plain LoRA for both: ranks add up, and layers of the normals alone are filled up with zeros to one rank.

    Exact: [B_n B_b]·[A_n; A_b] = B_n·A_n + B_b·A_b. One rank in all layers, since older readers take it from one.
    """
    rank = next(w.shape[0] for name, w in branch.items() if ".lora_A." in name)
    joined = {}
    for name, ours in normals.items():
        axis = 0 if ".lora_A." in name else 1
        shape = list(ours.shape)
        shape[axis] = rank
        joined[name] = torch.cat([ours, branch.get(name, ours.new_zeros(shape))], dim=axis)
    return joined


def _load(path: Path, size_px: int) -> Tensor:
    """A picture in the working square, resized as `load_shot` does. Shape: (3, s, s) in [-1, 1]."""
    image = load_image(path)[None]
    return F.interpolate(image, (size_px, size_px), mode="bilinear", antialias=True)[0].clamp(-1, 1)
