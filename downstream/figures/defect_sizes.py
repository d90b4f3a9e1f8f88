"""How large a defect is: the share of its picture that the mask covers, in four bins."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from downstream.images import read_mask

# Upper ends of all bins but the last; 1 % of a picture is a square with a tenth of its side.
BOUNDS = (0.001, 0.01, 0.1)
SIZES = ("<0.1 %", "0.1-1 %", "1-10 %", ">10 %")


def sizes_of(mask_share: NDArray[np.floating]) -> NDArray[np.str_]:
    """Bin of each share; a share on a bound counts for the larger bin. Shape: (n,). Units: 0..1 in."""
    return np.asarray(SIZES)[np.searchsorted(BOUNDS, mask_share, side="right")]


def mask_shares(mask_paths: Sequence[str]) -> NDArray[np.float64]:
    """Share of defect pixels in each mask as it lies on disk, 0 where there is none. Shape: (n,).

    At a model's size thin defects come out larger (images.resize_mask), and another size gives another bin.
    Raises: PictureError if a mask cannot be read.
    """
    return np.array([float(read_mask(path).mean()) if path else 0.0 for path in mask_paths])
