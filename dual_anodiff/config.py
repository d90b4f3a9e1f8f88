"""Settings of fine-tuning, generation and masks. Defaults suit SD v1.5 at 512 px; `paper` and `demo` are YAML presets."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AdapterConfig(_Frozen):
    """Size of what is trained; the base stays frozen."""

    lora_rank: int = Field(
        32, ge=1, le=512, description="Rank of each branch's LoRA on attention q, k, v, out."
    )
    saim_rank: int | Literal["full"] = Field(
        32,
        description="Width of the interaction between the branches: a rank (1 to 2048), or 'full' for the paper's.",
    )
    text_encoder_lora_rank: int = Field(
        32, ge=0, le=512, description="Rank of the LoRA on the text encoder's attention; 0 leaves it frozen."
    )
    background: Literal["off", "convex", "residual"] = Field(
        "off",
        description="How a background joins branch 0's self-attention: (1-a) h + a MLP(b), a from 0, or h + g MLP(b), "
        "g from 0.1. Needs an object mask for each picture.",
    )
    background_from: Literal["noised", "clean"] = Field(
        "noised",
        description="Training sees backgrounds as noisy as the pair, as the reference, or clean, as fast sampling does.",
    )

    @field_validator("background", mode="before")
    @classmethod
    def _off_is_no_boolean(cls, value: object) -> object:
        """YAML reads an unquoted off as false."""
        return "off" if value is False else value


class NormalsConfig(_Frozen):
    """Plain LoRA training of the base on a category's normal pictures, before the few shots."""

    prompt: str = Field(
        "a vfx",
        min_length=1,
        description="Prompt of a normal picture; {category} is filled in.",
    )
    lora_rank: int = Field(
        16, ge=1, le=512, description="Rank of the LoRA on the UNet's attention, convolutions and linears."
    )
    train_steps: int = Field(300, ge=1, le=100_000, description="Optimizer steps.")
    batch_size: int = Field(8, ge=1, le=256, description="Pictures in one forward call.")
    learning_rate: float = Field(1e-4, gt=0, le=0.1, description="AdamW's learning rate, constant.")
    max_pictures: int = Field(
        200, ge=1, le=10_000, description="Normals used at most, evenly spaced over the sorted ones."
    )


class FinetuneConfig(_Frozen):
    """Few-shot training of the two branches on one defect type."""

    base: str = Field(
        "mini", description="'mini' (bundled), or a folder or hub id of an SD 1.x/2.x pipeline."
    )
    revision: str | None = Field(
        None, description="Commit of the hub id, pinned in the manifest; None for folders."
    )
    adapt_to_normals: bool | Literal["auto"] = Field(
        "auto",
        description="Train the base on the category's normals first; 'auto' does so for the base 'mini' alone.",
    )
    normals: NormalsConfig = Field(
        default_factory=NormalsConfig, description="Training of the base on normals, where that is on."
    )
    image_prompt: str = Field(
        "a vfx with sks",
        min_length=1,
        description="Prompt of the anomaly image; {category} and {defect_type} are filled in.",
    )
    anomaly_prompt: str = Field(
        "sks",
        min_length=1,
        description="Prompt of the anomaly part; {category} and {defect_type} are filled in.",
    )
    size_px: int = Field(
        512, ge=64, le=1024, multiple_of=8, description="Side of the square the model works on, px."
    )
    adapter: AdapterConfig = Field(default_factory=AdapterConfig, description="Size of what is trained.")
    initial_adapter: str = Field(
        "auto",
        min_length=1,
        description="Adapter to start from: 'fresh', a folder that `dual_anodiff.pretrain adapter` wrote, or 'auto': "
        "the base's own (its folder `adapter`) where that has the sizes set here, else fresh.",
    )
    train_steps: int = Field(2000, ge=1, le=100_000, description="Optimizer steps.")
    batch_size: int = Field(4, ge=1, le=64, description="Pairs in one forward call (two pictures each).")
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=64, description="Forward calls for one optimizer step."
    )
    gradient_checkpointing: bool = Field(False, description="Less memory for about a third more time.")
    learning_rate: float = Field(
        2e-5, gt=0, le=0.1, description="AdamW's learning rate, constant after warm-up."
    )
    warmup_steps: int = Field(0, ge=0, le=10_000, description="Optimizer steps of linear warm-up.")
    weight_decay: float = Field(1e-2, ge=0, le=1, description="AdamW's weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, le=1000, description="Gradients are clipped to this norm.")
    ema_decay: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="Decay of the moving average that is kept as the adapter; 0 keeps the last step.",
    )
    horizontal_flip: bool = Field(True, description="Mirror pictures left-right, image and mask alike.")
    vertical_flip: bool = Field(True, description="Mirror pictures up-down, image and mask alike.")
    checkpoint_every_steps: int = Field(
        250, ge=1, description="Optimizer steps between resumable checkpoints."
    )
    keep_checkpoints: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        description="Also keep the adapter as it was after these steps, for generate.adapter_step and search.",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="'auto' is bf16 on CUDA, fp32 on the CPU."
    )


