"""What the adapter that fine-tuning starts from is worth: `python -m benchmarks.initial_adapter CATEGORY_FOLDER`.

For each defect type a fresh adapter and one that was trained before (`--given`) are fine-tuned on the same shots. After
some steps, on defects of the test side that neither saw: losses, coupling (what each branch's loss gains from its own
partner over another's), whole pictures from noise without a mask, and how well masks of pairs drawn into normals agree
with what changed.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from diffusers import DDPMScheduler
from PIL import Image

from dual_anodiff.config import FinetuneConfig, GenerateConfig, NativeConfig
from dual_anodiff.coupling import coupling
from dual_anodiff.crops.native import crop_side_px
from dual_anodiff.generation import generate_pairs
from dual_anodiff.images import Shot, load_shot
from dual_anodiff.objective import encode, encode_prompts
from dual_anodiff.pipeline import DualAnoDiffPipeline
from dual_anodiff.training import train
from tasks.config import load_config
from tasks.data.samples import read_dataset
from tasks.data.small_defects import read_extents
from tasks.data.split import SplitConfig, split_samples
from tasks.stages.adapt import build_adapt
from tasks.stages.crop_blend import build_crop
from tasks.stages.finetune import name_prompts
from tasks.stages.redraw import build_redraw

UNTRAINED = 1e-12  # a learning rate at which a step changes nothing


def side_of(samples: pd.DataFrame, defect: str, size_px: int) -> int:
    """Side of the crops, px, by the shots."""
    shots = samples[(samples["split"] == "train") & (samples["label"] == defect)]
    found = [read_extents(Path(path), size_px) for path in shots["mask_path"]]
    extents = [extent for some, _ in found for extent in some]
    return crop_side_px(extents, int(np.median([short for _, short in found])), size_px, NativeConfig())


def crops_of(
    samples: pd.DataFrame, defect: str, side_px: int, size_px: int, out: Path, *, split: str
) -> pd.DataFrame:
    """Crops of the defects of one side of the split, each picture as often as in a run; of held-out ones, once."""
    own = samples[(samples["label"] == defect) & (samples["split"] == split)].assign(split="train")
    config = NativeConfig() if split == "train" else NativeConfig(crops_per_shot=1)
    fitting = build_crop(own, defect, config, out, side_px=side_px, size_px=size_px)
    return fitting


def measure(
    samples: pd.DataFrame, defect: str, config: FinetuneConfig, generate: GenerateConfig, steps: Sequence[int],
    normals: Path, side_px: int, scratch: Path, sheets: Path, given: Path,
) -> Iterator[dict[str, object]]:  # fmt: skip
    """A row for each start and number of steps."""
    shots = crops_of(samples, defect, side_px, config.size_px, scratch / "shots", split="train")
    unseen = crops_of(samples, defect, side_px, config.size_px, scratch / "unseen", split="test")
    named = name_prompts(config, str(samples["category"].iloc[0]), defect)
    files = [Shot(Path(i), Path(m)) for i, m in zip(shots["image_path"], shots["mask_path"], strict=True)]
    held = [
        load_shot(Shot(Path(i), Path(m)), config.size_px)
        for i, m in zip(unseen["image_path"], unseen["mask_path"], strict=True)
    ]
    images, masks = torch.stack([i for i, _ in held]), torch.stack([m for _, m in held])
    for start, initial in (("fresh", "fresh"), ("given", str(given))):
        adapters = {0: scratch / f"{start}-0", steps[-1]: scratch / f"{start}"}
        for total, out in adapters.items():
            update = {"initial_adapter": initial, "train_steps": total or 1, "keep_checkpoints": steps[:-1]}
            update |= {} if total else {"learning_rate": UNTRAINED, "keep_checkpoints": ()}
            train(files, named.model_copy(update=update), out, normals=normals, progress=False)
        for step in (0, *steps):
            adapter = adapters[0] if step == 0 else adapters[steps[-1]]
            kept = step if step in steps[:-1] else None
            pipe = DualAnoDiffPipeline.from_adapter(adapter, step=kept)
            with torch.no_grad():
                latents = torch.stack([encode(pipe.vae, images)[0], encode(pipe.vae, images * masks)[0]], 1)
                scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
                prompts = [named.image_prompt, named.anomaly_prompt]
                text = encode_prompts(pipe.tokenizer, pipe.text_encoder, prompts)
            row: dict[str, object] = {"defect": defect, "start": start, "steps": step}
            row |= asdict(coupling(pipe.unet, scheduler, latents, text))
            drawn = generate.model_copy(update={"adapter_step": kept})
            folder = scratch / f"{start}-{step}"
            from_noise = generate_pairs(adapter, drawn, folder / "noise", progress=False)
            row["empty"] = float((from_noise["mask_area_px"] == 0).mean())
            for strength in (0.2, 0.5):
                place = folder / str(strength)
                own = drawn.model_copy(update={"strength": (strength, strength)})
                table = build_redraw(samples, defect, adapter, own, place, side_px=side_px)
                row[f"agreement at {strength}"] = float(table["mask_agreement"].mean())
            _sheet(folder / "noise", sheets / f"{defect}-{start}-{step}-noise.png")
            print(row, flush=True)
            yield row


def _sheet(pairs: Path, out: Path) -> None:
    """Images over anomaly parts."""
    files = [sorted((pairs / name).glob("*.png")) for name in ("image", "anomaly", "mask")]
    rows = [np.concatenate([np.asarray(Image.open(f).convert("RGB")) for f in some], 1) for some in files]
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(out)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("category", type=Path, metavar="CATEGORY_FOLDER")
    parser.add_argument(
        "--given",
        type=Path,
        required=True,
        help="folder that `python -m dual_anodiff.pretrain adapter` wrote",
    )
    parser.add_argument("--defects", nargs="+", required=True)
    parser.add_argument("--shots", type=int, default=5, help="of each defect type")
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 150, 300])
    parser.add_argument("--pairs", type=int, default=16, help="drawn each way")
    parser.add_argument("--out", type=Path, default=Path(".anodiff/initial_adapter"), help="sheets, rows.csv")
    args = parser.parse_args(arguments)
    run = load_config("cpu", data=args.category.parent)
    generate = run.generate.model_copy(update={"num_pairs": args.pairs})
    samples = split_samples(read_dataset(args.category), SplitConfig(shots=args.shots))
    rows: list[dict[str, object]] = []
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        for defect in args.defects:
            side_px = side_of(samples, defect, run.finetune.size_px)
            normals = scratch / f"normals-{side_px}"
            if not normals.is_dir():
                good = build_crop(
                    samples[samples["split"] == "train"], None, NativeConfig(), scratch / f"good-{side_px}",
                    side_px=side_px, size_px=run.finetune.size_px,
                )  # fmt: skip
                build_adapt(good, run.finetune, normals)
            rows += measure(
                samples, defect, run.finetune, generate, sorted(args.steps), normals, side_px,
                scratch / defect, args.out, args.given,
            )  # fmt: skip
    table = pd.DataFrame(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "rows.csv", index=False)
    print(table.round(4).to_string(index=False))
    print(table.groupby(["start", "steps"]).mean(numeric_only=True).round(4).to_string())


if __name__ == "__main__":
    main()
