"""Make the bundled base and measure it: `python -m dual_anodiff.pretrain train | decoder | adapter | evaluate --help`."""

import argparse
import shutil
import time
from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from dual_anodiff.base import MINI
from dual_anodiff.demo_data import DEMO_CATEGORIES
from dual_anodiff.pretrain.corpus import Corpus, read_corpus, write_corpus
from dual_anodiff.pretrain.denoiser import train_denoiser
from dual_anodiff.pretrain.photographs import find_photographs
from dual_anodiff.pretrain.stage import Plan
from dual_anodiff.pretrain.vae import encode_corpus, train_decoder, train_vae

STAGES = ("vae", "denoiser")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dual_anodiff.pretrain", description=__doc__)
    commands = parser.add_subparsers(required=True)
    _add_train(commands.add_parser("train", help="draw pictures and train vae and denoiser"))
    _add_decoder(
        commands.add_parser(
            "decoder", help="go on with the VAE's decoder on photographs; latents stay as they are"
        )
    )
    _add_adapter(
        commands.add_parser(
            "adapter", help="train the two-branch adapter that few-shot fine-tuning starts from"
        )
    )
    _add_evaluate(
        commands.add_parser("evaluate", help="print the figures of a base, write its picture sheets")
    )
    arguments = parser.parse_args()
    arguments.run(arguments)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.description = "Resumes from its checkpoints with the same command; contact sheets are in --work."
    parser.add_argument("--work", type=Path, required=True, help="corpus, checkpoints, contact sheets")
    parser.add_argument("--out", type=Path, required=True, help="the base, in diffusers format")
    parser.add_argument(
        "--start", type=Path, help="a base of the same architecture whose weights to go on from"
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    _add_corpus(parser)
    parser.add_argument("--vae-steps", type=int, default=5_000)
    parser.add_argument("--vae-batch", type=int, default=16)
    parser.add_argument("--denoiser-steps", type=int, default=9_000)
    parser.add_argument("--denoiser-batch", type=int, default=16)
    _add_common(parser)
    parser.set_defaults(run=_train)


def _add_decoder(parser: argparse.ArgumentParser) -> None:
    parser.description = "Resumes from its checkpoint with the same command; a contact sheet is in --work."
    parser.add_argument("--base", type=Path, default=MINI, help="whose VAE to go on from")
    parser.add_argument("--work", type=Path, required=True, help="corpus, checkpoint, contact sheet")
    parser.add_argument("--out", type=Path, required=True, help="the VAE, in diffusers format")
    _add_corpus(parser)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--batch", type=int, default=16, help="crops of 64 px")
    _add_common(parser)
    parser.set_defaults(run=_decoder)


def _decoder(a: argparse.Namespace) -> None:
    # Imported here: the image encoder needs packages that a bare training machine lacks.
    from dual_anodiff.pretrain.perception import Perception

    deadline = time.monotonic() + 60 * a.minutes
    plan = Plan(a.steps, a.batch, a.seed, a.device, deadline)
    train_decoder(_corpus(a), a.base, a.out, a.work, plan, Perception().to(a.device))


def _add_corpus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pictures", type=Path, help="openly licensed photographs, with origin.csv")
    parser.add_argument(
        "--real-share", type=float, default=0.7, help="of the corpus that are photographs, 0 to 1"
    )
    parser.add_argument("--num-pictures", type=int, default=20_000)
    parser.add_argument("--size-px", type=int, default=128)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long, resumable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def _corpus(a: argparse.Namespace) -> Corpus:
    """Drawn and photographed pictures, in `--work`; nothing is drawn twice."""
    a.work.mkdir(parents=True, exist_ok=True)
    real = None if a.pictures is None else find_photographs(a.pictures)
    write_corpus(a.work / "corpus", a.num_pictures, a.size_px, a.seed, real=real, real_share=a.real_share)
    return read_corpus(a.work / "corpus").to(a.device)


def _add_adapter(parser: argparse.ArgumentParser) -> None:
    parser.description = "Resumes from its checkpoint with the same command. For any SD 1.x/2.x base."
    parser.add_argument("--base", default="mini", help="'mini', a folder or a hub id")
    parser.add_argument("--work", type=Path, required=True, help="corpus, checkpoint")
    parser.add_argument(
        "--out", type=Path, required=True, help="the adapter; a base's own is its folder `adapter`"
    )
    _add_corpus(parser)
    parser.add_argument("--lora-rank", type=int, default=8)
    parser.add_argument("--saim-rank", type=int, default=8)
    parser.add_argument("--text-encoder-lora-rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--batch", type=int, default=8, help="pairs, two pictures each")
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    _add_common(parser)
    parser.set_defaults(run=_adapter)


def _adapter(a: argparse.Namespace) -> None:
    # Imported here: peft and pydantic are no part of a bare training machine.
    from dual_anodiff.config import AdapterConfig
    from dual_anodiff.pretrain.adapter import train_adapter

    deadline = time.monotonic() + 60 * a.minutes
    config = AdapterConfig(
        lora_rank=a.lora_rank, saim_rank=a.saim_rank, text_encoder_lora_rank=a.text_encoder_lora_rank
    )
    plan = Plan(a.steps, a.batch, a.seed, a.device, deadline)
    train_adapter(_corpus(a), a.base, a.out, a.work, plan, config, learning_rate=a.learning_rate)


def _train(a: argparse.Namespace) -> None:
    deadline = time.monotonic() + 60 * a.minutes
    corpus = _corpus(a)

    def plan(num_steps: int, batch_size: int) -> Plan:
        return Plan(num_steps, batch_size, a.seed, a.device, deadline)

    done = True
    if "vae" in a.stages:
        start = a.start / "vae" if a.start else None
        done = train_vae(corpus, a.out / "vae", a.work, plan(a.vae_steps, a.vae_batch), start=start)
    elif a.start and not (a.out / "vae").is_dir():
        shutil.copytree(a.start / "vae", a.out / "vae")  # the UNet goes on with the latents that it knows
    if "denoiser" in a.stages and done:
        vae = AutoencoderTiny.from_pretrained(a.out / "vae").to(a.device)
        latents = encode_corpus(lambda pictures: vae.encode(pictures).latents, corpus)
        denoiser_plan = plan(a.denoiser_steps, a.denoiser_batch)
        train_denoiser(corpus, latents, a.out, a.work, denoiser_plan, start=a.start)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", type=Path, default=MINI, help="the base to measure")
    parser.add_argument("--out", type=Path, default=Path(".anodiff/evaluate"), help="figures.json, sheets")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="real pictures, MVTec layout"
    )
    parser.add_argument("--categories", nargs="*", choices=DEMO_CATEGORIES, default=["tile", "nut"])
    parser.add_argument("--defects", nargs="*", help="of these categories; none given: all that they have")
    parser.add_argument("--num-samples", type=int, default=1_000, help="for the KID; 0 leaves it out")
    parser.add_argument("--num-pairs", type=int, default=64, help="of each demo defect")
    parser.add_argument("--judge-steps", type=int, default=600)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.set_defaults(run=_evaluate)


def _evaluate(a: argparse.Namespace) -> None:
    # Imported here: the judge and the metrics need packages that a bare training machine lacks.
    from dual_anodiff.pretrain.evaluate import evaluate

    evaluate(
        a.base, a.out, data=a.data, categories=a.categories, defects=a.defects, num_samples=a.num_samples,
        num_pairs=a.num_pairs, judge_steps=a.judge_steps, device=a.device,
    )  # fmt: skip


if __name__ == "__main__":
    main()