def adapts_to_normals(config: FinetuneConfig) -> bool:
    """Whether the base is trained on normals first: `mini` has seen drawings alone, SD has seen the world."""
    return config.base == "mini" if config.adapt_to_normals == "auto" else config.adapt_to_normals


class MaskConfig(_Frozen):
    """From the anomaly branch's picture to a binary mask."""

    threshold: float | Literal["auto"] = Field(
        "auto",
        description="Distance from the part's background, 0 to 1, above which is defect; 'auto': fitted on the shots.",
    )
    min_area_px: int = Field(4, ge=0, le=100_000, description="Smaller specks are removed, px.")
    refine: bool = Field(
        True,
        description="Move the mask's edge by both branches' pictures: thin strokes to their width, dull ends kept.",
    )


class ObjectsConfig(_Frozen):
    """Which pixels of a picture are the object, and which its background."""

    kind: Literal["auto", "aligned", "placed", "texture"] = Field(
        "auto",
        description="'aligned': always in the same place; 'placed': anywhere; 'texture': no background, no background "
        "compensation; 'auto': found from the normals.",
    )
    masks: Path | None = Field(
        None,
        description="Folder of your own object masks, NAME.png or NAME_mask.png a picture, in sub-folders named like "
        "the pictures' where names repeat; {category} is filled in. None: found from the normals.",
    )
    max_pictures: int = Field(
        60, ge=4, le=1000, description="Normals learnt from at most, evenly spaced over the sorted ones."
    )

    @model_validator(mode="after")
    def _one_source(self) -> "ObjectsConfig":
        if self.masks is not None and self.kind != "auto":
            raise ValueError("objects: give either masks or a kind; with masks leave kind at auto")
        return self


class WhereConfig(_Frozen):
    """Where the defects are to be, and how large; off unless a region or a size is given."""

    region: tuple[float, float, float, float] | Path | None = Field(
        None,
        description="A box x0,y0,x1,y1 in shares of the picture (0 to 1) or px of the generated ones, or a mask file "
        "whose white is the region.",
    )
    size: Literal["shots"] | tuple[float, float] | None = Field(
        None,
        description="'shots': about as large as the shots' defects; or least and largest share of the picture's side "
        "for the longer side. At random places, in the region if one is given; None: the region as it is.",
    )

    @property
    def on(self) -> bool:
        """Whether anything is wished."""
        return self.region is not None or self.size is not None

    @model_validator(mode="after")
    def _possible(self) -> "WhereConfig":
        if isinstance(self.region, tuple):
            x0, y0, x1, y1 = self.region
            if not (0 <= x0 < x1 and 0 <= y0 < y1):
                raise ValueError(
                    f"region: {list(self.region)} is no box; give x0,y0,x1,y1 with 0 <= x0 < x1 and 0 <= y0 < y1"
                )
        if isinstance(self.size, tuple) and not 0 < self.size[0] <= self.size[1] <= 1:
            raise ValueError(
                f"size: {list(self.size)} is no range; give least and largest, 0 < least <= largest <= 1"
            )
        return self


Share = Annotated[float, Field(gt=0, le=1)]
# At .4 thin cracks begin to blur, at .6 the two branches disagree, on magnetic tiles with `mini`.
STRENGTH = (0.1, 0.35)


class GenerateConfig(_Frozen):
    """Sampling of image–mask pairs."""

    num_pairs: int = Field(500, ge=1, le=100_000, description="Pairs to draw for each defect type.")
    start: Literal["auto", "noise", "shot"] = Field(
        "auto",
        description="noise: whole pictures, as in the paper. shot: the shots' defects, pasted into normals and drawn anew; "
        "the normals' own pixels stay. auto: shot with the base mini, noise with others.",
    )
    strength: tuple[Share, Share] = Field(
        STRENGTH,
        description="With start: shot, the share of the denoising steps that are run, drawn for each pair between these "
        "two: the lower, the more like the shot.",
    )
    batch_size: int = Field(
        8, ge=1, le=256, description="Pairs drawn at once; does not change what is drawn."
    )
    num_inference_steps: int = Field(25, ge=1, le=1000, description="Denoising steps.")
    guidance_scale: float = Field(2.5, ge=1, le=30, description="Classifier-free guidance; 1 is none.")
    adapter_strength: float = Field(
        1.0,
        ge=0,
        le=2,
        description="Share of the adapter's LoRA that is added to the base; 1 is all, as trained.",
    )
    adapter_step: int | None = Field(
        None,
        ge=1,
        description="Take the adapter of this step, one of finetune.keep_checkpoints; None: the last.",
    )
    scheduler: Literal["dpmsolver++", "ddim", "ddpm", "euler", "unipc"] = Field(
        "dpmsolver++", description="Sampler, one of diffusers' schedulers."
    )
    background: Literal["auto", "exact", "fast"] = Field(
        "auto",
        description="Backgrounds go through the UNet noised at each step, or clean and once; 'auto': as in training.",
    )
    unguided_background: Literal["same", "grey"] = Field(
        "same",
        description="What guidance's half without prompt sees: the pair's own background, or mid-grey (the reference).",
    )
    where: WhereConfig = Field(
        default_factory=WhereConfig, description="Where the defects are to be, and how large."
    )
    mask: MaskConfig = Field(default_factory=MaskConfig, description="From anomaly part to mask.")

    @model_validator(mode="after")
    def _strength_in_order(self) -> "GenerateConfig":
        if self.strength[0] > self.strength[1]:
            raise ValueError(f"strength: {list(self.strength)} is no range; give the lower one first")
        return self


