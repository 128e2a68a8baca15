"""What pictures for people are drawn with: colours, masks on images, attention maps, harmless text.

Pure: arrays and Pillow images, no I/O. Names and messages are other people's text: what is not plain is
shown as an escape or an empty box.

Shape suffixes: H, W height and width in pixels; C channels (RGB).
"""

import functools
import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.errors import MasklakeError
from pipeline.harmless import without_secrets

Colour = tuple[int, int, int]

MAX_BYTES: Final = 3_000_000  # of a PNG: beyond, it is reduced to 256 colours

PAPER, INK, FAINT, RULE = (252, 252, 250), (28, 32, 38), (98, 106, 116), (216, 218, 220)
BLANK: Final = (232, 233, 235)  # a tile that has nothing to show
ALARM: Final = (166, 34, 20)
DIM, BRIGHT, MAX_GAIN = 100, 220, 10  # images whose brightest places are below DIM are shown brighter
FILL, OUTLINE = 0.18, 2  # opacity of a mask's area; width of its outline in pixels
# Okabe and Ito's colours, which everyone tells apart, for classes whose own colour is a grey, as photos are.
VIVID: Final[Sequence[Colour]] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
    (240, 228, 66),
)
# Nine colours of viridis (van der Walt and Smith); the rest is interpolated.
VIRIDIS: Final = (
    (68, 1, 84),
    (71, 44, 122),
    (59, 81, 139),
    (44, 113, 142),
    (33, 144, 141),
    (39, 173, 129),
    (92, 200, 99),
    (170, 220, 50),
    (253, 231, 37),
)


# ---------------------------------------------------------------- images


def fitted(image_HWC: NDArray[np.uint8], side: int) -> Image.Image:
    """Return an image, grey or in colours, at the size at which its longer side is `side` pixels."""
    image = Image.fromarray(image_HWC)
    return image.resize(_fitted_size(image_HWC, side), Image.Resampling.LANCZOS)


def _fitted_size(image_HWC: NDArray[np.uint8], side: int) -> tuple[int, int]:
    height, width = image_HWC.shape[:2]
    scale = side / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def gain(image_HWC: NDArray[np.uint8]) -> int:
    """Return by how much a dim image has to be brightened to be seen: 1 for most images."""
    peak = max(1.0, float(np.percentile(image_HWC.max(axis=2), 99.5)))
    return 1 if peak >= DIM else min(MAX_GAIN, int(BRIGHT / peak))


def brightened(image: Image.Image, factor: int) -> Image.Image:
    """Return the image with all values multiplied; what is over 255 is white."""
    return image.point(lambda value: value * factor)


def overlay(
    labels_HW: NDArray[np.uint8], image: Image.Image | None, colours_K3: NDArray[np.uint8], side: int
) -> Image.Image:
    """Return the image with a mask on top, whose longer side becomes `side` pixels; class 0 is left as it is.

    Without an image the mask lies on grey. `colours_K3` has a colour for each value that occurs.
    """
    size = _fitted_size(labels_HW, side)
    small_HW = np.asarray(Image.fromarray(labels_HW).resize(size, Image.Resampling.NEAREST))
    image = image or Image.new("RGB", size, BLANK)
    inside_HW = small_HW > 0
    for _ in range(OUTLINE):
        padded = np.pad(small_HW * inside_HW, 1, mode="edge")
        height, width = small_HW.shape
        for y, x in ((0, 1), (2, 1), (1, 0), (1, 2)):
            inside_HW = inside_HW & (padded[y : y + height, x : x + width] == small_HW)
    opacity = np.where(inside_HW, FILL, small_HW > 0)[:, :, None]
    blended = np.asarray(image) * (1 - opacity) + colours_K3[small_HW] * opacity
    return Image.fromarray(blended.round().astype(np.uint8))


def viridis(values_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (H, W, 3) colours: 0 is dark violet, 255 yellow; equal steps look equal."""
    anchors = np.linspace(0, 255, len(VIRIDIS))
    channels = [np.interp(np.arange(256), anchors, [c[i] for c in VIRIDIS]) for i in range(3)]
    colours: NDArray[np.uint8] = np.stack(channels, axis=-1).round().astype(np.uint8)
    return colours[values_HW]


def class_colours(own_K3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (256, 3) colours of classes: their own, but vivid ones for greys and for ids without any."""
    colours = np.resize(np.array(VIVID, np.uint8), (256, 3))
    vivid = np.ptp(own_K3, axis=1) >= 32
    colours[1 : len(own_K3)][vivid[1:]] = own_K3[1:][vivid[1:]]
    return colours


def colour_of(values: NDArray[np.uint8]) -> Colour:
    """Return the three values of one colour, as Pillow takes them."""
    red, green, blue = values.tolist()
    return red, green, blue


def png(image: Image.Image) -> bytes:
    """Return the picture as a PNG; one that would be large is reduced to 256 colours."""
    data = _encoded(image)
    return data if len(data) <= MAX_BYTES else _encoded(image.quantize(256, dither=Image.Dither.NONE))


def _encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


# ---------------------------------------------------------------- text


def write(
    pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: Colour, width: int
) -> int:
    """Write one line, shortened in the middle to `width` pixels, and return its own width."""
    letters = font(size)
    line = shorten(plain(without_secrets(text)), letters, width)
    pen.text(at, line, colour, letters)
    return round(letters.getlength(line))


def plain(text: str) -> str:
    """Return text that draws as it reads, in one line and from left to right.

    What does not print (control characters, line ends, marks that turn the direction) becomes its escape;
    letters that the font lacks become boxes.
    """
    return "".join(
        char if " " <= char <= "~" or char in "·…" else "\u25a1" if char.isprintable() else ascii(char)[1:-1]
        for char in text
    )


def shorten(text: str, letters: ImageFont.FreeTypeFont, width: int) -> str:
    """Return text that is at most `width` pixels wide, with an ellipsis in the middle if need be."""
    if letters.getlength(text) <= width:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        kept = (fits + too_long) // 2
        if letters.getlength(_middle_cut(text, kept)) <= width:
            fits = kept
        else:
            too_long = kept
    return _middle_cut(text, fits)


def _middle_cut(text: str, kept: int) -> str:
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the letters that come with Pillow, `size` pixels high. Raises MasklakeError without FreeType."""
    letters = ImageFont.load_default(size)
    if not isinstance(letters, ImageFont.FreeTypeFont):
        raise MasklakeError("pictures need Pillow with FreeType, as its own wheels have it")
    return letters
