"""From 8-bit images to what the network sees: the one function of training and prediction.

Shape suffixes: B samples; H, W height and width in pixels; C channels.
"""

from functools import lru_cache

import torch
from torch import Tensor

from models.config import Normalisation


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
