"""Drawing: text that cannot do harm, colours that can be told apart, images and masks of any shape."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFont

from pipeline import drawing
from pipeline.drawing import (
    MAX_GAIN,
    VIVID,
    class_colours,
    fitted,
    font,
    gain,
    overlay,
    plain,
    png,
    shorten,
    viridis,
)


def test_plain_text() -> None:
    """What prints in ASCII stays; what does not print is escaped; other letters become boxes."""
    assert plain("a b/c-1.png") == "a b/c-1.png"
    assert plain("a\x1b\n\u202e\u200b") == "a\\x1b\\n\\u202e\\u200b"
    assert plain("ż細") == "\u25a1\u25a1"


@pytest.mark.parametrize("width", [0, 40, 120, 5000])
def test_shortened_text_fits(width: int) -> None:
    """Long text keeps its beginning and its end, and never gets wider than it may."""
    letters = font(20)
    assert isinstance(letters, ImageFont.FreeTypeFont)
    text = "beginning " + "x" * 300 + " end"
    short = shorten(text, letters, width)
    if width == 5000:
        assert short == text
    elif width >= 40:
        assert letters.getlength(short) <= width
        assert short.startswith("b")
        assert short.endswith("d")
    else:
        assert short == "…"


def test_dim_images_are_shown_brighter() -> None:
    """Only images without a bright place are brightened, and by a bounded factor."""
    assert gain(np.full((8, 8, 3), 255, np.uint8)) == 1
    assert gain(np.full((8, 8, 3), 50, np.uint8)) == 4
    assert gain(np.zeros((8, 8, 3), np.uint8)) == MAX_GAIN


def test_viridis_gets_ever_brighter() -> None:
    """The scale of attention maps begins dark and ends bright, so that it can be read in grey too."""
    ramp: NDArray[np.uint8] = np.arange(256, dtype=np.uint8)[None]
    brightness = viridis(ramp)[0] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(brightness) > -0.8).all()
    assert brightness[0] < 30
    assert brightness[-1] > 200


def test_classes_without_a_colour_get_a_vivid_one() -> None:
    """Greys and ids beyond the palette are drawn in colours that everyone tells apart."""
    own = np.array([(0, 0, 0), (255, 0, 0), (90, 90, 90)], np.uint8)
    colours = class_colours(own)
    assert colours.shape == (256, 3)
    assert colours[1].tolist() == [255, 0, 0]
    assert tuple(colours[2].tolist()) in VIVID
    assert {tuple(colour) for colour in colours[3:].tolist()} == set(VIVID)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (40, 30)])
def test_any_shape_is_fitted(size: tuple[int, int]) -> None:
    """The longer side fills the tile; the other one keeps a pixel at least; masks get the image's size."""
    image = fitted(np.zeros((*size, 3), np.uint8), 100)
    assert max(image.size) == 100
    assert min(image.size) >= 1
    on_top = overlay(np.ones(size, np.uint8), image, class_colours(np.zeros((2, 3), np.uint8)), 100)
    assert on_top.size == image.size


def test_a_large_png_is_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise does not compress: it is stored in 256 colours instead."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert Image.open(io.BytesIO(png(Image.fromarray(noise)))).mode == "RGB"
    monkeypatch.setattr(drawing, "MAX_BYTES", 8_000)
    assert Image.open(io.BytesIO(png(Image.fromarray(noise)))).mode == "P"
