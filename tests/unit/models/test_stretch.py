"""The stretch against numpy's percentiles, and where it must hold back."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.stretch import SAMPLED_PIXELS, stretch


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
    """Every second row and column decide, as what the others hold shows; an empty image stays empty."""
    side = int(SAMPLED_PIXELS**0.5) + 100
    image = picture(side, side, 1, 20, 90)
    image[1::2] = 255  # more than one pixel in a hundred
    assert (stretch(image, (1, 99))[::2, ::2] == stretch(image[::2, ::2], (1, 99))).all()
    assert stretch(np.zeros((0, 4, 3), np.uint8), (1, 99)).shape == (0, 4, 3)


def test_no_stretch_is_no_copy() -> None:
    """Without percentiles the image comes back itself."""
    image = picture(4, 4, 3, 0, 255)
    assert stretch(image, None) is image