class SearchConfig(_Frozen):
    """Settings of sampling to try for each defect type, by the figures of a few pairs against the shots."""

    rounds: int = Field(
        0,
        ge=0,
        le=10,
        description="Rounds over all settings; 0 is off. A round that changes nothing is the last.",
    )
    num_pairs: int = Field(16, ge=2, le=1000, description="Pairs drawn for each candidate.")
    guidance_scale: tuple[Annotated[float, Field(ge=1, le=30)], ...] = Field(
        (2.5, 4.0, 6.0), description="Values of generate.guidance_scale to try."
    )
    num_inference_steps: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        (), description="Values of generate.num_inference_steps to try."
    )
    adapter_strength: tuple[Annotated[float, Field(ge=0, le=2)], ...] = Field(
        (0.8, 1.0, 1.2), description="Values of generate.adapter_strength to try."
    )
    adapter_step: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Values of generate.adapter_step to try, each one of finetune.keep_checkpoints."
    )


class NativeConfig(_Frozen):
    """Crops at the pictures' own resolution, for defects that vanish when the whole picture is scaled down."""

    enabled: bool | Literal["auto"] = Field(
        False,
        description="Work on crops around the defects; 'auto': for the defect types whose middle defect is smaller than "
        "a latent cell (8 px) at finetune.size_px.",
    )
    crop_px: Annotated[int, Field(ge=16)] | Literal["auto"] = Field(
        "auto", description="Side of the crops, px of the pictures; 'auto': from the shots' masks."
    )
    defect_cells: float = Field(
        4.0,
        gt=0,
        le=32,
        description="Latent cells that the middle defect spans in a crop, where that is 'auto'.",
    )
    max_enlargement: float = Field(
        2.0, ge=1, le=8, description="Crops are at most so many times smaller than finetune.size_px."
    )
    crops_per_shot: int = Field(8, ge=1, le=1000, description="Crops around the defects of each shot.")
    normal_crops: int = Field(200, ge=1, le=10_000, description="Crops of normal pictures.")
    places: Literal["shots", "anywhere"] = Field(
        "shots",
        description="Where a generated defect is put: where the shots have theirs, or anywhere on the part.",
    )


class QualityConfig(_Frozen):
    """Figures of the generated pairs. IS, KID, FID and IC-LPIPS need networks that are never downloaded."""

    inception_weights: Path | None = Field(
        None,
        description="torch-fidelity's weights-inception-2015-12-05-6726825d.pth, for IS, KID and FID; none: left out.",
    )
    lpips_weights: Path | None = Field(
        None, description="torchvision's VGG-16 or AlexNet state dict, for IC-LPIPS; none: left out."
    )
    lpips_net: Literal["vgg", "alex"] = Field(
        "vgg", description="Network of lpips_weights; few-shot generation reports 'vgg'."
    )
    max_normals: int = Field(
        100, ge=2, le=10_000, description="Normals compared with at most, evenly spaced over the sorted ones."
    )


CurateRule = Literal[
    "empty",
    "too_large",
    "masks_disagree",
    "whole_object",
    "off_object",
    "unrelated",
    "unseen",
    "damaged",
    "copy_of_shot",
    "copy_of_pair",
    "wrong_type",
]


class CurateConfig(_Frozen):
    """Which generated pairs are refused, and how many more may be drawn for those."""

    rules: tuple[CurateRule, ...] = Field(
        get_args(CurateRule),
        description="Reasons to refuse a pair; each has its threshold from the few shots and the normals, and stays out "
        "of force where they are too few or it would refuse them. Mask: empty (always refused), too_large, masks_disagree "
        "(image and part differ on where), whole_object, off_object, unrelated; picture: unseen, damaged, copy_of_shot, "
        "copy_of_pair (the last two with start: noise alone), wrong_type.",
    )
    # A mask of the whole picture is how a defect's part drawn without a background ends; it teaches nothing.
    max_mask_share: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Share of the picture that no mask may cover, however large the shots' are.",
    )
    max_draws: float = Field(
        3.0,
        ge=1,
        le=100,
        description="Pairs drawn at most until generate.num_pairs are accepted, as a multiple of that.",
    )
    use_review: bool = Field(
        True,
        description="Pairs that people accepted, rejected or painted in `anodiff review` count as they decided.",
    )

    @model_validator(mode="after")
    def _no_repetition(self) -> "CurateConfig":
        if len(set(self.rules)) < len(self.rules):
            raise ValueError("curate.rules: the same rule twice")
        return self
