"""Normalisation against its formula."""

import re
from typing import Any

import pytest
import torch

from models.config import Normalisation
from models.preprocess import normalise

RGB = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def every_value() -> torch.Tensor:
    """Return a (1, 16, 16, 3) image that holds each of the 256 pixel values in each channel."""
    return torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_formula(dtype: torch.dtype, tolerance: float) -> None:
    """Every pixel value becomes (value / 255 - mean) / std of its channel, as exactly as the dtype allows."""
    images = every_value()
    actual = normalise(images, RGB, dtype)
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (RGB.mean, RGB.std))
    expected = ((images.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_memory_format(channels: int) -> None:
    """The result is (B, C, H, W) and channels_last, also for images that are not dense in memory."""
    normalisation = Normalisation(mean=(0.5,) * channels, std=(0.5,) * channels)
    images = torch.randint(0, 256, (2, 6, 9, channels), dtype=torch.uint8)
    for view in (images, images[:, ::2, 1:]):
        result = normalise(view, normalisation)
        assert result.shape == (2, channels, *view.shape[1:3])
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_prediction_then_training() -> None:
    """What was normalised in inference mode first can be trained on afterwards."""
    normalisation = Normalisation(mean=(0.25,), std=(0.125,))
    images = torch.zeros(1, 2, 2, 1, dtype=torch.uint8)
    with torch.inference_mode():
        normalise(images, normalisation)
    weight = torch.ones(1, requires_grad=True)
    torch.autograd.backward((normalise(images, normalisation) * weight).sum())
    assert weight.grad is not None
    assert weight.grad.item() == -8


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 2, 2, 3), "images must be uint8 (B, H, W, 3), got torch.float32"),
        (torch.zeros(2, 2, 3, dtype=torch.uint8), "got shape (2, 2, 3)"),
        (torch.zeros(1, 3, 2, 2, dtype=torch.uint8), "got shape (1, 3, 2, 2)"),
    ],
)
def test_other_images_are_refused(images: torch.Tensor, message: str) -> None:
    """Images of another dtype, rank or channel count are refused with what was expected and what came."""
    with pytest.raises(ValueError, match=re.escape(message)):
        normalise(images, RGB)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((), ()),
        ((0.5,), (0.5, 0.5)),
        ((1.5,), (0.5,)),
        ((0.5,), (0.0,)),
        ((0.5,), (1e-300,)),
        ((float("nan"),), (0.5,)),
        ((0.5,), (float("inf"),)),
        ((True,), (0.5,)),
        (("0.5",), (0.5,)),
        ([0.5], (0.5,)),
        (0.5, 0.5),
    ],
)
def test_normalisation_is_checked_at_birth(mean: Any, std: Any) -> None:
    """Means outside 0 to 1, standard deviations near 0, NaN and other types are refused."""
    with pytest.raises(ValueError, match="normalisation"):
        Normalisation(mean=mean, std=std)


@pytest.mark.parametrize(
    "value", [(1,), (5, 5), (99, 1), (-1, 50), (1, 101), (float("nan"), 9), [1, 99], "1,99"]
)
def test_a_stretch_is_two_percentiles(value: Any) -> None:
    """Anything else is refused with what was expected."""
    with pytest.raises(ValueError, match="two percentiles from 0 to 100, the lower first"):
        Normalisation(mean=(0.5,), std=(0.5,), stretch=value)
