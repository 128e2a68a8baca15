"""Decoding: every format and mode, the rules for depth, alpha and orientation, limits and damage."""

import io
import resource
import struct
import threading
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from pipeline.decode import MAX_MESSAGE, decode
from pipeline.errors import ConfigError, DecodeError, LimitError
from tests.faults.corpus.bombs import scan_bomb
from tests.faults.corpus.pieces import grey_tiff

LIMIT = 1_000_000  # pixels
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]


@pytest.fixture
def photo() -> NDArray[np.uint8]:
    """A smooth image with three different channels, whose sides differ."""
    y, x = np.mgrid[0:20, 0:30]
    return np.stack([x * 8, y * 12, 255 - x * 4 - y * 4], axis=-1).astype(np.uint8)


@pytest.fixture
def noise() -> NDArray[np.uint8]:
    """An image that no codec can make small, so that its file can be cut in many places."""
    return np.random.default_rng(7).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def save(image: Image.Image | NDArray[Any], file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def grey(values: list[list[int]]) -> NDArray[np.uint8]:
    return np.array(values, np.uint8)


def check_message(error: Exception) -> None:
    """One short line of printable ASCII, whatever the file holds."""
    assert len(str(error)) <= MAX_MESSAGE
    assert str(error).isascii()
    assert str(error).isprintable()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI IiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def gif_header(width: int, height: int) -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0)
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + frame + b"\x08\x01\x00\x00;"


def tiff_header(width: int, height: int) -> bytes:
    fields = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4)


def webp_header(width: int, height: int) -> bytes:
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


