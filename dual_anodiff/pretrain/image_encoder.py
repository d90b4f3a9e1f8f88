"""Stage 3: a small timm ResNet that tells parts and defects; the offline backbone of the downstream models."""

import json
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from dual_anodiff.pretrain.corpus import DEFECT_NAMES, KIND_NAMES, Corpus
from dual_anodiff.pretrain.stage import Checkpoint, Ema, Log, contact_sheet, learning_rate

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

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        final, levels = self.encoder.forward_intermediates(image, indices=[2])
        pooled = self.encoder.forward_head(final, pre_logits=True)
        return self.kind(pooled), self.defect(pooled), self.place(levels[0])


def train_image_encoder(
    corpus: Corpus, out: Path, work: Path, *, num_steps: int, batch_size: int, device: str, seed: int
) -> None:
    """Train on kind, defect and place; write config.json and model.safetensors (half precision), prints accuracy."""
    torch.manual_seed(seed)
    tagger = Tagger().to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(tagger.parameters(), lr=1e-3, weight_decay=5e-2)
    ema = Ema(tagger.parameters(), 0.998)
    checkpoint, log = Checkpoint(work / "image_encoder.pt"), Log(work / "image_encoder.jsonl")
    held_out = np.arange(len(corpus) - 512, len(corpus))
    first = 0
    if (state := checkpoint.load()) is not None:
        tagger.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.shadow = [s.to(device) for s in state["ema"]]
        first = state["step"]
    for step in range(first, num_steps):
        rng = np.random.default_rng((seed, 3, step))
        index = np.sort(rng.choice(len(corpus) - 512, batch_size, replace=False))
        image, mask = corpus.batch(index)
        if rng.random() < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        if rng.random() < 0.5:
            image, mask = image.flip(-2), mask.flip(-2)
        image = image.to(device, memory_format=torch.channels_last)
        kind = torch.from_numpy(corpus.kinds[index]).to(device)
        defect = torch.from_numpy(corpus.defects[index]).to(device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps, 1.5e-3)
        with torch.autocast(device, dtype=torch.bfloat16):
            kind_logits, defect_logits, place_logits = tagger(image)
        place = F.adaptive_max_pool2d(mask.to(device), place_logits.shape[-2:])
        loss = (
            F.cross_entropy(kind_logits.float(), kind)
            + 2 * F.cross_entropy(defect_logits.float(), defect)
            + 4 * F.binary_cross_entropy_with_logits(place_logits.float(), place)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(step)
        log.step(step, loss)
        if checkpoint.due() or step + 1 == num_steps:
            checkpoint.save({
                "model": tagger.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema.shadow, "step": step + 1,
            })  # fmt: skip
    ema.copy_to_model()
    tagger.eval()
    with torch.no_grad():
        image, _ = corpus.batch(held_out)
        kind_logits, defect_logits, _ = tagger(image.to(device))
        accuracy = {
            "held_out_kind_accuracy": float(
                (kind_logits.argmax(1).cpu().numpy() == corpus.kinds[held_out]).mean()
            ),
            "held_out_defect_accuracy": float(
                (defect_logits.argmax(1).cpu().numpy() == corpus.defects[held_out]).mean()
            ),
        }
        # Where it sees the defects of 16 held-out pictures, below them.
        shown, _ = corpus.batch(held_out[::32])
        heat = tagger(shown.to(device))[2].sigmoid().cpu().expand(-1, 3, -1, -1) * 2 - 1
        heat = F.interpolate(heat, shown.shape[-2:])
        contact_sheet(torch.cat([shown, heat]), work / "image_encoder.png", len(shown))
    print(accuracy, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    state_dict = {
        k: v.half().contiguous() if v.is_floating_point() else v
        for k, v in tagger.encoder.state_dict().items()
    }
    save_file(state_dict, out / "model.safetensors")
    config = {"architecture": ARCHITECTURE, "mean": MEAN, "std": STD}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
