"""Make the bundled base and measure it: `python -m dual_anodiff.pretrain train | evaluate --help`."""

import argparse
import time
from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from dual_anodiff.base import MINI
from dual_anodiff.demo_data import DEMO_CATEGORIES
from dual_anodiff.pretrain.corpus import read_corpus, write_corpus
from dual_anodiff.pretrain.denoiser import train_denoiser
from dual_anodiff.pretrain.stage import Plan
from dual_anodiff.pretrain.vae import encode_corpus, train_vae

STAGES = ("vae", "denoiser")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dual_anodiff.pretrain", description=__doc__)
    commands = parser.add_subparsers(required=True)
    _add_train(commands.add_parser("train", help="draw pictures and train vae and denoiser"))
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
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long, resumable")
    parser.add_argument("--num-pictures", type=int, default=20_000)
    parser.add_argument("--size-px", type=int, default=128)
    parser.add_argument("--vae-steps", type=int, default=5_000)
    parser.add_argument("--vae-batch", type=int, default=16)
    parser.add_argument("--denoiser-steps", type=int, default=9_000)
    parser.add_argument("--denoiser-batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.set_defaults(run=_train)


def _train(a: argparse.Namespace) -> None:
    deadline = time.monotonic() + 60 * a.minutes
    a.work.mkdir(parents=True, exist_ok=True)
    write_corpus(a.work / "corpus", a.num_pictures, a.size_px, a.seed)
    corpus = read_corpus(a.work / "corpus").to(a.device)

    def plan(num_steps: int, batch_size: int) -> Plan:
        return Plan(num_steps, batch_size, a.seed, a.device, deadline)

    done = True
    if "vae" in a.stages:
        start = a.start / "vae" if a.start else None
        done = train_vae(corpus, a.out / "vae", a.work, plan(a.vae_steps, a.vae_batch), start=start)
    if "denoiser" in a.stages and done:
        vae = AutoencoderTiny.from_pretrained(a.out / "vae").to(a.device)
        latents = encode_corpus(vae, corpus)
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