class TestFormats:
    @pytest.mark.parametrize("file_format", FORMATS)
    @pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
    def test_every_format_gives_pillows_pixels(
        self, photo: NDArray[np.uint8], file_format: str, channels: int, mode: str
    ) -> None:
        """Every format decodes to (H, W, C) with the pixels that Pillow reads."""
        data = save(photo, file_format)
        image_HWC = decode(data, channels=channels, max_pixels=LIMIT)
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image.convert("RGB").convert(mode)).reshape(20, 30, channels)
        assert image_HWC.dtype == np.uint8
        np.testing.assert_array_equal(image_HWC, expected)

    @pytest.mark.parametrize(
        ("file_format", "options"),
        [
            ("JPEG", {"progressive": True}),
            ("WEBP", {"lossless": True}),
            ("PNG", {"optimize": True}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("TIFF", {"compression": "tiff_adobe_deflate"}),
            ("TIFF", {"compression": "packbits"}),
            ("TIFF", {"compression": "jpeg"}),
            ("TIFF", {"big_tiff": True}),
        ],
    )
    def test_variants_of_formats(
        self, photo: NDArray[np.uint8], file_format: str, options: dict[str, Any]
    ) -> None:
        """Compressions and variants of a format give the same picture, within the loss of the lossy ones."""
        image_HWC = decode(save(photo, file_format, **options), channels=3, max_pixels=LIMIT)
        lossy = "jpeg" in f"{file_format}{options}".lower()
        assert np.abs(image_HWC.astype(int) - photo).mean() <= (6 if lossy else 0)

    @pytest.mark.parametrize("file_format", ["GIF", "TIFF", "WEBP", "PNG"])
    def test_first_of_several_frames(self, file_format: str) -> None:
        """Of several frames or pages the first is read."""
        frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
        options = {"lossless": True} if file_format == "WEBP" else {}
        data = save(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
        image_HWC = decode(data, channels=3, max_pixels=LIMIT)
        assert (image_HWC == (255, 0, 0)).all()

    def test_other_formats_are_refused(self, photo: NDArray[np.uint8]) -> None:
        """A format that Pillow could read but that is not on the list is an error that names the list."""
        with pytest.raises(
            DecodeError, match=r"expected JPEG, PNG, WEBP, BMP, GIF or TIFF, got [\d,]+ bytes"
        ):
            decode(save(photo, "PPM"), channels=3, max_pixels=LIMIT)


class TestModes:
    @pytest.mark.parametrize(
        ("mode", "file_format"),
        [
            ("1", "PNG"),
            ("1", "TIFF"),
            ("1", "BMP"),
            ("L", "PNG"),
            ("L", "JPEG"),
            ("P", "PNG"),
            ("P", "GIF"),
            ("P", "BMP"),
            ("P", "TIFF"),
            ("CMYK", "JPEG"),
            ("CMYK", "TIFF"),
            ("YCbCr", "TIFF"),
        ],
    )
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_opaque_modes(self, photo: NDArray[np.uint8], mode: str, file_format: str, channels: int) -> None:
        """Every mode without alpha becomes the colours that Pillow's conversion to RGB gives."""
        data = save(Image.fromarray(photo).convert(mode), file_format)
        image_HWC = decode(data, channels=channels, max_pixels=LIMIT)
        with Image.open(io.BytesIO(data)) as image:
            rgb = image.convert("RGB")
        expected = np.asarray(rgb.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])).reshape(20, 30, channels)
        assert np.abs(image_HWC.astype(int) - expected).max() <= (2 if mode == "YCbCr" else 0)

    @pytest.mark.parametrize("channels", [1, 3, 4])
    @pytest.mark.parametrize(("mode", "file_format"), [("LA", "PNG"), ("RGBA", "PNG"), ("RGBA", "TIFF")])
    def test_opaque_alpha_changes_nothing(
        self, photo: NDArray[np.uint8], mode: str, file_format: str, channels: int
    ) -> None:
        """An alpha channel of 255 throughout leaves the colours as they are."""
        image = Image.fromarray(photo).convert(mode)
        image_HWC = decode(save(image, file_format), channels=channels, max_pixels=LIMIT)
        expected = image.convert("RGB").convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
        np.testing.assert_array_equal(image_HWC, np.asarray(expected).reshape(20, 30, channels))

    def test_bilevel_is_black_and_white(self) -> None:
        """A 1-bit image has the values 0 and 255."""
        bits = np.eye(9, dtype=bool)
        image_HWC = decode(save(Image.fromarray(bits), "PNG"), channels=1, max_pixels=LIMIT)
        np.testing.assert_array_equal(image_HWC[..., 0], bits * 255)

    @pytest.mark.parametrize("channels", [0, 2, 5])
    def test_impossible_channels(self, channels: int) -> None:
        """A number of channels that no image has is the caller's error, not the image's."""
        with pytest.raises(ConfigError, match="channels must be"):
            decode(b"", channels=channels, max_pixels=LIMIT)

    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_lab(self, channels: int) -> None:
        """A LAB image without colour, at half lightness, is the grey that sRGB has for it."""
        data = save(Image.new("LAB", (4, 4), (128, 128, 128)), "TIFF")
        image_HWC = decode(data, channels=channels, max_pixels=LIMIT)
        np.testing.assert_allclose(image_HWC[..., : min(channels, 3)], 119, atol=2)


