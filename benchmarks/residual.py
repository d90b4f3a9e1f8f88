"""Whether image and part show a defect at one place, where the truth is known: `python -m benchmarks.residual`.

Drawn demo pictures with and without their defect, and the defect's part, each through mini's VAE. By defect: the change's
IoU with the truth, the agreement of the right pair, and that of a pair whose part lies elsewhere (turned by half the
picture; left out where its mask comes within two cells of the truth). Last, the share of either that `AGREES` would keep.
"""

import argparse

import pandas as pd
import torch
from diffusers import AutoencoderTiny

from dual_anodiff.base import MINI
from dual_anodiff.demo_data import DEMO_CATEGORIES, draw_demo
from dual_anodiff.masks import fit_threshold, iou, mask_from_part
from dual_anodiff.objective import decode, encode
from dual_anodiff.refine import refine
from dual_anodiff.residual import AGREES, agree, changed
from dual_anodiff.start import widened

MIN_AREA_PX = 4


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=6, help="drawn for each defect")
    args = parser.parse_args()
    vae = AutoencoderTiny.from_pretrained(MINI / "vae").float()

    def trip(pictures: torch.Tensor) -> torch.Tensor:
        return decode(vae, encode(vae, pictures)[0])

    rows, right, wrong = [], [], []
    everywhere = torch.ones(args.pairs, 128, 128, dtype=torch.bool)
    for category, described in DEMO_CATEGORIES.items():
        for defect in described.defect_types:
            drawn = draw_demo(category, defect, args.pairs, torch.Generator().manual_seed(11))
            truth, images = drawn.mask[:, 0], trip(drawn.image)
            parts = trip(drawn.image * drawn.mask)
            threshold, _ = fit_threshold(parts, truth, MIN_AREA_PX)
            masks = refine(images, parts, mask_from_part(parts, threshold, MIN_AREA_PX), threshold)
            plain = trip(drawn.normal)
            change = changed(plain, images, plain - drawn.normal, everywhere, MIN_AREA_PX)
            good = agree(masks, change).score
            elsewhere = masks.roll((64, 64), (1, 2))
            apart = ~(elsewhere & widened(truth, 2)).flatten(1).any(1)
            bad = agree(elsewhere, change).score[apart]
            right.append(good)
            wrong.append(bad)
            rows.append(
                {
                    "defect": f"{category}/{defect}",
                    "IoU of change": float(iou(change, truth).mean()),
                    "agreement": float(good.mean()),
                    "lowest": float(good.min()),
                    "part elsewhere": float(bad.mean()) if len(bad) else float("nan"),
                }
            )
    print(pd.DataFrame(rows).round(2).to_string(index=False))
    for name, scores in (("right pairs", torch.cat(right)), ("part elsewhere", torch.cat(wrong))):
        print(f"{name}: {float((scores >= AGREES).float().mean()):.1%} of {len(scores)} kept at {AGREES}")


if __name__ == "__main__":
    main()
