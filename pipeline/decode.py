"""Decode the bytes of one object into a uint8 image.

Pure: bytes in, array out. An image is either whole and upright or an error; it is never half-filled.

Shape suffixes: H, W image height and width in pixels; C channels.
"""

import contextlib
import functools
import io
import math
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pipeline.errors import ConfigError, DecodeError, ImageError, LimitError

FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        BmpImagePlugin.BmpImageFile,
        GifImagePlugin.GifImageFile,
        TiffImagePlugin.TiffImageFile,
    )
)
CLOCK_BYTES = 8192  # that a codec is given between two looks at the clock; 64 KB hold minutes of work
MAX_MESSAGE = 300  # characters of an error message: it becomes a cell of the table

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name for C channels
_GREY_DEPTHS = (8, 10, 12, 14, 16)  # bits, as cameras have them
_PNG_END = b"IEND\xaeB`\x82"  # the last chunk, with its constant checksum
_TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 322, 323

# A bad TIFF ends as an error that says why; the warnings that Pillow adds on the way would flood a run's log.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


def decode(data: bytes, *, channels: int, max_pixels: int, seconds: float = math.inf) -> NDArray[np.uint8]:
    """Return the image in `data` as an (H, W, C) array, 0 to 255; it may be read-only.

    `channels` is 1 (grey), 3 (RGB) or 4 (RGBA, alpha not multiplied in). JPEG, PNG, WEBP, BMP, GIF and TIFF
    are told apart by their first bytes, not by a name; of several frames or pages the first is read.

    - **Orientation**: turned as EXIF says, so that the mask lies as viewers show the image. Broken EXIF is
      ignored.
    - **Transparency**: shown on white for C in {1, 3}, as most viewers do. To drop alpha instead would let
      the mask depend on colours that nobody sees, which is whatever the writing program left there.
    - **16-bit grey**: the bit depth is the smallest of 8, 10, 12, 14 and 16 bits that holds the image's
      largest value (cameras store 12 bits in 16), and its full range is scaled linearly to 0..255. Signed
      and 32-bit grey is read the same way if all its values lie in 0..65535.
    - **Float grey**: 0..1 is scaled to 0..255. Other ranges are errors, for nothing says what white is.
    - **16-bit colour**: the high byte, as Pillow reads it. **CMYK, YCbCr**: by Pillow's formulas, no ICC.

    A damaged JPEG or PNG that its codec reports as complete is taken as it comes.

    Raises:
        LimitError: the header declares more than `max_pixels`, of the image or of a TIFF's tile, and no pixel
            was decoded; or reading takes longer than `seconds`, which is looked at whenever a codec asks for
            more bytes.
        DecodeError: anything else that makes the bytes unreadable. Running out of memory is not the image's
            fault and stays a MemoryError.
        ConfigError: `channels` is not 1, 3 or 4.
    """
    if channels not in _MODES:
        raise ConfigError(f"channels must be 1 (grey), 3 (RGB) or 4 (RGBA), got {channels}")
    if not data:
        raise DecodeError("the object is empty")
    name = format_of(data)
    with _as_decode_error(data, name, max_pixels):
        image = load(data, name, max_pixels, seconds)
        pixels = np.asarray(_convert(image, _MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def load(data: bytes, name: str, max_pixels: int, seconds: float = math.inf) -> Image.Image:
    """Return the image of the format `name`, upright and with its pixels read, as they are stored.

    Raises LimitError and DecodeError as `decode` does.
    """
    # Pillow has a limit for the whole process, which some plugins always apply; it is only ever raised here.
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
    with _as_decode_error(data, name, max_pixels):
        image = _open(_InTime(data, seconds), name)
        _check_size(image, max_pixels)
        image.decodermaxblock = CLOCK_BYTES
        image.load()
        if name == "PNG" and data.rfind(_PNG_END) < 0:  # Pillow accepts a file cut behind its last row
            raise ValueError("the file is cut short, its end chunk is missing")
        return _turn_upright(image)


@contextlib.contextmanager
def _as_decode_error(data: bytes, name: str, max_pixels: int) -> Iterator[None]:
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # A canvas or frame that Pillow comes upon before it can tell the image's size.
        limit = f"{name} image is over the limit of {max_pixels:,} pixels (--max-pixels)"
        raise LimitError(_message(limit, error)) from error
    except Exception as error:  # Pillow's plugins raise whatever hostile bytes lead them to
        raise DecodeError(_message(f"not a readable image: {len(data):,} bytes of {name}", error)) from error


def format_of(data: bytes) -> str:
    """Return which of FORMATS the bytes are, by how they begin. Raises DecodeError if none."""
    for name in FORMATS:
        _, accepts = Image.OPEN[name]
        if accepts is None or accepts(data[:16]):
            return name
    raise DecodeError(
        f"not a readable image: expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, "
        f"got {len(data):,} bytes that begin with {data[:8].hex(' ')} (hex)"
    )


class _InTime(io.BytesIO):
    """The bytes of a file, for so many seconds: a small file can ask a codec for hours of work."""

    def __init__(self, data: bytes, seconds: float) -> None:
        super().__init__(data)
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on. Raises LimitError if the time is over."""
        if time.monotonic() > self._end:
            raise LimitError(f"decoding takes longer than {self._seconds:g} s (--decode-timeout)")
        return super().read(size)


def _open(file: io.BytesIO, name: str) -> ImageFile.ImageFile:
    """Return the image with its header read and no pixel decoded.

    Not by Image.open: that compares the size with a limit of the whole process before it can be read here,
    and hides the reason why a format could not be read.
    """
    factory, _ = Image.OPEN[name]
    return factory(file, "")


def _check_size(image: Image.Image, max_pixels: int) -> None:
    """Raise LimitError if the image, or a tile of it, is too large."""
    sizes = {"image": image.size}
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # A tile is unpacked whole: of a few pixels in the corner of a giant one 65 KB of file made 256 MB.
        sizes["tile"] = (image.tag_v2.get(_TIFF_TILE_WIDTH, 1), image.tag_v2.get(_TIFF_TILE_HEIGHT, 1))
    for what, (width, height) in sizes.items():
        if width * height > max_pixels:
            raise LimitError(
                f"{what} is {width:,} x {height:,} px = {width * height:,} pixels, "
                f"the limit is {max_pixels:,} (--max-pixels)"
            )


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)  # without in_place an upright image is copied
    except MemoryError:
        raise
    except Exception:  # noqa: S110 - broken EXIF raises almost anything, and the pixels are good without it
        pass
    return image


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_grey8(image))
    if image.mode == "La":  # Pillow converts premultiplied grey to nothing but this
        image = image.convert("LA")
    if image.mode == "LAB":  # likewise: of what is asked for it knows only colours
        image = image.convert("RGB")
    if image.has_transparency_data and mode != "RGBA":
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):  # the test costs a tenth of what it saves
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _grey8(image: Image.Image) -> NDArray[np.uint8]:
    """Return 8-bit values for an image of one integer or float channel, by the rules of `decode`."""
    values: NDArray[Any] = np.asarray(image)
    low, high = values.min().item(), values.max().item()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # also true of NaN
            raise DecodeError(f"float image must hold values from 0 to 1, got {low:.6g} to {high:.6g}")
        grey = np.rint(values * np.float32(255)).astype(np.uint8)
    else:
        if low < 0 or high > 0xFFFF:
            raise DecodeError(f"grey image must hold values from 0 to 65535, got {low} to {high}")
        depth = next(bits for bits in _GREY_DEPTHS if high < 1 << bits)
        grey = _scale_table(depth)[values]
    # Pillow applies "white is zero" to TIFFs of up to 8 bits only.
    inverted = (
        isinstance(image, TiffImagePlugin.TiffImageFile)
        and image.tag_v2.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO
    )
    return 255 - grey if inverted else grey


@functools.cache
def _scale_table(depth: int) -> NDArray[np.uint8]:
    """Return the 8-bit value of each of the 2**depth grey values."""
    top = (1 << depth) - 1
    table: NDArray[np.uint8] = np.rint(np.arange(top + 1) * (255 / top)).astype(np.uint8)
    return table


def _message(what: str, error: Exception) -> str:
    """Return one printable ASCII line: Pillow's messages can quote bytes of the file."""
    text = " ".join(f"{what}: {str(error) or type(error).__name__}".split())
    return text.encode("ascii", "backslashreplace").decode("ascii")[:MAX_MESSAGE]