class TestTransparency:
    @pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
    def test_colours_are_shown_on_white(self, file_format: str) -> None:
        """Transparent pixels turn white and half transparent ones half white, whatever colour they hide."""
        pixels = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 100, 200, 128]]], np.uint8)
        options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
        image_HWC = decode(save(pixels, file_format, **options), channels=3, max_pixels=LIMIT)
        expected = [[[255, 255, 255], [10, 20, 30], [127, 177, 227]]]
        np.testing.assert_allclose(image_HWC, expected, atol=1)

    def test_four_channels_keep_alpha(self) -> None:
        """With C=4 colours and alpha come back as they were stored."""
        pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 4), dtype=np.uint8)
        np.testing.assert_array_equal(decode(save(pixels, "PNG"), channels=4, max_pixels=LIMIT), pixels)

    def test_grey_with_alpha(self) -> None:
        """Grey with alpha is shown on white too."""
        image = Image.merge("LA", (Image.new("L", (2, 1), 50), Image.fromarray(grey([[0, 255]]))))
        image_HWC = decode(save(image, "PNG"), channels=1, max_pixels=LIMIT)
        assert image_HWC.ravel().tolist() == [255, 50]

    @pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
    def test_palette_with_transparency(self, transparency: int | bytes) -> None:
        """A transparent palette entry, given either way, is white for RGB and has alpha 0 for RGBA."""
        image = Image.fromarray(grey([[0, 1]]))
        image.putpalette([200, 0, 0, 0, 0, 200])
        data = save(image, "PNG", transparency=transparency)
        assert decode(data, channels=3, max_pixels=LIMIT).tolist() == [[[200, 0, 0], [255, 255, 255]]]
        assert decode(data, channels=4, max_pixels=LIMIT)[..., 3].tolist() == [[255, 0]]

    @pytest.mark.parametrize("file_format", ["GIF", "PNG"])
    def test_transparent_colour(self, file_format: str) -> None:
        """A colour that is declared transparent is white."""
        image = Image.fromarray(grey([[0, 90]]))
        data = save(image, file_format, transparency=90)
        assert decode(data, channels=1, max_pixels=LIMIT).ravel().tolist() == [0, 255]

    def test_premultiplied_tiff(self) -> None:
        """Grey TIFF with premultiplied alpha is read like straight alpha."""
        image = Image.merge("LA", (Image.fromarray(grey([[0, 60]])), Image.fromarray(grey([[0, 255]]))))
        data = save(image, "TIFF")
        straight = struct.pack("<HHIHH", 338, 3, 1, 2, 0)
        assert data.count(straight) == 1
        data = data.replace(straight, struct.pack("<HHIHH", 338, 3, 1, 1, 0))
        assert decode(data, channels=1, max_pixels=LIMIT).ravel().tolist() == [255, 60]


