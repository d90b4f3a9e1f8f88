"""The literature's own networks, from local files: Inception for IS, KID and FID, AlexNet or VGG for LPIPS.

They are never downloaded. What was not measured in these networks never bears their figures' names.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.errors import InputError

BATCH = 16
# What few-shot generation is measured at (Ojha et al. 2021); smaller pictures are taken as they are.
LPIPS_PX = 256
BACKBONES = {"vgg": "torchvision's VGG-16", "alex": "torchvision's AlexNet"}


@torch.no_grad()
def inception_features(images: Tensor, weights: Path) -> tuple[Tensor, Tensor]:
    """Pooled features and logits of the network that KID, FID and IS are defined in.

    Shape: (n, 3, h, w) uint8 → (n, 2048), (n, 1008). Raises: InputError if the weights can't be used.
    """
    network = load_inception(weights)
    features = torch.cat([network(part) for part in images.split(BATCH)])
    return features, features @ network.fc.weight.T  # the score's logits have no bias (Salimans et al. 2016)


def load_inception(weights: Path) -> Any:
    """Inception v3 of the TensorFlow release of 2015-12-05. Raises: InputError naming quality.inception_weights."""
    option = "quality.inception_weights"
    state = _read_state(weights, option)
    if find_spec("torch_fidelity") is None:  # torchmetrics takes the network's layers from it
        raise InputError(
            f"{option}: the network's layers are in the package torch-fidelity; install it (pip install "
            f"torch-fidelity), or leave {option} empty"
        )
    from torchmetrics.image.fid import NoTrainInceptionV3

    missing = sorted(
        {"Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight", "fc.bias"} - set(state)
    )
    if missing:
        raise InputError(
            f"{option}: {weights} has no {missing[0]}; give torch-fidelity's "
            "weights-inception-2015-12-05-6726825d.pth, other Inception weights give other figures"
        )
    try:
        return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))
    except RuntimeError as error:
        raise InputError(f"{option}: {weights} does not fit: {str(error).splitlines()[0]}") from error


class Lpips:
    """LPIPS as distances between vectors: squared Euclidean distance of two embeddings is the LPIPS of their pictures."""

    def __init__(self, net: Literal["vgg", "alex"], weights: Path) -> None:
        """Load the backbone from a file; LPIPS' own channel weights come with torchmetrics.

        Raises: InputError naming quality.lpips_weights.
        """
        # The public class would download its backbone; this one takes it from us.
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        option = "quality.lpips_weights"
        state = _read_state(weights, option)
        self.network: Any = _NoTrainLpips(net=net, pnet_rand=True)
        wanted = self.network.net.state_dict()
        # torchvision's "features.3.weight" is "slice2.3.weight" here: the same layers, cut into stages.
        given = {name: state.get(f"features.{name.partition('.')[2]}") for name in wanted}
        wrong = [name for name, value in given.items() if value is None or value.shape != wanted[name].shape]
        if wrong:
            raise InputError(
                f"{option}: {weights} has no features.{wrong[0].partition('.')[2]} of shape "
                f"{tuple(wanted[wrong[0]].shape)}; give {BACKBONES[net]}'s state dict, or change quality.lpips_net"
            )
        self.network.net.load_state_dict(given)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Shape: (n, 3, h, w) uint8 → (n, e)."""
        return torch.cat([self._embed(part) for part in images.split(BATCH)])

    def _embed(self, images: Tensor) -> Tensor:
        pictures = images.float() / 127.5 - 1
        if max(pictures.shape[-2:]) > LPIPS_PX:
            pictures = F.interpolate(pictures, (LPIPS_PX, LPIPS_PX), mode="bilinear", antialias=True)
        parts = []
        for level, head in zip(
            self.network.net(self.network.scaling_layer(pictures)), self.network.lins, strict=True
        ):
            unit = level / (level.square().sum(1, keepdim=True) + 1e-8).sqrt()
            # mean over places of Σ_c w_c (a − b)², with w_c ≥ 0 drawn into the vectors
            weight = (head.model[-1].weight.flatten() / unit[0, 0].numel()).sqrt()
            parts.append((unit * weight[:, None, None]).flatten(1))
        return torch.cat(parts, dim=1)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Shape: (n, e), (m, e) → (n, m)."""
    return (a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T).clamp_min(0)


def _read_state(path: Path, option: str) -> dict[str, Tensor]:
    """A file of tensors, as torch or safetensors write it; a pickle of anything else is not opened."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{option}: {path} can't be read ({error}); give the file of weights") from error
    except Exception as error:  # torch raises pickle, zip and runtime errors, by the file's fault
        raise InputError(
            f"{option}: {path} is no file of tensors ({str(error).splitlines()[0][:100]}); give the file of weights"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"{option}: {path} holds a {type(state).__name__}; give a state dict")
    return state
