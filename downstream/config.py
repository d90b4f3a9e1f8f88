"""What a user can set for the localization, classification and detection models: names, units, bounds, defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

# Encoder depth is 5 everywhere: the deepest feature map is 1/32 of the picture.
DEPTH = 5
# Changes that a category may not bear, so that the normals are asked.
FOUND = ("horizontal_flip", "vertical_flip", "rotate90", "rotation")


def _still_known(encoder: str) -> str:
    if encoder == "bundled":
        raise ValueError('"bundled" is gone: write imagenet, the encoder that is installed with anodiff now')
    return encoder


EncoderName = Annotated[str, AfterValidator(_still_known)]
StepCount = Annotated[int, Field(ge=1, le=1_000_000)]
TrainSteps = Literal["auto"] | StepCount
StepBounds = tuple[StepCount, StepCount]  # fewest, most


class AugmentConfig(BaseModel):
    """Random changes of a training picture; geometry is applied to image and mask alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    horizontal_flip: bool | Literal["auto"] = Field(
        "auto",
        description="Mirror left-right in half of the draws. auto: where the category's normals stay normal by it; "
        "off where no run looks at them.",
    )
    vertical_flip: bool | Literal["auto"] = Field(
        "auto", description="Mirror top-bottom in half of the draws. auto: as above."
    )
    rotate90: bool | Literal["auto"] = Field(
        "auto", description="Rotate by 0, 90, 180 or 270 degrees, all equally likely. auto: as above."
    )
    rotation: Annotated[float, Field(ge=0, le=180)] | Literal["auto"] = Field(
        "auto",
        description="Rotate by up to this many degrees either way. auto: 5, 15 or 180, as the normals bear it; "
        "0 where no run looks at them.",
    )
    probability: float = Field(
        0.5,
        ge=0,
        le=1,
        description="How likely each change below, and rotation, is made to a picture; each is drawn for itself.",
    )
    scale: float = Field(
        0.1, ge=0, le=0.25, description="Enlarge or shrink by a factor of up to 1 + this. 0 switches it off."
    )
    # No further: a classifier's picture of a defect has to show it.
    shift: float = Field(
        0.05, ge=0, le=0.1, description="Move by up to this share of the side, each way. 0 switches it off."
    )
    perspective: float = Field(
        0.03,
        ge=0,
        le=0.1,
        description="Move each corner by up to this share of the side, as a camera held aslant does. 0: off.",
    )
    brightness: float = Field(
        0.2, ge=0, le=0.9, description="Brightness factor is drawn from 1 ± this. 0 switches it off."
    )
    contrast: float = Field(
        0.2, ge=0, le=0.9, description="Contrast factor is drawn from 1 ± this. 0 switches it off."
    )
    gamma: float = Field(
        0.2, ge=0, le=2, description="Gamma is drawn between 1 / (1 + this) and 1 + this. 0 switches it off."
    )
    blur: float = Field(
        0.5, ge=0, le=5, description="Largest sigma of a Gaussian blur, pixels of size_px. 0 switches it off."
    )
    noise: float = Field(
        0.02,
        ge=0,
        le=0.5,
        description="Largest standard deviation of Gaussian noise, as a share of white. 0 switches it off.",
    )

    @property
    def asks_normals(self) -> bool:
        """Whether an option is "auto"."""
        return any(getattr(self, name) == "auto" for name in FOUND)

    def settled(self, found: Mapping[str, Any]) -> "AugmentConfig":
        """What is "auto" replaced by what was found of the normals; what was not is off."""
        auto = [name for name in FOUND if getattr(self, name) == "auto"]
        return self.model_copy(
            update={name: found.get(name, 0.0 if name == "rotation" else False) for name in auto}
        )