class TestDepth:
    @pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
    @pytest.mark.parametrize(
        ("highest", "depth"),
        [(0, 8), (200, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16384, 16)],
    )
    def test_grey_is_scaled_from_the_smallest_depth(self, file_format: str, highest: int, depth: int) -> None:
        """16-bit grey is scaled linearly from the smallest usual bit depth that holds the largest value."""
        values = np.linspace(0, highest, 12).round().astype(np.uint16).reshape(3, 4)
        image_HWC = decode(save(values, file_format), channels=1, max_pixels=LIMIT)
        expected = np.round(values * (255 / (2**depth - 1)))
        np.testing.assert_array_equal(image_HWC[..., 0], expected)

    def test_big_endian_tiff(self) -> None:
        """Big-endian 16-bit TIFF gives the same pixels as little-endian."""
        values = np.arange(0, 4000, 100, dtype=np.uint16).reshape(5, 8)
        little = decode(save(values, "TIFF"), channels=3, max_pixels=LIMIT)
        big_image = Image.frombytes("I;16B", (8, 5), values.astype(">u2").tobytes())
        big = decode(save(big_image, "TIFF"), channels=3, max_pixels=LIMIT)
        np.testing.assert_array_equal(big, little)

    def test_32_bit_integers(self) -> None:
        """32-bit grey is read by the 16-bit rule where it fits, and refused where it does not."""
        values = np.array([[0, 2000, 4095]], np.int32)
        assert decode(save(values, "TIFF"), channels=1, max_pixels=LIMIT).ravel().tolist() == [0, 125, 255]
        for bad in (-1, 65536):
            with pytest.raises(DecodeError, match="from 0 to 65535"):
                decode(save(np.array([[0, bad]], np.int32), "TIFF"), channels=1, max_pixels=LIMIT)

    def test_float(self) -> None:
        """Float grey of 0..1 is scaled to 0..255."""
        values = np.array([[0, 0.25, 1]], np.float32)
        assert decode(save(values, "TIFF"), channels=1, max_pixels=LIMIT).ravel().tolist() == [0, 64, 255]

    @pytest.mark.parametrize("bad", [-0.1, 1.5, 4095.0, float("nan"), float("inf")])
    def test_float_out_of_range(self, bad: float) -> None:
        """Float grey with any value outside 0..1 is an error, for its white is unknown."""
        with pytest.raises(DecodeError, match="values from 0 to 1"):
            decode(save(np.array([[0, bad]], np.float32), "TIFF"), channels=1, max_pixels=LIMIT)

    @pytest.mark.parametrize("values", [np.array([[0, 4095]], np.uint16), np.array([[0, 1]], np.float32)])
    def test_white_is_zero(self, values: NDArray[Any]) -> None:
        """Deep grey TIFFs that declare 0 to be white are inverted."""
        data = save(values, "TIFF")
        normal = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
        assert data.count(normal) == 1
        data = data.replace(normal, struct.pack("<HHIHH", 262, 3, 1, 0, 0))
        assert decode(data, channels=1, max_pixels=LIMIT).ravel().tolist() == [255, 0]

    def test_16_bit_colour_keeps_the_high_byte(self) -> None:
        """A 16-bit RGB PNG is read with 8 bits a channel."""
        row = b"\0" + struct.pack(">HHH", 0xFFFF, 0x8000, 0x01FF)
        header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
        parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
        image_HWC = decode(b"\x89PNG\r\n\x1a\n" + parts, channels=3, max_pixels=LIMIT)
        assert image_HWC.tolist() == [[[255, 128, 1]]]


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_exif_is_applied(self, photo: NDArray[np.uint8], file_format: str, orientation: int) -> None:
        """All eight orientations come out as viewers show them."""
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options = {"lossless": True} if file_format == "WEBP" else {}
        plain = decode(save(photo, file_format, **options), channels=3, max_pixels=LIMIT)
        turned = decode(save(photo, file_format, exif=exif, **options), channels=3, max_pixels=LIMIT)
        transposed = plain.swapaxes(0, 1)
        expected = {
            1: plain,
            2: plain[:, ::-1],
            3: plain[::-1, ::-1],
            4: plain[::-1],
            5: transposed,
            6: transposed[:, ::-1],
            7: transposed[::-1, ::-1],
            8: transposed[::-1],
        }[orientation]
        np.testing.assert_array_equal(turned, expected)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16"])
    def test_exif_is_applied_to_every_mode(self, photo: NDArray[np.uint8], mode: str) -> None:
        """Modes other than RGB are turned too, a palette image with its colours."""
        grey = Image.fromarray(photo[..., 0].astype(np.uint16) * 16)
        image = grey if mode == "I;16" else Image.fromarray(photo).convert(mode)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        plain = decode(save(image, "PNG"), channels=3, max_pixels=LIMIT)
        turned = decode(save(image, "PNG", exif=exif), channels=3, max_pixels=LIMIT)
        np.testing.assert_array_equal(turned, np.rot90(plain, -1))

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize(
        "exif",
        [
            b"Exif\0\0" + bytes(8),
            b"Exif\0\0MM\0*\xff\xff\xff\xff",
            b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(5),
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0" + bytes(4),
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0" + bytes(4),
            b"garbage",
        ],
    )
    @pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning")
    def test_broken_exif_is_ignored(self, photo: NDArray[np.uint8], file_format: str, exif: bytes) -> None:
        """An image whose EXIF is damaged or has an impossible orientation is read as it lies."""
        plain = decode(save(photo, file_format), channels=3, max_pixels=LIMIT)
        image_HWC = decode(save(photo, file_format, exif=exif), channels=3, max_pixels=LIMIT)
        np.testing.assert_array_equal(image_HWC, plain)

    def test_any_error_of_the_exif_reader_is_ignored(
        self, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever Pillow raises over EXIF does not fail the image, except a lack of memory."""
        data = save(photo, "PNG")

        def fail(image: Image.Image, *, in_place: bool) -> None:
            raise error

        monkeypatch.setattr(ImageOps, "exif_transpose", fail)
        error: Exception = struct.error("unpack")
        np.testing.assert_array_equal(decode(data, channels=3, max_pixels=LIMIT), photo)
        error = MemoryError()
        with pytest.raises(MemoryError):
            decode(data, channels=3, max_pixels=LIMIT)


class TestLimit:
    @pytest.mark.parametrize(
        ("header", "size"),
        [
            (png_header, 100_000),
            (bmp_header, 100_000),
            (gif_header, 60_000),
            (tiff_header, 100_000),
            (webp_header, 100_000),
        ],
    )
    def test_declared_size_is_checked_before_pixels(self, header: Any, size: int) -> None:
        """A few bytes that declare billions of pixels are a LimitError, and take no memory."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(LimitError, match=r"--max-pixels"):
            decode(header(size, size), channels=3, max_pixels=LIMIT)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32_000  # KiB

    def test_a_giant_tile_of_a_tiny_image(self) -> None:
        """A TIFF's tile is unpacked whole, and so is held to the limit as well."""
        tile = {"t322": (4, 1, 16), "t324": (4, 1, 8), "t325": (4, 1, 256)}
        small, giant = (grey_tiff(10, 10, bytes(256), t323=(4, 1, side), **tile) for side in (16, 1 << 24))
        assert decode(small, channels=1, max_pixels=LIMIT).shape == (10, 10, 1)
        with pytest.raises(LimitError, match=r"tile is 16 x 16,777,216 px .* \(--max-pixels\)"):
            decode(giant, channels=1, max_pixels=LIMIT)

    def test_message(self) -> None:
        """The message gives width x height, the limit and the option."""
        with pytest.raises(LimitError, match=r"100,000 x 90,000 px .* 1,000,000 \(--max-pixels\)"):
            decode(png_header(100_000, 90_000), channels=3, max_pixels=LIMIT)

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_limit_is_inclusive(self, photo: NDArray[np.uint8], file_format: str) -> None:
        """An image of exactly the limit is read, one pixel more is not."""
        data = save(photo, file_format)
        assert decode(data, channels=3, max_pixels=600).shape == (20, 30, 3)
        with pytest.raises(LimitError, match=r"30 x 20 px = 600 pixels, the limit is 599"):
            decode(data, channels=3, max_pixels=599)

    @pytest.mark.parametrize("file_format", FORMATS)
    @pytest.mark.filterwarnings("error")
    def test_pillows_limit_does_not_count(
        self, photo: NDArray[np.uint8], file_format: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An image under our limit is read without a warning even where Pillow's own limit is lower."""
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        assert decode(save(photo, file_format), channels=3, max_pixels=600).shape == (20, 30, 3)

    def test_pillows_limit_is_never_lowered(
        self, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A low limit of ours leaves the rest of the process its own."""
        data = save(photo, "PNG")
        for theirs in (10_000, None):
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", theirs)
            decode(data, channels=3, max_pixels=600)
            assert theirs == Image.MAX_IMAGE_PIXELS


def test_a_small_file_that_asks_for_hours_of_work() -> None:
    """2,000 scans of 16 million pixels in 20 KB: the time limit ends them."""
    bomb = scan_bomb(4000, 4000, scans=2000)
    with pytest.raises(LimitError, match=r"decoding takes longer than 0.05 s \(--decode-timeout\)"):
        decode(bomb, channels=1, max_pixels=16_000_000, seconds=0.05)
    assert decode(scan_bomb(40, 40, scans=3), channels=1, max_pixels=LIMIT, seconds=60).shape == (40, 40, 1)


class TestDamage:
    def test_empty(self) -> None:
        """An object of no bytes says so."""
        with pytest.raises(DecodeError, match="the object is empty"):
            decode(b"", channels=3, max_pixels=LIMIT)

    @pytest.mark.parametrize(
        ("file_format", "options", "needless"),
        [
            ("JPEG", {}, 0),
            ("JPEG", {"progressive": True}, 0),
            ("PNG", {}, 0),
            ("WEBP", {}, 0),
            ("WEBP", {"lossless": True}, 0),
            ("BMP", {}, 2),  # a row is padded to 4 bytes
            ("GIF", {}, 2),  # end of the first frame, end of the file: neither adds to the first frame
            ("TIFF", {}, 0),
            ("TIFF", {"compression": "tiff_lzw"}, 0),
            ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
            ("TIFF", {"compression": "packbits"}, 0),
        ],
    )
    @pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
    def test_a_cut_file_is_an_error(
        self, noise: NDArray[np.uint8], file_format: str, options: dict[str, Any], needless: int
    ) -> None:
        """A file cut anywhere is a DecodeError, never a half-filled image."""
        data = save(noise, file_format, **options)
        decode(data, channels=3, max_pixels=LIMIT)
        last = len(data) - needless
        for length in {*range(1, 80), *range(80, last, 97), *range(last - 40, last)}:
            with pytest.raises(DecodeError) as caught:
                decode(data[:length], channels=3, max_pixels=LIMIT)
            check_message(caught.value)

    @given(data=st.binary(min_size=1, max_size=200))
    def test_random_bytes(self, data: bytes) -> None:
        """Bytes that are no image are a DecodeError of one printable line."""
        with pytest.raises(DecodeError) as caught:
            decode(data, channels=3, max_pixels=LIMIT)
        check_message(caught.value)

    @pytest.mark.parametrize("file_format", FORMATS)
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_changed_bytes(self, photo: NDArray[np.uint8], file_format: str) -> None:
        """A file with a few changed bytes gives an image or one of our errors, nothing else."""
        rng = np.random.default_rng(3)
        whole = np.frombuffer(save(photo, file_format), np.uint8)
        for _ in range(150):
            damaged = whole.copy()
            positions = rng.integers(0, min(len(whole), 400), rng.integers(1, 4))
            damaged[positions] = rng.integers(0, 256, len(positions))
            try:
                image_HWC = decode(damaged.tobytes(), channels=3, max_pixels=LIMIT)
            except (DecodeError, LimitError) as error:
                check_message(error)
            else:
                assert image_HWC.dtype == np.uint8
                assert image_HWC.shape[2] == 3

    def test_hostile_text_stays_out_of_the_message(self) -> None:
        """Control characters of a file, and long texts, do not reach the message."""
        evil = b"\x1b]0;\x07<script>\n" + bytes(range(128, 256)) * 9
        data = png_header(2, 2)[:33] + chunk(evil[:4], evil) + chunk(b"IEND", b"")
        with pytest.raises(DecodeError) as caught:
            decode(data, channels=3, max_pixels=LIMIT)
        check_message(caught.value)

    def test_message_names_the_detected_format(self, photo: NDArray[np.uint8]) -> None:
        """The message says which format the bytes were taken for, how many came and what is wrong."""
        data = save(photo, "JPEG")[:400]
        with pytest.raises(DecodeError, match=r"not a readable image: 400 bytes of JPEG: .+"):
            decode(data, channels=3, max_pixels=LIMIT)

    @pytest.mark.parametrize(
        "error", [SyntaxError("x"), OverflowError(), EOFError("x"), struct.error("x"), zlib.error("x")]
    )
    def test_whatever_a_codec_raises_is_a_decode_error(
        self, photo: NDArray[np.uint8], error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Any exception of a codec is a DecodeError that names it, with the original as its cause."""

        def fail(self: Image.Image) -> None:
            raise error

        data = save(photo, "PNG")
        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
        with pytest.raises(DecodeError, match=str(error) or type(error).__name__) as caught:
            decode(data, channels=3, max_pixels=LIMIT)
        assert caught.value.__cause__ is error

    def test_lack_of_memory_is_not_the_images_fault(
        self, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A MemoryError passes through, because the same bytes may be read on another machine."""

        def fail(self: Image.Image) -> None:
            raise MemoryError

        data = save(photo, "PNG")
        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
        with pytest.raises(MemoryError):
            decode(data, channels=3, max_pixels=LIMIT)


def test_threads_do_not_disturb_each_other(photo: NDArray[np.uint8]) -> None:
    """Threads that decode with different limits each get their own answer."""
    data = save(photo, "PNG")
    wrong: list[object] = []

    def work(limit: int) -> None:
        for _ in range(100):
            try:
                decode(data, channels=3, max_pixels=limit)
                read = True
            except LimitError:
                read = False
            if read != (limit >= 600):
                wrong.append(limit)

    threads = [threading.Thread(target=work, args=(limit,)) for limit in (600, 599, 10_000, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
