"""What the localization network minimises."""

from collections.abc import Callable

from torch import Tensor

from downstream.config import LocalizeConfig


def localization_loss(config: LocalizeConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """L = w_focal · focal(γ) + w_dice · dice, dice over the whole batch: normals count in it too.

    Focal (Lin et al. 2017, arXiv 1708.02002) is what the literature's protocol trains with; with defects of a
    thousandth of the picture its mean is tiny, and dice keeps their gradient alive.
    Shape: logits (b, 1, h, w), masks (b, 1, h, w) of 0 and 1 → scalar.
    """
    from segmentation_models_pytorch.losses import DiceLoss, FocalLoss

    focal = FocalLoss("binary", gamma=config.focal_gamma)
    dice = DiceLoss("binary", from_logits=True)

    def loss(logits: Tensor, masks: Tensor) -> Tensor:
        # float32 also under autocast: the log-sigmoid of a sure background pixel vanishes in bfloat16
        logits = logits.float()
        total: Tensor = config.focal_weight * focal(logits, masks) + config.dice_weight * dice(logits, masks)
        return total

    return loss
