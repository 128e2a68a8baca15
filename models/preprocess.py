"""From 8-bit images to what the network sees: the one function of training and prediction.

Shape suffixes: B samples; H, W height and width in pixels; C channels.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from models.stretch import are_percentiles

MIN_STD, MAX_STD = 1e-3, 10.0  # beyond these a pixel step is noise or nothing to a network


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """Mean and standard deviation of each channel, in units where 0 is black and 1 is pixel value 255.

    With `stretch`, those two percentiles of each whole image become 0 and 255 before: see `models.stretch`.
    """

    mean: tuple[float, ...]  # 0 to 1
    std: tuple[float, ...]  # 0.001 to 10
    stretch: tuple[float, float] | None = None  # percentiles, 0 to 100, the lower first

    def __post_init__(self) -> None:
        if self.stretch is not None and not are_percentiles(self.stretch):
            raise ValueError(
                "normalisation stretch must be two percentiles from 0 to 100, the lower first, "
                f"got {repr(self.stretch)[:40]}"
            )
        for name, values, low, high in (("mean", self.mean, 0.0, 1.0), ("std", self.std, MIN_STD, MAX_STD)):
            if not isinstance(values, tuple) or not values:
                raise ValueError(f"normalisation {name} must be a list of numbers, got {repr(values)[:40]}")
            for value in values:
                if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                    raise ValueError(
                        f"normalisation {name} must be numbers from {low} to {high}, got {repr(value)[:40]}"
                    )
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"normalisation needs one std for each mean, got {len(self.std)} for {len(self.mean)}"
            )

    @property
    def channels(self) -> int:
        """Number of image channels that it fits."""
        return len(self.mean)


def normalise(
    images_BHWC: Tensor, normalisation: Normalisation, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return (images / 255 - mean) / std as a (B, C, H, W) tensor in channels_last memory format.

    Computed in float32 on the device of the images, then rounded to `dtype`. Raises ValueError if the images
    are not uint8 of shape (B, H, W, C) with as many channels as `normalisation` has.
    """
    expected = f"uint8 (B, H, W, {normalisation.channels})"
    if images_BHWC.dtype != torch.uint8:
        raise ValueError(f"images must be {expected}, got {images_BHWC.dtype}")
    if images_BHWC.ndim != 4 or images_BHWC.shape[3] != normalisation.channels:
        raise ValueError(f"images must be {expected}, got shape {tuple(images_BHWC.shape)}")
    factor, offset = _factor_and_offset(normalisation, images_BHWC.device)
    # Dense (B, H, W, C) memory seen as (B, C, H, W) is channels_last: the permutation moves no byte.
    pixels_BCHW = images_BHWC.contiguous().permute(0, 3, 1, 2).float()
    return torch.addcmul(offset, pixels_BCHW, factor).to(dtype)


@lru_cache(maxsize=16)
def _factor_and_offset(normalisation: Normalisation, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return float32 (1, C, 1, 1) tensors with `pixel · factor + offset` = (pixel / 255 - mean) / std."""
    factor = [1 / (255 * std) for std in normalisation.std]
    offset = [-mean / std for mean, std in zip(normalisation.mean, normalisation.std, strict=True)]
    # A tensor born in inference mode must not be kept: training could not use it afterwards.
    with torch.inference_mode(mode=False):
        factor_C, offset_C = (torch.tensor(v, dtype=torch.float32, device=device) for v in (factor, offset))
        return factor_C.view(1, -1, 1, 1), offset_C.view(1, -1, 1, 1)
