"""Augmentation: repeatable, the mask follows the pixels, ignored stays ignored."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.train.augment import augment
from pipeline.train.config import IGNORE

PRESETS = ("microscopy", "natural", "aerial")


def crops(channels: int = 3, side: int = 48) -> tuple[Tensor, Tensor]:
    """Return six crops of bright discs on a dark ground, and their labels."""
    y, x = np.mgrid[:side, :side]
    discs = [((y - 12 - 3 * i) ** 2 + (x - 16 - 2 * i) ** 2 < 60).astype(np.uint8) for i in range(6)]
    labels = torch.from_numpy(np.stack(discs))
    return (40 + 150 * labels[..., None]).expand(-1, -1, -1, channels).contiguous(), labels


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shapes_types_and_classes_stay(preset: str, channels: int) -> None:
    """Images of any channels come back as they went in, changed, and no label value is made up."""
    images, labels = crops(channels)
    labels[0, :5] = IGNORE
    new_images, new_labels = augment(images, labels, preset, seed=3)
    assert new_images.shape == images.shape
    assert new_images.dtype == new_labels.dtype == torch.uint8
    assert set(new_labels.flatten().tolist()) <= {0, 1, IGNORE}
    assert not torch.equal(new_images, images)


@pytest.mark.parametrize("preset", PRESETS)
def test_equal_seeds_give_equal_crops(preset: str) -> None:
    """A seed repeats its crops whatever was drawn before, and leaves torch's own random state alone."""
    images, labels = crops()
    state = torch.get_rng_state()
    one = augment(images, labels, preset, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    augment(images, labels, preset, seed=6)
    two = augment(images, labels, preset, seed=5)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], augment(images, labels, preset, seed=7)[0])


@pytest.mark.parametrize("preset", PRESETS)
def test_the_mask_follows_the_pixels(preset: str) -> None:
    """A disc still stands out from its ground, brighter or darker, exactly as far as its mask says."""
    images, labels = crops()
    apart = []
    for seed in range(8):
        new_images, new_labels = augment(images, labels, preset, seed)
        for image, label in zip(new_images.float().mean(-1), new_labels, strict=True):
            if 20 < label.sum() < label.numel() - 20:
                inside, outside = image[label == 1], image[label == 0]
                between = (inside.mean() - outside.mean()).abs()
                apart.append(float(between / (inside.std() + outside.std() + 1)))
    assert len(apart) > 30
    assert np.median(apart) > 2


def test_none_is_none() -> None:
    """Without a preset the crops are the very same."""
    images, labels = crops()
    assert augment(images, labels, "none", 0)[0] is images
    with pytest.raises(ValueError, match="microscopy, natural or aerial"):
        augment(images, labels, "underwater", 0)
