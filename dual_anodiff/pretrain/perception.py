"""How unlike two pictures look to a network that has seen real ones. Source: LPIPS (Zhang et al. 2018, 1801.03924)."""

import timm
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dual_anodiff.image_encoder import ARCHITECTURE, imagenet_encoder

LEVELS = (0, 1, 2)  # maps with a cell of 2, 4 and 8 px: grain and edges, not what a thing is


class Perception(nn.Module):
    """Mean squared distance of unit feature vectors, over the first maps; without LPIPS' learnt weights.

    Shape: (b, 3, h, w) in [-1, 1] twice → ().
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = timm.create_model(ARCHITECTURE)
        self.encoder.load_state_dict(load_file(imagenet_encoder() / "model.safetensors"))
        self.encoder.eval().requires_grad_(False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        distances = []
        for seen, wanted in zip(self._maps(output), self._maps(target), strict=True):
            error = F.normalize(seen, dim=1) - F.normalize(wanted, dim=1)
            distances.append(error.square().sum(1).mean())
        return sum(distances[1:], start=distances[0])

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.encoder.forward_intermediates(
            images, indices=list(LEVELS), intermediates_only=True
        )
        return maps
