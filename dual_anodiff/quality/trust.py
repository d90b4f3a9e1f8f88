"""How far a generated pair's mask can be trusted, and what is wrong with it, from the pair alone.

Cross-attention is no evidence: with it trust's rank correlation with the true IoU falls from 0.92 to 0.85 (image
branch) or 0.81 (anomaly branch), as `benchmarks.masks` prints for drawn pairs drawn back by four adapters.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dual_anodiff.masks import background, distance_from_background, iou
from dual_anodiff.refine import REACH_PX, around, colour_cells, grown, histogram, ring

# A threshold within this factor either way gives much the same mask where the part is clear.
STABLE_WITHIN = 1.5
# A defect hangs over its object's rim by as much, and object masks are no better than that.
OVERHANG = 1 / 32
# No shot's defect was so large that twice its length and breadth would be more than this.
LARGEST_SHARE = 0.6
# A mask so like the object's marks the object: of the drawn defects' masks none comes near.
OBJECT_IOU = 0.7
# Agreement × visibility. Of 144 drawn pairs none has less, of parts put to another image of the kind 76 %; of 50
# pairs of magnetic tile 10 %, whose defects hardly differ in colour, and 68 % (`benchmarks.masks`).
MIN_RELATED = 0.04
# A part that shows so much of the image outside its mask is the whole image, with a mask of some of it: where the
# image is as grey as a part's background no threshold parts the two.
MAX_SPILL = 0.5
# An object that fills the picture is no object: textures, and parts shot from near.
FILLS_PICTURE = 0.9


@dataclass(frozen=True)
class MaskEvidence:
    """What speaks for each mask. Shape: each (b,), 0 to 1.

    share: of the picture that the mask covers. agreement: how much of the image in the mask the part shows alike.
    spill: likewise outside the mask, where the part should be flat.
    stability: area at a higher threshold against that at a lower one. visibility: how far the image's colours in the
    mask differ from those around it. containment: share of the mask on the object, 1 without an object mask.
    object_iou: IoU with the object's mask, 0 without.
    """

    share: Tensor
    agreement: Tensor
    spill: Tensor
    stability: Tensor
    visibility: Tensor
    containment: Tensor
    object_iou: Tensor


def mask_evidence(
    images: Tensor, parts: Tensor, masks: Tensor, threshold: float, objects: Tensor | None = None
) -> MaskEvidence:
    """Measure pairs; all is 0 for an empty mask.

    Shape: images, parts (b, 3, h, w) in [-1, 1]; masks, objects (b, h, w) bool. Units: threshold in [0, 1], the one
    that the masks were made with.
    """
    images, parts, masks = images.float().cpu(), parts.float().cpu(), masks.cpu()
    area = masks.flatten(1).sum(1)
    # Within the defect the part is the image; the part's background would be as far from it as the image is.
    error = ((parts - images) ** 2).sum(1)
    alone = ((images - background(parts)) ** 2).sum(1)

    def shown(where: Tensor) -> Tensor:
        saved = ((alone - error) * where).flatten(1).sum(1)
        return (saved / (alone * where).flatten(1).sum(1).clamp_min(1e-6)).clamp(0, 1)

    distance = distance_from_background(parts).flatten(1)
    high = (distance > threshold * STABLE_WITHIN).sum(1)
    low = (distance > threshold / STABLE_WITHIN).sum(1)
    visibility = [_visibility(image.numpy(), mask.numpy()) for image, mask in zip(images, masks, strict=True)]
    containment, object_iou = torch.ones(len(masks)), torch.zeros(len(masks))
    if objects is not None:
        objects = objects.cpu()
        by = max(1, round(masks.shape[-1] * OVERHANG))
        wider = torch.from_numpy(np.stack([grown(o, by) for o in objects.numpy()]))
        containment = (masks & wider).flatten(1).sum(1) / area.clamp_min(1)
        is_object = objects.flatten(1).float().mean(1) < FILLS_PICTURE
        object_iou = torch.where(is_object, iou(masks, objects), 0.0)
    some = (area > 0).float()
    return MaskEvidence(
        share=area / masks[0].numel(),
        agreement=shown(masks) * some,
        spill=shown(~masks) * some,
        stability=high / low.clamp_min(1) * some,
        visibility=torch.tensor(visibility),
        containment=containment * some,
        object_iou=object_iou * some,
    )


def trust(w: MaskEvidence) -> Tensor:
    """Geometric mean of agreement and stability, times containment: one that fails fails all. Shape: (b,), 0 to 1.

    Visibility has no part in it: a right mask of a faint defect is right. What nobody can see is 'unrelated'.
    """
    return (w.agreement * w.stability).sqrt() * w.containment


def failures(w: MaskEvidence, max_share: float = LARGEST_SHARE) -> list[str]:
    """What is wrong with each mask: 'empty', 'full', 'object', 'unrelated', or '' where nothing is.

    'object': marks the object, not a defect. 'full': covers more than max_share, or the part shows as much elsewhere.
    'unrelated': the part shows another thing than the image does there, or the image shows nothing there.
    """
    rules = {
        "empty": w.share == 0,
        "object": w.object_iou > OBJECT_IOU,
        "full": (w.share > max_share) | (w.spill > MAX_SPILL),
        "unrelated": w.agreement * w.visibility < MIN_RELATED,
    }
    return [next((name for name, hit in rules.items() if hit[i]), "") for i in range(len(w.share))]


def largest_share(masks: Tensor) -> float:
    """The most that a generated mask may cover: a defect twice as long and as broad as the largest shot's.

    Shape: the few shots' masks (n, h, w), 0 or 1.
    """
    return min(LARGEST_SHARE, 4 * float(masks.float().flatten(1).mean(1).max()))


def _visibility(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """1 − Bhattacharyya coefficient of the colours inside and around; 0 without a mask or surroundings."""
    if not mask.any():
        return 0.0
    rows, columns = around(mask, REACH_PX + 1)
    inside = mask[rows, columns]
    outside = ring(inside, 2, REACH_PX)
    if not outside.any():
        return 0.0
    cells = colour_cells(image[:, rows, columns])
    return float(1 - np.sqrt(histogram(cells, inside) * histogram(cells, outside)).sum())
