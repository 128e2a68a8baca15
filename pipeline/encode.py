"""Encode label maps and attention maps as PNG bytes, and read label maps back.

Equal arrays give equal bytes, so a part that is written again has the same contents.

Shape suffixes: H, W height and width in pixels.
"""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from pipeline.errors import DecodeError
from pipeline.png import SIGNATURE, palette_png

_MAX_INFLATION = 1032  # deflate's highest ratio of output to input (zlib, "Maximum Expansion Factor")


def encode_mask(labels_HW: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]]) -> bytes:
    """Return a palette PNG whose pixel values are the class ids, drawn in the classes' colours.

    `palette[i]` is the (red, green, blue) of class i, 0 to 255 each.

    Raises ValueError if a class id has no colour, or `labels_HW` is not a non-empty (H, W) uint8 array.
    """
    _check_plane(labels_HW, "labels")
    if not 1 <= len(palette) <= 256:
        raise ValueError(f"palette must have 1 to 256 colours, got {len(palette)}")
    highest = int(labels_HW.max())
    if highest >= len(palette):
        raise ValueError(f"class id {highest} has no colour: the palette has {len(palette)}")
    return palette_png(labels_HW, bytes(value for colour in palette for value in colour))


def decode_mask(png: bytes) -> NDArray[np.uint8]:
    """Return the class ids of a mask as an (H, W) array; it may be read-only.

    Reads palette PNGs of any depth and 8-bit grey PNGs, whose pixel values are the class ids.

    Raises DecodeError for all else: class ids cannot be told from colours or from scaled grey values.
    """
    expected = "a mask must be a palette or 8-bit grey PNG"
    if not png.startswith(SIGNATURE) or png[12:16] != b"IHDR" or len(png) < 33:
        raise DecodeError(f"{expected}, got {len(png):,} bytes that begin with {png[:8].hex(' ')} (hex)")
    width, height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
    depth, colour_type = png[24], png[25]
    if colour_type != 3 and (colour_type, depth) != (0, 8):
        raise DecodeError(f"{expected}, got a PNG of colour type {colour_type} with {depth} bits a channel")
    # Masks have no pixel limit of their own, yet a few bytes must not claim gigabytes.
    if height * (width * depth + 7) // 8 > _MAX_INFLATION * len(png):
        raise DecodeError(f"{expected}, got {len(png):,} bytes, too few for {width:,} x {height:,} px")
    try:
        with PngImagePlugin.PngImageFile(io.BytesIO(png)) as image:
            image.load()
            return np.asarray(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever hostile bytes lead it to
        reason = " ".join(str(error).split()).encode("ascii", "backslashreplace").decode("ascii")[:120]
        raise DecodeError(f"{expected}, got {len(png):,} bytes of broken PNG: {reason}") from error


def encode_grey(values_HW: NDArray[np.uint8]) -> bytes:
    """Return an 8-bit greyscale PNG of the values, 0 black to 255 white.

    Raises ValueError if `values_HW` is not a non-empty (H, W) uint8 array.
    """
    _check_plane(values_HW, "values")
    buffer = io.BytesIO()
    Image.fromarray(values_HW).save(buffer, "PNG")
    return buffer.getvalue()


def _check_plane(plane_HW: NDArray[np.uint8], what: str) -> None:
    if plane_HW.ndim != 2 or plane_HW.size == 0 or plane_HW.dtype != np.uint8:
        raise ValueError(
            f"{what} must be a non-empty (H, W) uint8 array, got {plane_HW.dtype} of shape {plane_HW.shape}"
        )
