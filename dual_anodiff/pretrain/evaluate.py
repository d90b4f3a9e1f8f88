"""The figures of a base: `python -m dual_anodiff.pretrain evaluate`. Nothing it measures on was trained on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from torch import Tensor

from dual_anodiff.base import load_base
from dual_anodiff.config import FinetuneConfig, GenerateConfig
from dual_anodiff.demo_data import DEMO_CATEGORIES, write_demo_data
from dual_anodiff.generation import generate_pairs
from dual_anodiff.images import Shot, load_image
from dual_anodiff.masks import iou
from dual_anodiff.normals import adapt
from dual_anodiff.pretrain import fidelity
from dual_anodiff.pretrain.corpus import (
    DEFECT_NAMES,
    KIND_NAMES,
    anomaly_caption,
    image_caption,
    suitable_defects,
)
from dual_anodiff.pretrain.judge import Judge, train_judge
from dual_anodiff.pretrain.stage import contact_sheet
from dual_anodiff.training import train

DEMO_PRESET = Path(__file__).parents[2] / "configs" / "demo.yaml"
FEW_SHOTS = 8
GUIDANCE = 2.5


def evaluate(
    base: Path,
    out: Path,
    *,
    data: Path,
    categories: Sequence[str],
    defects: Sequence[str] | None,
    num_samples: int,
    num_pairs: int,
    judge_steps: int,
    device: str,
) -> dict[str, Any]:
    """Measure and print everything; write figures.json and picture sheets into `out`. Returns the figures."""
    out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {}

    def tell(name: str, value: Any) -> None:
        figures[name] = value
        (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
        print(f"{name}: {json.dumps(value)}", flush=True)

    vae = AutoencoderTiny.from_pretrained(base / "vae").float().eval()
    drawn = fidelity.vae_on_drawn(vae)
    tell("vae_drawn", rounded({"psnr": drawn["psnr"].mean(), "contrast_kept": drawn["contrast_kept"].mean()}))
    tell("vae_drawn_contrast_kept", rounded(drawn["contrast_kept"].to_dict()))
    real = [folder for folder in sorted(data.glob("*")) if (folder / "ground_truth").is_dir()]
    for folder in real:
        tell(f"vae_{folder.name}", fidelity.vae_on_real(vae, folder).round(3).to_dict("index"))
        tell(f"sharpness_{folder.name}", rounded(fidelity.sharpness_kept(vae, folder)))
    if not real:
        print(f"{data}: no real pictures here, so none were measured", flush=True)

    features = fidelity.Features()
    tell("encoder_drawn", rounded(fidelity.probe_drawn(features)))
    for folder in real:
        tell(f"encoder_{folder.name}", rounded(fidelity.probe_real(features, folder)))

    if num_samples:
        pipe = load_base(StableDiffusionPipeline, str(base)).to(device)
        pipe.set_progress_bar_config(disable=True)
        for guidance in (1.0, GUIDANCE):
            guidance_sheet(pipe, out / f"guidance_{guidance:g}.png", guidance)
        kinds = range(len(KIND_NAMES))
        value = fidelity.kid_of_samples(pipe, features, kinds, count=num_samples, guidance_scale=GUIDANCE)
        tell("kid", rounded(value, 5))

    for category in categories:
        judge = train_judge(category, out / "judge", num_steps=judge_steps, device=device)
        tell(
            f"judge_{category}",
            {"held_out_iou": rounded(judge.iou), "held_out_recall": rounded(judge.recall)},
        )
        settings, normals = adapt_base(base, category, out, device=device)
        for defect in DEMO_CATEGORIES[category].defect_types:
            if defects is not None and defect not in defects:
                continue
            figure = judge_pairs(
                settings, normals, category, defect, judge, out, num_pairs=num_pairs, device=device
            )
            tell(f"pairs_{category}_{defect}", figure)
    return figures


def rounded(values: Mapping[Any, float], digits: int = 3) -> dict[str, float]:
    return {name: round(float(value), digits) for name, value in values.items()}


def guidance_sheet(pipe: Any, path: Path, guidance_scale: float) -> None:
    """Each kind with two defects, in the same noise whatever the guidance; then every defect's part alone."""
    captions = []
    for kind in range(len(KIND_NAMES)):
        suited = suitable_defects(kind)
        captions += [image_caption(kind, suited[(kind + j * 3) % len(suited)]) for j in range(2)]
    captions += [anomaly_caption(d) for d in range(1, len(DEFECT_NAMES))]
    pictures = torch.cat(list(fidelity.sample_pictures(pipe, captions, guidance_scale=guidance_scale)))
    contact_sheet(pictures, path, 10)


