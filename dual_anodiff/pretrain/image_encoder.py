"""Stage 3: a small timm ResNet that tells parts and defects; the offline backbone of the downstream models."""

import json
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dual_anodiff.pretrain.corpus import DEFECT_NAMES, KIND_NAMES, Corpus
from dual_anodiff.pretrain.stage import HELD_OUT, Plan, contact_sheet, fit

ARCHITECTURE = "resnet10t"
MEAN = STD = (0.5, 0.5, 0.5)


class Tagger(nn.Module):
    """The encoder with three heads that training alone needs: kind, defect, and where the defect is.

    Shape: image (b, 3, h, w) in [-1, 1] → kind logits (b, k), defect logits (b, d), place logits (b, 1, h/8, w/8).
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = timm.create_model(ARCHITECTURE, num_classes=0)
        width = self.encoder.num_features
        self.kind, self.defect = nn.Linear(width, len(KIND_NAMES)), nn.Linear(width, len(DEFECT_NAMES))
        self.place = nn.Conv2d(128, 1, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        final, levels = self.encoder.forward_intermediates(image, indices=[2])
        pooled = self.encoder.forward_head(final, pre_logits=True)
        return self.kind(pooled), self.defect(pooled), self.place(levels[0])


def train_image_encoder(
    corpus: Corpus, out: Path, work: Path, plan: Plan, *, start: Path | None = None
) -> bool:
    """Train on kind, defect and place; write config.json and model.safetensors (half precision); whether it is finished.

    `start` is an image encoder's folder to go on from.
    """
    torch.manual_seed(plan.seed)
    tagger = Tagger()
    if start is not None:
        tagger.encoder.load_state_dict(load_file(start / "model.safetensors"))
    tagger = tagger.float().to(plan.device).to(memory_format=torch.channels_last)
    held_out = torch.arange(len(corpus) - HELD_OUT, len(corpus)).to(corpus.kinds.device)

    def loss(step: int) -> Tensor:
        tagger.train()
        g = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        index = torch.randint(len(corpus) - HELD_OUT, (plan.batch_size,), generator=g).to(corpus.kinds.device)
        image, mask = corpus.batch(index)
        for axis in (-1, -2):
            if torch.rand((), generator=g) < 0.5:
                image, mask = image.flip(axis), mask.flip(axis)
        image = image.contiguous(memory_format=torch.channels_last)
        with torch.autocast(plan.device, dtype=torch.bfloat16):
            kind_logits, defect_logits, place_logits = tagger(image)
        place = F.adaptive_max_pool2d(mask, place_logits.shape[-2:])
        return (
            F.cross_entropy(kind_logits.float(), corpus.kinds[index])
            + 2 * F.cross_entropy(defect_logits.float(), corpus.defects[index])
            + 4 * F.binary_cross_entropy_with_logits(place_logits.float(), place)
        )

    def show() -> None:
        """Where it sees the defects of 16 held-out pictures, below them."""
        tagger.eval()
        image, _ = corpus.batch(held_out[::32])
        with torch.no_grad():
            heat = tagger(image)[2].sigmoid().expand(-1, 3, -1, -1) * 2 - 1
        heat = F.interpolate(heat, image.shape[-2:])
        contact_sheet(torch.cat([image, heat]), work / "image_encoder.png", len(image))

    done = fit(
        "image_encoder", tagger, loss, show, work, plan, peak_rate=1.5e-3, weight_decay=5e-2, ema_decay=0.998
    )
    out.mkdir(parents=True, exist_ok=True)
    state_dict = {
        k: v.half().contiguous() if v.is_floating_point() else v
        for k, v in tagger.encoder.state_dict().items()
    }
    save_file(state_dict, out / "model.safetensors")
    config = {"architecture": ARCHITECTURE, "mean": MEAN, "std": STD}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return done