class TrainConfig(BaseModel):
    """Network, training and selection, as far as localization and classification share them.

    Steps and augmentation are the same for every training set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    section: ClassVar[str]  # where errors say that an option stands

    encoder: EncoderName = Field(
        "imagenet",
        min_length=1,
        description='"imagenet" (EfficientNet-Lite0, installed with anodiff), an encoder folder, or a timm name such as '
        "resnet34.",
    )
    encoder_weights: Literal["hub", "random"] | Path = Field(
        "hub",
        description='Weights for a timm name: "hub" (pretrained), "random", or a local safetensors file.',
    )
    size_px: int = Field(
        256,
        ge=32,
        le=2048,
        multiple_of=32,
        description="Side of the square that pictures are resized to, pixels.",
    )
    train_steps: TrainSteps = Field(
        2000,
        description='Optimiser steps. A number is the same for every training set; "auto" is chosen for each training set '
        "within auto_steps, by shots held out in turn.",
    )
    auto_steps: StepBounds = Field(
        (100, 3200), description='Fewest and most steps that train_steps "auto" may choose.'
    )
    batch_size: int = Field(8, ge=2, le=512, description="Pictures per step.")
    real_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of real defects among the defects drawn, where a set has both kinds.",
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="AdamW learning rate at its peak.")
    warmup_steps: int = Field(
        20,
        ge=0,
        le=100_000,
        description="Steps in which the learning rate rises to its peak, where it stays.",
    )
    weight_decay: float = Field(1e-2, ge=0, le=1, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    average_weights: bool = Field(
        True,
        description="Evaluate and keep an average of the weights over about the last tenth of the steps, which settles "
        "them as a falling learning rate would. false: the raw weights.",
    )
    evaluate_every_steps: int = Field(100, ge=1, description="Steps between two looks at the validation set.")
    select: Literal["validation", "last"] = Field(
        "last",
        description="Keep the last weights (favours no training set), or those that score best on the "
        "validation set: by pixel AP, or balanced accuracy of a classifier.",
    )
    augment: AugmentConfig = Field(
        default_factory=AugmentConfig, description="Random changes of training pictures."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="bf16: autocast in bfloat16. auto: bf16 on CUDA, fp32 elsewhere."
    )

    def fixed_steps(self) -> int:
        """train_steps as a number. Raises: ValueError where it is still to be chosen."""
        return _fixed(self)

    @model_validator(mode="after")
    def _steps_in_order(self) -> "TrainConfig":
        _in_order(self)
        return self


class LocalizeConfig(TrainConfig):
    """U-Net localization."""

    section: ClassVar[str] = "localize"

    decoder_channels: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = Field(
        (128, 64, 32, 16, 16),
        min_length=DEPTH,
        max_length=DEPTH,
        description="Channels of the five decoder blocks, deepest first.",
    )
    normal_share: float = Field(0.5, ge=0, lt=1, description="Share of normal pictures in each batch.")
    # Its mean over all pixels is small beside dice. Compared with others on held-out shots: benchmarks.objective.
    focal_weight: float = Field(10.0, ge=0, description="Weight of the focal loss.")
    focal_gamma: float = Field(2.0, ge=0, le=10, description="Focusing exponent of the focal loss.")
    dice_weight: float = Field(1.0, ge=0, description="Weight of the dice loss.")

    @model_validator(mode="after")
    def _some_loss(self) -> "LocalizeConfig":
        if self.focal_weight == 0 and self.dice_weight == 0:
            raise ValueError("focal_weight and dice_weight are both 0: set at least one above 0")
        return self


class ClassifyConfig(TrainConfig):
    """Classification of the defect type, `good` among them; the classes take equal turns."""

    section: ClassVar[str] = "classify"

    train_steps: TrainSteps = Field(
        1000,
        description='Optimiser steps. A number is the same for every training set; "auto" is chosen for each training set '
        "within auto_steps, by shots held out in turn.",
    )
    batch_size: int = Field(16, ge=2, le=512, description="Pictures per step, as many of each class.")
    learning_rate: float = Field(3e-4, gt=0, le=1, description="AdamW learning rate at its peak.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target spread over all classes."
    )


DetectorName = Literal[
    "padim",
    "patchcore",
    "supersimplenet",
    "supersimplenet-unsupervised",
    "efficientad",
    "draem",
    "dinomaly",
]


def learns_from_defects(model: DetectorName) -> bool:
    """Whether the defect pictures of a training set change this detector's weights.

    True of supervised SuperSimpleNet alone. The others see the normals only, so their weights are the same
    for every training set, and so are their thresholds, as all training sets share one validation set: train
    them once.
    """
    return model == "supersimplenet"


# Options that not every detector reads, and those that do.
READ_BY: dict[str, tuple[DetectorName, ...]] = {
    "backbone": ("padim", "patchcore", "supersimplenet", "supersimplenet-unsupervised", "dinomaly"),
    "layers": ("padim", "patchcore", "supersimplenet", "supersimplenet-unsupervised"),
    "train_steps": ("supersimplenet", "supersimplenet-unsupervised", "efficientad", "draem", "dinomaly"),
    "normal_share": ("supersimplenet", "supersimplenet-unsupervised"),
    "real_share": ("supersimplenet",),
    "n_features": ("padim",),
    "coreset_share": ("patchcore",),
    "num_neighbors": ("patchcore",),
    "texture_folder": ("draem",),
    "picture_folder": ("efficientad",),
}


class DetectConfig(BaseModel):
    """An anomalib detector: which one, on which backbone, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    section: ClassVar[str] = "detect"

    model: DetectorName = Field("patchcore", description="anomalib's detector.")
    backbone: EncoderName = Field(
        "imagenet",
        min_length=1,
        description='"imagenet" (EfficientNet-Lite0, installed with anodiff), an encoder folder, or a timm model name. '
        "EfficientAD and DRAEM have networks of their own and read it not.",
    )
    backbone_weights: Literal["hub", "random"] | Path = Field(
        "hub",
        description='Weights for a timm name: "hub" (pretrained), "random", or a local safetensors file. '
        "For EfficientAD its teacher: hub (anomalib's download), random, or a local .pth or safetensors file.",
    )
    layers: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Feature maps by timm's names, finest first. None: those of stride 4, 8, 16 for PaDiM and "
        "8, 16 for PatchCore and SuperSimpleNet, as in their papers (layer1 to layer3 of a ResNet).",
    )
    size_px: int = Field(
        256, ge=32, le=2048, description="Side of the square that pictures are resized to, pixels."
    )
    train_steps: TrainSteps = Field(
        2000,
        description='Optimiser steps; "auto" as for localization, for supersimplenet alone. PaDiM and PatchCore read each '
        "normal once instead.",
    )
    auto_steps: StepBounds = Field(
        (100, 3200), description='Fewest and most steps that train_steps "auto" may choose.'
    )
    batch_size: int = Field(8, ge=2, le=512, description="Pictures per step. EfficientAD always takes one.")
    normal_share: float = Field(
        0.5, ge=0, lt=1, description="Share of normal pictures in each batch of supervised SuperSimpleNet."
    )
    real_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of real defects among its anomalous pictures, where a set has both kinds.",
    )
    n_features: int | None = Field(
        None,
        ge=1,
        description="Channels that PaDiM keeps at random. None: 550 for wide_resnet50_2, else 100, or all if fewer.",
    )
    coreset_share: float = Field(
        0.1, gt=0, le=1, description="Share of the normal patches that PatchCore keeps in memory."
    )
    num_neighbors: int = Field(9, ge=1, description="Neighbours that weigh PatchCore's image score.")
    texture_folder: Path | None = Field(
        None, description="Pictures of textures (such as DTD) that DRAEM pastes as defects. Needed for draem."
    )
    picture_folder: Path | None = Field(
        None,
        description="Everyday pictures in folders by class (such as Imagenette's train folder) on which "
        "EfficientAD's student must not follow its teacher. Needed for efficientad.",
    )

    @model_validator(mode="after")
    def _model_has_what_it_needs(self) -> "DetectConfig":
        _in_order(self)
        match self.model:
            case model if self.train_steps == "auto" and not learns_from_defects(model):
                raise ValueError(
                    f"train_steps auto: {model} learns from normals alone, shots held out say nothing of it; give a number"
                )
            case "draem" if self.texture_folder is None:
                raise ValueError(
                    "draem needs texture_folder: a folder of texture pictures (such as DTD's images)"
                )
            case "draem" if self.size_px % 32:
                raise ValueError(
                    f"draem halves pictures five times: size_px {self.size_px} is no multiple of 32"
                )
            case "efficientad" if self.picture_folder is None:
                raise ValueError(
                    "efficientad needs picture_folder: everyday pictures in folders by class (such as Imagenette)"
                )
            case "efficientad" if self.size_px < 256:
                raise ValueError(
                    f"efficientad's autoencoder needs size_px of at least 256, not {self.size_px}"
                )
            case "dinomaly" if self.backbone == "imagenet":
                raise ValueError(
                    "dinomaly needs a DINOv2 transformer: set backbone (such as vit_small_patch14_reg4_dinov2) "
                    "and backbone_weights (a local safetensors file of it, or hub)"
                )
        return self

    def fixed_steps(self) -> int:
        """train_steps as a number. Raises: ValueError where it is still to be chosen."""
        return _fixed(self)

    def as_read(self) -> "DetectConfig":
        """What its model does not read at the defaults: two configs that train the same are the same."""
        unread = [name for name, models in READ_BY.items() if self.model not in models]
        return self.model_copy(update={name: type(self).model_fields[name].default for name in unread})


def _fixed(config: TrainConfig | DetectConfig) -> int:
    if config.train_steps == "auto":
        raise ValueError(
            f"{config.section}.train_steps is auto: choose a number first, by downstream.training_curve.best_steps"
        )
    return config.train_steps


def _in_order(config: TrainConfig | DetectConfig) -> None:
    fewest, most = config.auto_steps
    if fewest > most:
        raise ValueError(f"auto_steps: {fewest} to {most}; give the fewest steps first, then the most")