def adapt_base(base: Path, category: str, out: Path, *, device: str) -> tuple[FinetuneConfig, Path]:
    """Make the base familiar with a demo category's normals, with the demo's own settings; and those settings."""
    demo = yaml.safe_load(DEMO_PRESET.read_text())
    named = yaml.safe_dump(demo["finetune"]).replace("{category}", category)
    settings = FinetuneConfig(**yaml.safe_load(named), base=str(base))
    (folder,) = write_demo_data(out / "demo-data", categories=[category])
    normals = out / f"{base.name}-{category}-normals"
    normals.mkdir(parents=True, exist_ok=True)
    if not (normals / "normals.json").is_file():
        images = sorted((folder / "train" / "good").iterdir())
        adapt(images, settings, normals, device=device, checkpoint=out / f"{base.name}-{category}-normals.pt")
    return settings, normals


def judge_pairs(
    settings: FinetuneConfig,
    normals: Path,
    category: str,
    defect: str,
    judge: Judge,
    out: Path,
    *,
    num_pairs: int,
    device: str,
) -> dict[str, Any]:
    """Fine-tune on a few shots of a demo defect as the demo does, draw pairs, and let the judge speak.

    shows_defect: share of pairs that the judge gives the asked name. mask_iou: the pair's mask against the judge's
    difference image, a pair without a mask counting 0.
    """
    prompts = {
        name: getattr(settings, name).replace("{defect_type}", defect)
        for name in ("image_prompt", "anomaly_prompt")
    }
    folder = out / "demo-data" / category
    images = sorted((folder / "test" / defect).iterdir())[:FEW_SHOTS]
    shots = [Shot(i, folder / "ground_truth" / defect / f"{i.stem}_mask.png") for i in images]
    work = out / f"{Path(settings.base).name}-{category}-{defect}"
    if not (work / "adapter" / "adapter.json").is_file():
        named = settings.model_copy(update=prompts)
        train(shots, named, work / "adapter", device=device, normals=normals, checkpoint=work / "training.pt")
    preset = yaml.safe_load(DEMO_PRESET.read_text())["generate"]
    config = GenerateConfig(**preset | {"num_pairs": num_pairs})
    pairs = generate_pairs(work / "adapter", config, work / "pairs", device=device)
    pictures = torch.stack([load_image(work / "pairs" / p) for p in pairs["image_path"]])
    masks = torch.stack([_mask(work / "pairs" / p) for p in pairs["mask_path"]])
    names, found = judge.names(pictures), judge.masks(pictures)
    agreement = torch.where(masks.flatten(1).any(1), iou(masks, found), 0.0)
    parts = torch.stack([load_image(work / "pairs" / p) for p in pairs["anomaly_path"]])
    shown = [_rgb(masks), judge.difference(pictures).clamp(-1, 1), _rgb(found)]
    rows = [t[:12] for t in (pictures, parts, *shown)]
    contact_sheet(torch.cat(rows), out / f"pairs_{category}_{defect}.png", len(rows[0]))
    return {
        "shows_defect": round(names.count(defect) / len(names), 3),
        "mask_iou": round(float(agreement.mean()), 3),
        "empty_masks": int((pairs["mask_area_px"] == 0).sum()),
        "said": pd.Series(names).value_counts().to_dict(),
    }


def _mask(path: Path) -> Tensor:
    """Shape: (h, w) bool; an empty mask is a finding here, not an error."""
    return load_image(path)[0] > 0


def _rgb(masks: Tensor) -> Tensor:
    return masks.float()[:, None].expand(-1, 3, -1, -1) * 2 - 1
