"""anomalib's detectors built from our config, offline, with scores that never saturate."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from downstream.config import READ_BY, DetectConfig
from downstream.detectors.backbone import BackboneSpec, weights_from
from downstream.encoder import EncoderSpec, Weights
from downstream.errors import DownstreamError, EncoderError

# The pictures that anomalib looks for in DRAEM's folder (torchvision's list, but what torchvision then cannot read).
TEXTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def build_detector(
    config: DetectConfig, backbone: BackboneSpec | None, weights: Weights, *, folder: Path | None = None
) -> Any:
    """An AnomalibModule that maps (b, 3, s, s) in 0..1 to scores and maps in 0..1, normalisation inside.

    Random numbers from the global generators. `folder` stands in for the folders that only training reads,
    for a model whose weights are loaded afterwards. Raises: EncoderError that names the option.
    """
    from anomalib.models import Dinomaly, Draem, EfficientAd, Padim, Patchcore, Supersimplenet
    from anomalib.post_processing import PostProcessor

    post_processor = PostProcessor()
    post_processor._normalize = open_ended  # an attribute of the instance hides the static method
    common = {"post_processor": post_processor, "evaluator": False, "visualizer": False}
    spec = backbone.encoder if backbone else None
    common["pre_processor"] = _normalization(spec) if spec else False
    match config.model:
        case "draem":
            return Draem(dtd_dir=folder or _texture_folder(config), **common)
        case "efficientad":
            return EfficientAd(imagenet_dir=folder or _picture_folder(config), **common)
    assert backbone is not None  # all others stand on one
    name, layers = backbone.encoder.architecture, list(backbone.layers)
    with weights_from(backbone.encoder, weights):
        match config.model:
            case "padim":
                n_features = _n_features(config, backbone)
                return Padim(backbone=name, layers=layers, n_features=n_features, **common)
            case "patchcore":
                return Patchcore(
                    backbone=name,
                    layers=layers,
                    coreset_sampling_ratio=config.coreset_share,
                    num_neighbors=config.num_neighbors,
                    **common,
                )
            case "supersimplenet" | "supersimplenet-unsupervised":
                supervised = config.model == "supersimplenet"
                return Supersimplenet(backbone=name, layers=layers, supervised=supervised, **common)
            case "dinomaly":
                return Dinomaly(encoder_name=name, **common)


def open_ended(preds: Tensor | None, norm_min: Tensor, norm_max: Tensor, threshold: Tensor) -> Tensor | None:
    """anomalib's normalisation without its clamp: z = (x − threshold) / (max − min), then 1/2 + z / (1 + 2|z|).

    The threshold comes to lie at 1/2 with slope 1, as anomalib has it, so its decisions stay; but anomalib cuts
    off at 0 and 1, and a real defect that scores further out than the generated pairs did would tie with
    others: here no two scores become equal, however far out, and ranking metrics keep their meaning.
    """
    if preds is None:
        return None
    middle = torch.where(torch.isnan(threshold), (norm_max + norm_min) / 2, threshold)
    span = norm_max - norm_min
    z = (preds - middle) / torch.where(span == 0, torch.ones_like(span), span)
    return torch.where(torch.isnan(span), preds, 0.5 + z / (1 + 2 * z.abs()))


def load_teacher(model: Any, weights: Weights) -> None:
    """Give EfficientAD its teacher before training, instead of a download in the midst of it.

    Raises: EncoderError that names the option.
    """
    hint = "set detect.backbone_weights to a local file of it (anomalib's pretrained_teacher_small.pth)"
    if weights == "hub":
        try:
            model.prepare_pretrained_model()
        except Exception as error:  # urllib's, tarfile's and torch's own
            raise EncoderError(
                f"efficientad's pretrained teacher could not be had ({error}). Offline, {hint}."
            ) from error
    elif isinstance(weights, Path):
        try:
            model.model.teacher.load_state_dict(_read_weights(weights))
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise EncoderError(
                f"{weights}: is no teacher of EfficientAD ({str(error)[:200]}); {hint}."
            ) from error
    model.prepare_pretrained_model = lambda: None  # anomalib calls it again as training starts


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """torch's and numpy's global generators, which anomalib draws from, at `seed`; put back afterwards."""
    before = np.random.get_state()
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(before)


@contextmanager
def frugal_coreset() -> Iterator[None]:
    """While PatchCore trains, measure distances to a new centre without a copy of all patches.

    anomalib subtracts the centre from every patch, thousands of times over; with 25,600 patches (100 normals of
    128 px) its process grew past 18 GB and was killed. The distances are the same up to rounding.
    """
    from anomalib.models.components.sampling.k_center_greedy import KCenterGreedy

    def update_distances(self: Any, cluster_center: int | Tensor | None) -> None:
        if cluster_center is None:
            return
        center = self.features[cluster_center].reshape(1, -1)
        # the mode that goes without matrix products, which would copy the patches, too
        far = torch.cdist(self.features, center, compute_mode="donot_use_mm_for_euclid_dist")
        self.min_distances = far if self.min_distances is None else torch.minimum(self.min_distances, far)

    before = KCenterGreedy.update_distances
    KCenterGreedy.update_distances = update_distances
    try:
        yield
    finally:
        KCenterGreedy.update_distances = before


def needs_backbone(config: DetectConfig) -> bool:
    """EfficientAD and DRAEM have networks of their own."""
    return config.model in READ_BY["backbone"]


def _normalization(spec: EncoderSpec) -> Any:
    """anomalib's pre-processor without its resize: pictures come in at size_px."""
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Normalize

    return PreProcessor(transform=Normalize(mean=list(spec.mean), std=list(spec.std)))


def _n_features(config: DetectConfig, backbone: BackboneSpec) -> int:
    """PaDiM's channels: the paper's for its two networks, else as for the small one."""
    if config.n_features is None:
        wanted = 550 if "wide_resnet50" in backbone.encoder.architecture else 100
        return min(wanted, backbone.channels)
    if config.n_features > backbone.channels:
        raise EncoderError(
            f"detect.n_features is {config.n_features}, but {backbone.layers} of "
            f"{backbone.encoder.architecture} have {backbone.channels} channels. Lower it."
        )
    return config.n_features


def _texture_folder(config: DetectConfig) -> Path:
    """DRAEM's textures; anomalib would download them, or train without any if the folder is empty."""
    folder = config.texture_folder
    if folder is None or not any(p.suffix in TEXTURE_SUFFIXES for p in folder.rglob("*")):
        raise DownstreamError(
            f"detect.texture_folder: no {', '.join(TEXTURE_SUFFIXES)} under {folder}. DRAEM pastes textures as "
            "defects: give a folder of texture pictures (such as DTD's images)."
        )
    return folder


def _picture_folder(config: DetectConfig) -> Path:
    """EfficientAD's everyday pictures; anomalib would download Imagenette."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    folder = config.picture_folder
    classes = [p for p in folder.iterdir() if p.is_dir()] if folder is not None and folder.is_dir() else []
    empty = [p.name for p in classes if not any(f.suffix.lower() in IMG_EXTENSIONS for f in p.rglob("*"))]
    if folder is None or not classes or empty:
        raise DownstreamError(
            f"detect.picture_folder: {folder} must hold one folder of pictures for each class"
            + (f", but {empty[:3]} hold none. " if empty else ", but there is none. ")
            + "EfficientAD needs everyday pictures (such as Imagenette's train folder)."
        )
    return folder


def _read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors or a .pth that holds tensors alone."""
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded
