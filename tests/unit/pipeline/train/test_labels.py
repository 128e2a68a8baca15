"""Masks to class ids: every rule and format, and what is refused with a reason."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import ConfigError, LabelError
from pipeline.train.config import IGNORE, LabelsConfig
from pipeline.train.labels import check_rule, labels_of_mask

CLASSES = ("background", "cell", "edge")
LIMIT = 10_000  # pixels
IDS = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def save(image: Image.Image | NDArray[Any], file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def palette(ids: NDArray[np.uint8], *colours: int) -> Image.Image:
    image = Image.fromarray(ids)
    image.putpalette(colours or [9, 9, 9, 200, 0, 0, 0, 0, 255])
    return image


def labels(data: bytes, classes: tuple[str, ...] = CLASSES, **rule: Any) -> list[list[int]]:
    found: list[list[int]] = labels_of_mask(data, LabelsConfig(**rule), classes, LIMIT).tolist()
    return found


# ---------------------------------------------------------------- class ids


@pytest.mark.parametrize(
    "data",
    [
        save(IDS),
        save(palette(IDS)),
        save(palette(IDS), bits=2),
        save(palette(IDS), bits=4),
        save(IDS.astype(np.uint16)),
        save(IDS.astype(np.int32), "TIFF"),
        save(IDS.astype(np.float32), "TIFF"),
        save(IDS.astype(np.uint16), "TIFF"),
        save(IDS, "TIFF"),
        save(IDS, "BMP"),
        save(palette(IDS), "BMP"),
        save(palette(IDS), "GIF"),
        save(np.stack([IDS] * 3, -1)),
        save(np.stack([IDS] * 3 + [np.full_like(IDS, 255)], -1)),
        save(np.stack([IDS, np.full_like(IDS, 255)], -1)),
    ],
)
def test_a_pixel_value_is_the_class_id(data: bytes) -> None:
    """Of every lossless format and depth the stored number is taken."""
    assert labels(data) == IDS.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_not_stretched(bits: int) -> None:
    """Pillow shows the 3 of a 2-bit picture as 255; its class id is 3."""
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    top = (1 << bits) - 1
    header = struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)
    row = bytes([0, top << (8 - bits) | 1 << (8 - 2 * bits)])
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )
    classes = tuple(f"class {number}" for number in range(16))
    assert labels(png, classes) == [[top, 1]]


def test_the_ignored_value_becomes_ignore() -> None:
    """A value of any size can stand for pixels that nobody labelled, and 0 too."""
    assert labels(save(np.array([[0, 255]], np.uint8)), ignore=255) == [[0, IGNORE]]
    assert labels(save(np.array([[1, 65535]], np.uint16)), ignore=65535) == [[1, IGNORE]]
    assert labels(save(np.array([[1, 0]], np.uint8)), ignore=0) == [[1, IGNORE]]


def test_orientation_is_applied_as_to_images() -> None:
    """A mask with EXIF orientation lies as its image does after decoding."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    assert labels(save(IDS, exif=exif)) == np.rot90(IDS, -1).tolist()


def test_255_classes_fit() -> None:
    """The highest class id is 254, so that IGNORE is none of them."""
    names = tuple(map(str, range(255)))
    assert labels(save(np.array([[254, 0]], np.uint8)), names) == [[254, 0]]


# ---------------------------------------------------------------- instances and colours


def test_instance_numbers_become_the_foreground() -> None:
    """Every number above 0 is the class, in 16 bits as well; the ignored number is not."""
    numbers = np.array([[0, 1, 300], [65535, 7, 0]], np.uint16)
    assert labels(save(numbers), foreground="edge") == [[0, 2, 2], [2, 2, 0]]
    assert labels(save(numbers), foreground="cell", ignore=7) == [[0, 1, 1], [1, IGNORE, 0]]


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA"])
def test_colours_become_classes(mode: str) -> None:
    """A palette picture and a colour picture are looked at as colours; one of them may be ignored."""
    rule = {"background": "#090909", "cell": "#c80000", "ignore": "#0000FF"}
    assert labels(save(palette(IDS).convert(mode)), palette=rule) == [[0, 1, IGNORE], [IGNORE, 1, 0]]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"foreground": "tree"}, "foreground 'tree' must be a class"),
        ({"foreground": "background"}, "id above 0: cell, edge"),
        ({"palette": {"tree": "#000000"}}, "palette names 'tree', which is no class"),
    ],
)
def test_a_rule_that_names_other_classes_is_refused(rule: dict[str, Any], words: str) -> None:
    """Rules are held against the classes before a mask is read."""
    with pytest.raises(ConfigError, match=words):
        check_rule(LabelsConfig(**rule), CLASSES)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"palette": {"cell": "red"}}, "the colour of 'cell' must be like '#20c0ff', got 'red'"),
        ({"palette": {"cell": "#0000ff", "edge": "#0000FF"}}, "same colour"),
        ({"palette": {"cell": "#0000ff"}, "ignore": 3}, "name a colour in it 'ignore'"),
    ],
)
def test_a_rule_that_contradicts_itself_is_refused(rule: dict[str, Any], words: str) -> None:
    """Broken colours, two classes of one colour, and a number to ignore among colours."""
    with pytest.raises(ValueError, match=words):
        LabelsConfig(**rule)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("data", "rule", "words"),
    [
        (b"", {}, "empty"),
        (b"hello", {}, "not a readable image"),
        (save(IDS)[:-4], {}, "cut short"),
        (save(IDS)[:45], {}, "not a readable image"),
        (save(IDS, "JPEG"), {}, "JPEG: lossy"),
        (save(Image.fromarray(IDS).convert("RGB"), "WEBP"), {}, "WEBP: lossy"),
        (save(IDS, "TIFF", compression="jpeg"), {}, "lossy"),
        (save(np.zeros((101, 100), np.uint8)), {}, "the limit is 10,000"),
        (save(np.array([[0, 7, 7, 9]], np.uint8)), {}, r"7 \(2 px\), 9 \(1 px\), expected class ids 0 to 2"),
        (save(np.arange(3, 10, dtype=np.uint8)[None]), {}, "and 4 other values"),
        (save(np.array([[0, 255]], np.uint8)), {"ignore": 254}, r"255 \(1 px\).*or 254 for ignored"),
        (save(np.array([[0, 70000]], np.int32), "TIFF"), {}, "70000"),
        (save(np.array([[0, -1]], np.int32), "TIFF"), {"foreground": "cell"}, "-1.*0 or more"),
        (save(np.array([[0, 0.5]], np.float32), "TIFF"), {}, "fractions"),
        (save(np.array([[[1, 2, 3]]], np.uint8)), {}, "colour picture .RGB."),
        (save(palette(IDS)), {"palette": {"cell": "#c80000"}}, r"#0000ff \(2 px\), #090909 \(2 px\)"),
        (save(IDS.astype(np.uint16)), {"palette": {"cell": "#c80000"}}, "numbers"),
    ],
)
def test_what_is_no_label_is_refused_with_the_reason(data: bytes, rule: dict[str, Any], words: str) -> None:
    """Values outside the classes are counted; lossy, broken, fractional and too large masks are refused."""
    with pytest.raises(LabelError, match=words) as caught:
        labels(data, **rule)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200))
def test_random_bytes_never_pass(junk: bytes) -> None:
    """Whatever follows a PNG's signature, it is labels or a LabelError."""
    with pytest.raises(LabelError):
        labels(b"\x89PNG\r\n\x1a\n" + junk)
