"""Masks to class ids: what a label picture says of each pixel.

Pure: bytes in, array out. Whatever cannot be read as labels without a guess is a LabelError.

Shape suffixes: H, W image height and width in pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.decode import format_of, load
from pipeline.errors import ConfigError, ImageError, LabelError
from pipeline.train.config import IGNORE, LabelsConfig

IGNORED_NAME = "ignore"  # that a palette, or a labeller, may use beside those of the classes
LOSSY = ("JPEG", "WEBP")

_TIFF_BITS = 258


def check_rule(rule: LabelsConfig, classes: Sequence[str]) -> None:
    """Raise ConfigError if the rule names a class that is not one, or cannot tell classes apart."""
    if rule.foreground is not None and rule.foreground not in classes[1:]:
        raise ConfigError(
            f"foreground {rule.foreground!r} must be a class with an id above 0: "
            f"{', '.join(classes[1:]) or 'there is none'}"
        )
    known = {*classes, IGNORED_NAME}
    if strange := sorted(set(rule.palette) - known):
        raise ConfigError(
            f"palette names {strange[0]!r}, which is no class: the classes are {', '.join(classes)}; "
            f"'{IGNORED_NAME}' is for a colour that is not to be learnt"
        )


def labels_of_mask(
    data: bytes, rule: LabelsConfig, classes: Sequence[str], max_pixels: int
) -> NDArray[np.uint8]:
    """Return the class ids of a mask as an (H, W) array, with IGNORE where it says nothing.

    - **Class ids**: the pixel value. Palette pictures by index; grey of 1 to 32 bits by the stored value;
      float if all values are whole; colour pictures if their channels are equal.
    - **Instance numbers** (`rule.foreground`): likewise, and every value above 0 is that class.
    - **Colours** (`rule.palette`): palette and colour pictures by exact colour, alpha left out.

    PNG, TIFF, BMP and GIF, turned as EXIF says. Raises LabelError for all else, and ConfigError where the
    rule does not fit the classes (`check_rule`).
    """
    check_rule(rule, classes)
    image, bits = _load(data, max_pixels)
    if rule.palette:
        return _of_colours(image, rule.palette, classes)
    values_HW = _values(image, bits)
    ignored_HW = values_HW == rule.ignore if rule.ignore is not None else np.zeros(values_HW.shape, np.bool_)
    if rule.foreground is not None:
        wrong_HW = (values_HW < 0) & ~ignored_HW
        expected = "expected instance numbers, 0 or more"
        labels_HW = (values_HW > 0).astype(np.uint8) * np.uint8(classes.index(rule.foreground))
    else:
        wrong_HW = ((values_HW < 0) | (values_HW >= len(classes))) & ~ignored_HW
        expected = (
            f"expected class ids 0 to {len(classes) - 1} ({few(classes)})"
            + (f" or {rule.ignore} for ignored" if rule.ignore is not None else "")
            + "; instance numbers need --foreground, ignored pixels a value (labels.ignore)"
        )
        labels_HW = values_HW.astype(np.uint8)
    if wrong_HW.any():
        values, counts = np.unique(values_HW[wrong_HW], return_counts=True)
        raise LabelError(_outside([str(value) for value in values.tolist()], counts, expected))
    labels_HW[ignored_HW] = IGNORE
    return labels_HW


def _load(data: bytes, max_pixels: int) -> tuple[Image.Image, int]:
    """Return the upright picture with its pixels read, and the bits of one channel as they are stored."""
    if not data:
        raise LabelError("the mask is empty: 0 bytes")
    try:
        name = format_of(data)
        if name in LOSSY:
            raise LabelError(
                f"the mask is a {name}: lossy compression changes pixel values; store masks as PNG"
            )
        image = load(data, name, max_pixels)
    except LabelError:
        raise
    except ImageError as error:
        raise LabelError(f"the mask is {error}".replace("the mask is image is", "the mask is")) from error
    if image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        raise LabelError("the mask is a TIFF with lossy compression: store masks as PNG")
    return image, _stored_bits(image, data, name)


def _stored_bits(image: Image.Image, data: bytes, name: str) -> int:
    if name == "PNG":
        return data[24]
    if name == "TIFF":
        return int(max(getattr(image, "tag_v2", {}).get(_TIFF_BITS, (1,))))
    return 8


def _values(image: Image.Image, bits: int) -> NDArray[Any]:
    """Return the (H, W) numbers that the file holds, in whatever type."""
    values: NDArray[Any] = np.asarray(image)
    if values.ndim == 3:
        channels = image.mode.rstrip("AaX")
        equal = bool((values[..., :1] == values[..., : len(channels)]).all())
        if bits > 8:
            raise LabelError(f"the mask is a {image.mode} picture of {bits} bits: store it as 16-bit grey")
        if channels not in ("L", "P", "RGB") or not equal:
            raise LabelError(
                f"the mask is a colour picture ({image.mode}), expected one number a pixel: "
                "give each class its colour with labels.palette"
            )
        values = values[..., 0]
    elif image.mode == "L" and bits in (2, 4):  # Pillow stretches the values of these to 0..255
        values = values // (255 // ((1 << bits) - 1))
    if values.dtype.kind == "f":
        if not np.array_equal(values, np.rint(values)):  # also true of NaN
            raise LabelError(
                f"the mask holds fractions ({values.min():.6g} to {values.max():.6g}), expected whole numbers"
            )
        return values.astype(np.int64)
    return values.astype(np.uint8) if values.dtype.kind == "b" else values


def _of_colours(image: Image.Image, palette: dict[str, str], classes: Sequence[str]) -> NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):
        raise LabelError(f"the mask has numbers ({image.mode}) where labels.palette expects colours")
    red_HW, green_HW, blue_HW = np.moveaxis(np.asarray(image.convert("RGB"), np.uint32), -1, 0)
    codes_HW = red_HW << 16 | green_HW << 8 | blue_HW
    labels_HW = np.full(codes_HW.shape, IGNORE, np.uint8)
    known_HW = np.zeros(codes_HW.shape, np.bool_)
    for name, colour in palette.items():
        here_HW = codes_HW == int(colour.removeprefix("#"), 16)
        known_HW |= here_HW
        labels_HW[here_HW] = classes.index(name) if name in classes else IGNORE
    if not known_HW.all():
        values, counts = np.unique(codes_HW[~known_HW], return_counts=True)
        colours = ", ".join(f"{name} {colour}" for name, colour in list(palette.items())[:4])
        expected = f"expected the colours of labels.palette ({colours}{', …' if len(palette) > 4 else ''})"
        raise LabelError(_outside([f"#{value:06x}" for value in values.tolist()], counts, expected))
    return labels_HW


def _outside(values: Sequence[str], counts: NDArray[np.int64], expected: str) -> LabelError:
    most = np.argsort(-counts, kind="stable")[:3]
    shown = ", ".join(f"{values[index]} ({counts[index]:,} px)" for index in most)
    more = f" and {len(values) - 3} other values" if len(values) > 3 else ""
    return LabelError(f"the mask holds {shown}{more}, {expected}")


def few(classes: Sequence[str]) -> str:
    """Return the first four classes, and that there are more."""
    return ", ".join(classes[:4]) + (", …" if len(classes) > 4 else "")
