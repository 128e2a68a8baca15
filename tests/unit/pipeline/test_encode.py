"""Encoding: masks and maps come back exactly, and what is no mask is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from pipeline.encode import decode_mask, encode_grey, encode_mask
from pipeline.errors import DecodeError

PALETTE = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
PLANES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)


def save(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def check_message(error: Exception) -> None:
    """One line of printable ASCII, whatever the file holds."""
    assert str(error).isascii()
    assert str(error).isprintable()


@given(labels_HW=hnp.arrays(np.uint8, PLANES), data=st.data())
def test_masks_come_back_exactly(labels_HW: NDArray[np.uint8], data: st.DataObject) -> None:
    """Class ids survive encoding for any size and any number of classes that fits them."""
    classes = data.draw(st.integers(int(labels_HW.max()) + 1, 256))
    palette = [(i, 255 - i, i // 2) for i in range(classes)]
    labels_back_HW = decode_mask(encode_mask(labels_HW, palette))
    assert labels_back_HW.dtype == np.uint8
    np.testing.assert_array_equal(labels_back_HW, labels_HW)


@pytest.mark.parametrize(
    ("classes", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8), (256, 8)]
)
def test_mask_is_a_palette_png_in_the_class_colours(classes: int, bits: int) -> None:
    """Any viewer shows a mask in its classes' colours, and any reader finds the ids as pixel values."""
    labels_HW = (np.arange(21 * 300) % classes).astype(np.uint8).reshape(21, 300)[:, :-1]
    palette = [(i, 255 - i, i // 2) for i in range(classes)]
    png = encode_mask(labels_HW, palette)
    assert (png[24], png[25]) == (bits, 3)  # bits, colour type
    with Image.open(io.BytesIO(png)) as image:
        np.testing.assert_array_equal(np.asarray(image), labels_HW)
        np.testing.assert_array_equal(
            np.asarray(image.convert("RGB")), np.array(palette, np.uint8)[labels_HW]
        )


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_masks_are_no_larger_than_those_of_pillow(noise: float) -> None:
    """Whether regions are smooth, have ragged seams, or are none: not larger than at Pillow's level 6."""
    chance = np.random.default_rng(1)
    y, x = np.mgrid[:256, :256] / 256
    fields = [np.sin(9 * x * chance.random() + i) + np.cos(9 * y * chance.random() + i) for i in range(8)]
    labels_HW = (np.stack(fields) + noise * chance.standard_normal((8, 256, 256))).argmax(0).astype(np.uint8)
    image = Image.fromarray(labels_HW)
    image.putpalette(bytes(24))
    assert len(encode_mask(labels_HW, PALETTE * 2)) <= len(save(image, compress_level=6))


def test_equal_masks_give_equal_bytes() -> None:
    """Encoding is deterministic, also for an array that is a view."""
    labels_HW = np.random.default_rng(0).integers(0, 4, (50, 60), dtype=np.uint8)
    view_HW = np.repeat(labels_HW, 2, axis=1)[:, ::2]
    assert encode_mask(labels_HW, PALETTE) == encode_mask(labels_HW.copy(), PALETTE)
    assert encode_mask(labels_HW, PALETTE) == encode_mask(view_HW, PALETTE)


def test_a_plain_mask_is_small() -> None:
    """A mask of one class takes hundreds of bytes, not the bytes of its pixels."""
    assert len(encode_mask(np.zeros((512, 512), np.uint8), PALETTE)) < 500


def test_class_without_a_colour() -> None:
    """A class id outside the palette is refused, since other readers would fail on the file."""
    with pytest.raises(ValueError, match="class id 4 has no colour"):
        encode_mask(np.full((2, 2), 4, np.uint8), PALETTE)


@pytest.mark.parametrize("size", [0, 257])
def test_impossible_palettes(size: int) -> None:
    """A palette must have 1 to 256 colours."""
    with pytest.raises(ValueError, match="1 to 256 colours"):
        encode_mask(np.zeros((2, 2), np.uint8), [(0, 0, 0)] * size)


@pytest.mark.parametrize(
    "plane", [np.zeros((2, 2, 1), np.uint8), np.zeros((0, 3), np.uint8), np.zeros((2, 2))]
)
def test_what_is_not_a_plane_is_refused(plane: NDArray[np.uint8]) -> None:
    """Only non-empty (H, W) uint8 arrays can be encoded."""
    with pytest.raises(ValueError, match=r"non-empty \(H, W\) uint8"):
        encode_mask(plane, PALETTE)
    with pytest.raises(ValueError, match=r"non-empty \(H, W\) uint8"):
        encode_grey(plane)


@given(values_HW=hnp.arrays(np.uint8, PLANES))
def test_grey_maps_come_back_exactly(values_HW: NDArray[np.uint8]) -> None:
    """A grey map is an 8-bit grey PNG with the values as pixels, the same bytes each time."""
    png = encode_grey(values_HW)
    assert png == encode_grey(values_HW.copy())
    assert (png[24], png[25]) == (8, 0)
    np.testing.assert_array_equal(decode_mask(png), values_HW)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_masks_of_other_programs(bits: int) -> None:
    """Palette PNGs of fewer bits, as other programs write them, give their ids too."""
    labels_HW = (np.arange(10) % 2**bits).astype(np.uint8).reshape(2, 5)
    image = Image.fromarray(labels_HW)
    image.putpalette(range(3 * 2**bits) if bits < 8 else [0] * 768)
    np.testing.assert_array_equal(decode_mask(save(image, bits=bits)), labels_HW)


@pytest.mark.parametrize(
    ("mode", "found"),
    [
        ("RGB", "colour type 2 with 8 bits"),
        ("RGBA", "colour type 6"),
        ("LA", "colour type 4"),
        ("I;16", "type 0 with 16 bits"),
        ("1", "type 0 with 1 bits"),
    ],
)
def test_what_is_no_mask_is_refused(mode: str, found: str) -> None:
    """Colour, alpha and other depths of grey are errors that say what came."""
    with pytest.raises(DecodeError, match=f"palette or 8-bit grey PNG, got a PNG of .*{found}"):
        decode_mask(save(Image.new(mode, (4, 4))))


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"text", save(Image.new("L", (4, 4)), "JPEG")])
def test_other_bytes_are_refused(data: bytes) -> None:
    """What is no PNG at all is an error that shows how it begins."""
    with pytest.raises(DecodeError, match="bytes that begin with"):
        decode_mask(data)


def test_cut_masks_are_refused() -> None:
    """A mask that lost rows is a DecodeError."""
    labels_HW = np.random.default_rng(0).integers(0, 4, (50, 60), dtype=np.uint8)
    png = encode_mask(labels_HW, PALETTE)
    for length in range(0, len(png) - 20, 11):
        with pytest.raises(DecodeError):
            decode_mask(png[:length])


def test_a_few_bytes_cannot_claim_gigabytes() -> None:
    """A size that the compressed bytes cannot hold is refused before memory is taken for it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    with pytest.raises(DecodeError, match="too few for 100,000 x 100,000 px"):
        decode_mask(start + bytes(100))


@given(data=st.binary(max_size=200))
def test_random_bytes_behind_a_good_header(data: bytes) -> None:
    """Damage behind the header is a DecodeError of one printable line, or no damage at all."""
    png = encode_mask(np.zeros((3, 3), np.uint8), PALETTE)
    try:
        labels_HW = decode_mask(png[:33] + data)
    except DecodeError as error:
        check_message(error)
    else:
        assert labels_HW.shape == (3, 3)
