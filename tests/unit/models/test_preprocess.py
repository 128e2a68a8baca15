"""Normalisation against its formula."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.preprocess import SAMPLED_PIXELS, Normalisation, normalise, stretch

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


def picture(height: int, width: int, channels: int, low: int, high: int) -> NDArray[np.uint8]:
    """Return noise between two grey levels."""
    rng = np.random.default_rng(height)
    return rng.integers(low, high, (height, width, channels), np.uint8, endpoint=True)


@pytest.mark.parametrize(("channels", "low", "high"), [(1, 3, 40), (3, 3, 40), (3, 100, 255), (3, 0, 255)])
def test_percentiles_become_black_and_white(channels: int, low: int, high: int) -> None:
    """As numpy's percentiles say, within the rounding of two grey levels, and in order."""
    image = picture(200, 150, channels, low, high)
    result = stretch(image, (2, 98))
    black, white = np.percentile(image, (2, 98))
    expected = ((image - black) * (255 / (white - black))).clip(0, 255)
    assert result.dtype == np.uint8
    assert np.abs(result - expected).max() <= 2 * 255 / (white - black)
    assert (np.sort(result.ravel()) == result.ravel()[np.argsort(image.ravel(), kind="stable")]).all()


def test_exposure_is_forgotten() -> None:
    """The same scene, half as bright and with a black level, becomes the same image."""
    scene = picture(64, 64, 3, 0, 120)
    dim = scene // 2 + 9
    assert np.abs(stretch(scene, (1, 99)).astype(int) - stretch(dim, (1, 99))).max() <= 255 / 60 + 1


def test_noise_is_not_made_an_image() -> None:
    """A field of four grey levels keeps an amplitude of four of sixteen; a flat one is black."""
    assert stretch(picture(64, 64, 3, 7, 10), (1, 99)).max() == 3 * 255 // 16 + 1
    assert not stretch(np.full((5, 5, 3), 90, np.uint8), (1, 99)).any()


def test_alpha_is_left_alone() -> None:
    """The fourth of four channels decides nothing, and is not changed."""
    image = np.concatenate([picture(30, 30, 3, 10, 60), np.full((30, 30, 1), 250, np.uint8)], axis=2)
    result = stretch(image, (0, 100))
    assert (result[..., 3] == 250).all()
    assert (result[..., :3] == stretch(image[..., :3], (0, 100))).all()


def test_a_large_image_is_sampled() -> None:
    """What lies in every part of it decides, without looking at every pixel; an empty one stays empty."""
    side = int(SAMPLED_PIXELS**0.5) + 100
    image = picture(side, side, 1, 20, 90)
    image[0, 0] = 255
    assert (stretch(image, (1, 99))[:300, :300] == stretch(image[:300, :300], (1, 99))).all()
    assert stretch(np.zeros((0, 4, 3), np.uint8), (1, 99)).shape == (0, 4, 3)


def test_no_stretch_is_no_copy() -> None:
    """Without percentiles the image comes back itself."""
    image = picture(4, 4, 3, 0, 255)
    assert stretch(image, None) is image
