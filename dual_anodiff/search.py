"""Which settings of sampling suit an adapter: a few rounds, one setting after the other, the best so far kept.

What scores is drawn pairs' figures against the few shots (`quality`), never a test picture, and every candidate draws the
same seeds. Of several figures none is the truth, and their units differ: candidates are ranked on each, and the best mean
rank over all wins; of equals the one that was measured first, so the settings as given.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from torch import Tensor

from dual_anodiff.config import GenerateConfig, SearchConfig
from dual_anodiff.generation import generate_pairs
from dual_anodiff.images import Background
from dual_anodiff.quality.features import Features
from dual_anodiff.quality.figures import quality
from dual_anodiff.quality.pairs import PairSet, load_pairs

SETTINGS = ("guidance_scale", "num_inference_steps", "adapter_strength", "adapter_step")
# What is ranked, and whether more is better. aligned: mask_alignment, an empty mask's being 0.
FIGURES = {"kid_encoder": False, "coverage": True, "aligned": True, "near_copies": False}
# No run draws so many pairs: what is chosen by must not be handed out.
FIRST = 500_000

Settings = dict[str, float | int | None]


def search(
    adapter: Path,  # folder of a finished fine-tuning
    config: GenerateConfig,  # settings to begin with
    asked: SearchConfig,  # values to try, rounds, pairs a candidate
    shots: PairSet,  # to measure against
    normals: Tensor,  # (k, 3, h, w) uint8, of the shots' size
    *,
    device: str = "cpu",
    seed: int = 0,
    backgrounds: Sequence[Background] = (),  # to choose from; none for an adapter without
    flips: Sequence[str] = ("",),  # ways in which the generator saw the shots; "" as they are
) -> pd.DataFrame:
    """Draw and measure candidates. Columns: the SETTINGS, the FIGURES, mean_rank, chosen; one row each, as measured.

    Raises: AdapterError, BaseModelError; InputError for an empty
    set of shots or normals.
    """
    features = Features()
    best: Settings = {name: getattr(config, name) for name in SETTINGS}
    measured: dict[tuple[float | int | None, ...], dict[str, float]] = {}

    def measure(settings: Settings) -> None:
        if tuple(settings.values()) in measured:
            return
        drawn = config.model_copy(update=settings | {"num_pairs": asked.num_pairs})
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            table = generate_pairs(
                adapter, drawn, out, device=device, seed=seed, first=FIRST, backgrounds=backgrounds,
            )  # fmt: skip
            images, masks, parts = (
                [out / path for path in table[f"{kind}_path"]] for kind in ("image", "mask", "anomaly")
            )
            pairs = load_pairs(images, masks, parts, shots.image.shape[-1])
        figures = quality(pairs, shots, normals, features=features, flips=flips).figures
        value = figures.set_index("metric")["value"]
        value["aligned"] = (1 - value["mask_empty"]) * value["mask_alignment"]
        value = value.fillna(0.0)  # of pairs without any mask
        measured[tuple(settings.values())] = {name: float(value[name]) for name in FIGURES}

    measure(best)
    for _ in range(asked.rounds):
        before = best
        for name in SETTINGS:
            for value in getattr(asked, name):
                measure(best | {name: value})
            found = int(mean_ranks(list(measured.values())).to_numpy().argmin())
            best = dict(zip(SETTINGS, list(measured)[found], strict=True))
        if best == before:
            break  # another round would measure the same
    table = pd.DataFrame(list(measured), columns=list(SETTINGS)).astype({"adapter_step": "Int64"})
    figures = pd.DataFrame(list(measured.values()))
    ranks = mean_ranks(list(measured.values()))
    return pd.concat([table, figures], axis=1).assign(
        mean_rank=ranks, chosen=[row == tuple(best.values()) for row in measured]
    )


def mean_ranks(figures: Sequence[dict[str, float]]) -> pd.Series:
    """Each candidate's mean rank over the FIGURES, 1 the best."""
    table = pd.DataFrame(figures)
    ranks = [table[name].rank(ascending=not more) for name, more in FIGURES.items()]
    return pd.concat(ranks, axis=1).mean(axis=1)
