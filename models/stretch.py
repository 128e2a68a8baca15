"""Each image from its own black to its own white, before the network sees a tile or a crop of it.

Usual in microscopy, where exposure is up to who took the image (Stringer et al. 2021, "Cellpose", Nature
Methods 18, Methods: the 1st and 99th percentile become 0 and 1). Training and prediction share it. Knows no
torch: workers that only decode and crop do without it.

Shape suffixes: H, W height and width in pixels; C channels.
"""

from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

LEAST_RANGE = 16  # grey levels that it sets out from: what spans fewer is noise, and stays dim
SAMPLED_PIXELS = 1 << 20  # of a larger image every second, third, … row and column decides its range


def are_percentiles(value: object) -> bool:
    """Return whether these are two percentiles, 0 to 100, the lower first."""
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in value):
        return False
    return bool(0 <= value[0] < value[1] <= 100)


def stretch(image_HWC: NDArray[np.uint8], percentiles: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Return the image with these percentiles of its pixels at 0 and 255, all channels by one rule.

    Same shape, uint8; the image itself if `percentiles` is None. Grey stays grey, an alpha channel (the
    fourth of four) is left alone. An image of fewer than 16 grey levels is not enlarged to full range.
    """
    if percentiles is None or not image_HWC.size:
        return image_HWC
    colours = image_HWC[..., :3] if image_HWC.shape[2] == 4 else image_HWC
    step = ceil(sqrt(colours[..., 0].size / SAMPLED_PIXELS))
    up_to = np.cumsum(np.bincount(colours[::step, ::step].ravel(), minlength=256))
    low, high = (int(np.searchsorted(up_to, up_to[-1] * share / 100)) for share in percentiles)
    levels = (np.arange(256) - low) * (255 / max(high - low, LEAST_RANGE))
    stretched = levels.clip(0, 255).round().astype(np.uint8)[colours]
    return stretched if colours is image_HWC else np.concatenate([stretched, image_HWC[..., 3:]], axis=2)
