"""Augmentation on the training device: crops as another camera, light or viewpoint would have shown them.

Every preset is a chain of kornia's augmentations (Riba et al. 2020, "Kornia", arXiv:1910.02190). Masks take
part in what moves pixels, by nearest neighbour, and in nothing else.

Shape suffixes: B crops; C channels; H, W height and width in pixels.
"""

import functools
from typing import Any

import kornia.augmentation as K  # noqa: N812 - kornia's own documentation calls it so
import torch
from kornia.constants import DataKey, Resample
from torch import Tensor


def augment(images_BHWC: Tensor, labels_BHW: Tensor, preset: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return the crops changed: the same shapes, both uint8, on the same device.

    `preset` is "none", "microscopy", "natural" or "aerial". Equal arguments give equal crops on one machine;
    torch's own random state is left as it was.
    """
    if preset == "none":
        return images_BHWC, labels_BHW
    device = images_BHWC.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        images_BCHW, labels_BCHW = _chain(preset, images_BHWC.shape[-1])(
            images_BHWC.permute(0, 3, 1, 2).float() / 255, labels_BHW[:, None].float()
        )
    images_BHWC = (images_BCHW.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return images_BHWC, labels_BCHW[:, 0].to(torch.uint8)


@functools.cache
def _chain(preset: str, channels: int) -> K.AugmentationSequential:
    """Return the chain of a preset. What needs RGB is left out for images of other channels."""
    colour = channels == 3
    match preset:
        case "microscopy":  # no up or down; stains, focus and exposure differ from lab to lab
            steps = [
                *_flips(vertical=True),
                K.RandomRotation90(times=(0, 3), p=1.0, resample="nearest"),
                _affine(degrees=0, scale=(0.7, 1.4), p=0.7),
                K.RandomGaussianBlur((9, 9), (0.4, 1.6), p=0.2),
                K.RandomGamma((0.65, 1.5), (0.6, 1.6), p=0.5),
                K.RandomContrast((0.7, 1.4), p=0.4),
                K.RandomBrightness((0.93, 1.08), p=0.4),
                *([K.ColorJiggle(0, 0, 0.3, 0.08, p=0.3)] if colour else []),
                *([K.RandomChannelShuffle(p=0.15), K.RandomGrayscale(p=0.15)] if colour else []),
                K.RandomInvert(p=0.03),
                K.RandomGaussianNoise(0, 0.03, p=0.3),
            ]
        case "natural":  # the horizon stays where it is
            steps = [
                *_flips(vertical=False),
                _affine(degrees=10, scale=(0.6, 1.6), p=0.8),
                *([K.ColorJiggle(0.2, 0.3, 0.3, 0.05, p=0.8)] if colour else []),
                *([K.RandomGrayscale(p=0.1)] if colour else []),
                K.RandomGamma((0.7, 1.4), p=0.3),
                K.RandomGaussianBlur((9, 9), (0.3, 1.5), p=0.15),
                K.RandomGaussianNoise(0, 0.02, p=0.2),
            ]
        case "aerial":  # from above every direction is alike; haze and season change the light
            steps = [
                *_flips(vertical=True),
                K.RandomRotation90(times=(0, 3), p=1.0, resample="nearest"),
                _affine(degrees=15, scale=(0.7, 1.4), p=0.6),
                *([K.ColorJiggle(0.15, 0.2, 0.25, 0.03, p=0.6)] if colour else []),
                K.RandomGamma((0.75, 1.3), p=0.4),
                K.RandomContrast((0.7, 1.3), p=0.3),
                K.RandomGaussianBlur((5, 5), (0.3, 1.0), p=0.15),
                K.RandomGaussianNoise(0, 0.015, p=0.2),
            ]
        case _:
            raise ValueError(f"no augmentation preset {preset!r}: none, microscopy, natural or aerial")
    return K.AugmentationSequential(
        *steps,
        data_keys=[DataKey.INPUT, DataKey.MASK],
        extra_args={DataKey.MASK: {"resample": Resample.NEAREST, "align_corners": None}},
    )


def _flips(vertical: bool) -> list[Any]:
    return [K.RandomHorizontalFlip(p=0.5), *([K.RandomVerticalFlip(p=0.5)] if vertical else [])]


def _affine(degrees: float, scale: tuple[float, float], p: float) -> Any:
    return K.RandomAffine(degrees=degrees, scale=scale, padding_mode="reflection", p=p)
