"""Of which defect type a masked region looks: logistic regression on the ImageNet encoder's features of the few shots."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dual_anodiff.quality.features import Features, look
from dual_anodiff.quality.neighbours import light_changes
from dual_anodiff.quality.pairs import PairSet, flipped

FOLDS = 5
# Beyond that many shots real ones vary more than light changes do, and each view costs as much as a pair.
CHANGED_UP_TO = 16
STRENGTH = 10.0  # of the data against the prior; the features are unit vectors


def type_odds(
    looks: Tensor, shots: Mapping[str, PairSet], features: Features, flips: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-odds of each type for the regions in `looks` (`Seen.defect`), and for each shot by a model that has not seen it.

    Types in the mapping's order. Shape: (n, types), and for each type (shots, types).
    """
    names = list(shots)
    changed = sum(map(len, shots.values())) <= CHANGED_UP_TO
    views = [_views(shots[name], features, flips, changed) for name in names]  # each (views, shots, d)
    labels = torch.cat([torch.full(v.shape[:2], i).flatten() for i, v in enumerate(views)])
    folds = torch.cat([(torch.arange(v.shape[1]) % FOLDS).repeat(len(v)) for v in views])
    samples = torch.cat([v.flatten(0, 1) for v in views])
    held_out = [torch.full((v.shape[1], len(names)), torch.nan) for v in views]
    for fold in range(min(FOLDS, max(v.shape[1] for v in views))):
        seen = folds != fold
        if len(labels[seen].unique()) < len(names):
            continue  # a type of one shot has nothing left to learn from
        tested = [view[0, fold::FOLDS] for view in views]
        odds = _fit(samples[seen], labels[seen], torch.cat(tested))
        for out, part in zip(held_out, odds.split([len(t) for t in tested]), strict=True):
            out[fold::FOLDS] = part
    return _fit(samples, labels, looks), dict(zip(names, held_out, strict=True))


def _views(shots: PairSet, features: Features, flips: Sequence[str], changed: bool) -> Tensor:
    """The shots as they are, mirrored, and lightly changed. Shape: (views, shots, d)."""
    mirrored = [flipped(shots, flip) for flip in flips]
    pictures = [(each.image, each.mask) for each in mirrored]
    if changed:
        pictures += list(light_changes(shots))
    return torch.stack([look(features, image, mask).defect for image, mask in pictures])


def _fit(samples: Tensor, labels: Tensor, tested: Tensor) -> Tensor:
    """Log-odds of each label for `tested`. Shape: (k, d), (k,), (n, d) → (n, labels)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=500)
    model.fit(samples.numpy(), labels.numpy())
    chance = torch.from_numpy(model.predict_proba(tested.numpy())).clamp(1e-6, 1 - 1e-6)
    return torch.log(chance / (1 - chance)).float()
