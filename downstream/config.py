"""What a user can set for the localization model: names, units, bounds, defaults."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Encoder depth is 5 everywhere: the deepest feature map is 1/32 of the picture.
DEPTH = 5


class AugmentConfig(BaseModel):
    """Random changes of a training picture; geometry is applied to image and mask alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    horizontal_flip: bool = Field(True, description="Mirror left-right in half of the draws.")
    vertical_flip: bool = Field(True, description="Mirror top-bottom in half of the draws.")
    rotate90: bool = Field(True, description="Rotate by 0, 90, 180 or 270 degrees, all equally likely.")
    brightness: float = Field(
        0.2, ge=0, le=0.9, description="Brightness factor is drawn from 1 ± this. 0 switches it off."
    )


class LocalizeConfig(BaseModel):
    """U-Net localization: network, training and selection."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str = Field(
        "bundled",
        min_length=1,
        description='"bundled" (comes with anodiff), a folder in its format, or a timm model name.',
    )
    encoder_weights: Literal["hub", "random"] | Path = Field(
        "hub",
        description='Weights for a timm name: "hub" (pretrained), "random", or a local safetensors file.',
    )
    decoder_channels: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = Field(
        (128, 64, 32, 16, 16),
        min_length=DEPTH,
        max_length=DEPTH,
        description="Channels of the five decoder blocks, deepest first.",
    )
    size_px: int = Field(
        256,
        ge=32,
        le=2048,
        multiple_of=32,
        description="Side of the square that pictures are resized to, pixels.",
    )
    train_steps: int = Field(
        2000, ge=1, le=1_000_000, description="Optimiser steps; the same for every training set."
    )
    batch_size: int = Field(8, ge=2, le=512, description="Pictures per step.")
    normal_share: float = Field(0.5, ge=0, lt=1, description="Share of normal pictures in each batch.")
    real_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of real defects among the anomalous pictures drawn, where a set has both kinds.",
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="AdamW learning rate at its peak.")
    warmup_share: float = Field(
        0.05, ge=0, le=0.5, description="Share of the steps with linear warm-up; then cosine to 0."
    )
    weight_decay: float = Field(1e-2, ge=0, le=1, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    # Its mean over all pixels is small beside dice.
    # Chosen on real tiles with test figures in view: to be chosen anew on validation (docs/decisions.md).
    focal_weight: float = Field(10.0, ge=0, description="Weight of the focal loss.")
    focal_gamma: float = Field(2.0, ge=0, le=10, description="Focusing exponent of the focal loss.")
    dice_weight: float = Field(1.0, ge=0, description="Weight of the dice loss.")
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Evaluate and keep an exponential average of the weights. None: the raw weights.",
    )
    evaluate_every_steps: int = Field(100, ge=1, description="Steps between two looks at the validation set.")
    select: Literal["validation", "last"] = Field(
        "validation", description="Keep the checkpoint with the best validation pixel AP, or the last one."
    )
    augment: AugmentConfig = Field(
        default_factory=AugmentConfig, description="Random changes of training pictures."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="bf16: autocast in bfloat16. auto: bf16 on CUDA, fp32 elsewhere."
    )

    @model_validator(mode="after")
    def _some_loss(self) -> "LocalizeConfig":
        if self.focal_weight == 0 and self.dice_weight == 0:
            raise ValueError("focal_weight and dice_weight are both 0: set at least one above 0")
        return self
