"""Make `mini`: `python -m dual_anodiff.pretrain --work .anodiff/pretrain --out dual_anodiff/mini`.

Every stage resumes from its last checkpoint with the same command, and leaves a contact sheet in the work folder.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from dual_anodiff.pretrain.corpus import read_corpus, write_corpus
from dual_anodiff.pretrain.denoiser import train_denoiser
from dual_anodiff.pretrain.image_encoder import train_image_encoder
from dual_anodiff.pretrain.vae import encode_corpus, train_vae

STAGES = ("vae", "denoiser", "image_encoder")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dual_anodiff.pretrain", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="corpus, checkpoints, contact sheets")
    parser.add_argument("--out", type=Path, required=True, help="the base, in diffusers format")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--num-pictures", type=int, default=20_000)
    parser.add_argument("--size-px", type=int, default=128)
    parser.add_argument("--vae-steps", type=int, default=5_000)
    parser.add_argument("--vae-batch", type=int, default=16)
    parser.add_argument("--denoiser-steps", type=int, default=9_000)
    parser.add_argument("--denoiser-batch", type=int, default=16)
    parser.add_argument("--encoder-steps", type=int, default=2_000)
    parser.add_argument("--encoder-batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a = parser.parse_args()

    a.work.mkdir(parents=True, exist_ok=True)
    write_corpus(a.work / "corpus", a.num_pictures, a.size_px, a.seed)
    corpus = read_corpus(a.work / "corpus")
    if "vae" in a.stages:
        train_vae(
            corpus, a.out / "vae", a.work,
            num_steps=a.vae_steps, batch_size=a.vae_batch, device=a.device, seed=a.seed,
        )  # fmt: skip
    if "denoiser" in a.stages:
        vae = AutoencoderTiny.from_pretrained(a.out / "vae").to(a.device)
        encode_corpus(vae, corpus, a.work / "latents.npy", device=a.device)
        train_denoiser(
            corpus, a.work / "latents.npy", a.out, a.work,
            num_steps=a.denoiser_steps, batch_size=a.denoiser_batch, device=a.device, seed=a.seed,
        )  # fmt: skip
    if "image_encoder" in a.stages:
        train_image_encoder(
            corpus, a.out / "image_encoder", a.work,
            num_steps=a.encoder_steps, batch_size=a.encoder_batch, device=a.device, seed=a.seed,
        )  # fmt: skip


if __name__ == "__main__":
    main()
