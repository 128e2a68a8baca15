"""Good images: every format that is read, in every variant that takes another way through its codec.

They are small, so that most of their bytes mean something, and the same each time.
"""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from tests.faults.corpus.pieces import chunk, png, saved, segment, tiff

SIDE = (24, 20)  # width, height in pixels
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def seeds() -> dict[str, bytes]:
    """Return the good images by name, which is that of a file."""
    return {**_jpegs(), **_pngs(), **_webps(), **_bmps(), **_gifs(), **_tiffs()}


def _photo() -> Image.Image:
    """Half of it is smooth, half is noise: codecs have a way for each."""
    width, height = SIDE
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 10, y * 12, 255 - x * 5 - y * 6], axis=-1).astype(np.uint8)
    noise = np.random.default_rng(1).integers(0, 256, pixels.shape, dtype=np.uint8)
    return Image.fromarray(np.where(x[..., None] < width // 2, pixels, noise))


def _alpha() -> Image.Image:
    image = _photo().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(SIDE))
    return image


def _deep() -> NDArray[np.uint16]:
    return np.asarray(_photo().convert("L")).astype(np.uint16) * 16


def _frames(mode: str) -> list[Image.Image]:
    return [_photo().rotate(90 * turn).convert(mode) for turn in (1, 2)]


def exif(orientation: int = 6) -> bytes:
    """Return EXIF with an orientation, texts, and a directory in the directory."""
    block = Image.Exif()
    block[ExifTags.Base.Orientation] = orientation
    block[ExifTags.Base.Make] = "maker"
    block.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifVersion] = b"0232"
    return block.tobytes()


def _profile() -> bytes:
    profile: bytes = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + bytes(12) + profile[36:]  # without the time of its making


def _jpegs() -> dict[str, bytes]:
    photo = _photo()
    return {
        "baseline.jpg": saved(photo, "JPEG", quality=80),
        "described.jpg": saved(photo, "JPEG", exif=exif(), icc_profile=_profile(), comment=b"said"),
        "progressive.jpg": saved(photo, "JPEG", progressive=True),
        "restarts.jpg": saved(photo, "JPEG", restart_marker_blocks=1, subsampling="4:2:0"),
        "grey.jpg": saved(photo.convert("L"), "JPEG", optimize=True),
        "cmyk.jpg": saved(photo.convert("CMYK"), "JPEG", progressive=True),
        "mpo.jpg": saved(photo, "MPO", save_all=True, append_images=_frames("RGB")),
        "fields.jpg": _with_segments(saved(photo, "JPEG")),
    }


def _with_segments(data: bytes) -> bytes:
    """Return a JPEG with a Photoshop segment and an Adobe one, which say size and transformation."""
    resolution = struct.pack(">IHHIHH", 72 << 16, 1, 1, 72 << 16, 1, 1)
    photoshop = b"Photoshop 3.0\x008BIM\x03\xed\0\0" + struct.pack(">I", len(resolution)) + resolution
    adobe = b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 1)
    return data[:2] + segment(0xED, photoshop) + segment(0xEE, adobe) + data[2:]


def _pngs() -> dict[str, bytes]:
    photo, alpha = _photo(), _alpha()
    palette = photo.quantize(16)
    found = {
        "rgb.png": saved(photo, "PNG"),
        "described.png": saved(photo, "PNG", exif=exif(8), icc_profile=_profile(), dpi=(72, 72)),
        "rgba.png": saved(alpha, "PNG"),
        "grey-alpha.png": saved(alpha.convert("LA"), "PNG"),
        "palette.png": saved(palette, "PNG", bits=4),
        "transparent.png": saved(palette, "PNG", transparency=bytes(range(0, 256, 16))),
        "bilevel.png": saved(photo.convert("1"), "PNG"),
        "grey16.png": saved(Image.fromarray(_deep()), "PNG"),
        "animated.png": saved(photo, "PNG", save_all=True, append_images=_frames("RGB")),
    }
    rgb16 = np.asarray(photo).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in rgb16)
    found["rgb16.png"] = png(*SIDE, (16, 2, 0), chunk(b"IDAT", zlib.compress(rows)))
    texts = [chunk(b"tEXt", b"Title\0a name"), chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"words " * 9))]
    texts.append(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='3'/>"))
    packed = zlib.compress(_interlaced(np.asarray(photo.convert("L"))))
    halves = [chunk(b"IDAT", packed[:100]), chunk(b"IDAT", packed[100:])]
    found["interlaced.png"] = png(*SIDE, (8, 0, 1), *texts, *halves)
    return found


def _interlaced(grey_HW: NDArray[np.uint8]) -> bytes:
    """Return the seven passes of Adam7, unfiltered."""
    passes = (grey_HW[y::down, x::right] for x, y, right, down in _ADAM7)
    return b"".join(b"\0" + row.tobytes() for part in passes for row in part if row.size)


def _webps() -> dict[str, bytes]:
    photo, alpha = _photo(), _alpha()
    return {
        "lossy.webp": saved(photo, "WEBP", quality=60),
        "lossless.webp": saved(photo, "WEBP", lossless=True),
        "lossy-alpha.webp": saved(alpha, "WEBP", quality=60),
        "lossless-alpha.webp": saved(alpha, "WEBP", lossless=True, exact=True),
        "described.webp": saved(photo, "WEBP", exif=exif(3), icc_profile=_profile(), xmp=b"<x/>"),
        "animated.webp": saved(photo, "WEBP", save_all=True, append_images=_frames("RGB")),
        "animated-alpha.webp": saved(
            alpha, "WEBP", save_all=True, append_images=_frames("RGBA"), lossless=True
        ),
    }


def _bmps() -> dict[str, bytes]:
    photo = _photo()
    grey = np.asarray(photo.convert("L"))
    return {
        "rgb.bmp": saved(photo, "BMP"),
        "grey.bmp": saved(photo.convert("L"), "BMP"),
        "palette.bmp": saved(photo.quantize(32), "BMP"),
        "bilevel.bmp": saved(photo.convert("1"), "BMP"),
        "rgba.bmp": saved(_alpha(), "BMP"),
        "runs.bmp": _bmp(8, 1, b"".join(b"\x18" + row[:1].tobytes() + b"\0\0" for row in grey) + b"\0\1"),
        "masks.bmp": _bmp(16, 3, bytes(48 * 20), struct.pack("<III", 0xF800, 0x7E0, 0x1F)),
    }


def _bmp(bits: int, compression: int, data: bytes, masks: bytes = b"") -> bytes:
    """Return a BMP of a grey palette where it needs one, with data as they are."""
    colours = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256)) if bits == 8 else masks
    header = struct.pack("<IiiHHIIiiII", 40, *SIDE, 1, bits, compression, len(data), 0, 0, 0, 0)
    start = 14 + len(header) + len(colours)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + colours + data


def _gifs() -> dict[str, bytes]:
    photo = _photo()
    palette = photo.quantize(32)
    return {
        "palette.gif": saved(palette, "GIF", interlace=0),
        "interlaced.gif": saved(palette, "GIF", interlace=1, comment=b"said"),
        "transparent.gif": saved(palette, "GIF", transparency=3),
        "grey.gif": saved(photo.convert("L"), "GIF"),
        "animated.gif": saved(palette, "GIF", save_all=True, append_images=_frames("P"), loop=0, duration=40),
    }


def _tiffs() -> dict[str, bytes]:
    photo, grey = _photo(), _photo().convert("L")
    modes = ("1", "L", "P", "LA", "RGBA", "CMYK", "LAB")
    found = {f"{mode.lower()}.tif": saved(_as(mode), "TIFF") for mode in modes}
    for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"):
        found[f"{name}.tif"] = saved(photo, "TIFF", compression=name)
    for name in ("group3", "group4", "tiff_ccitt"):
        found[f"{name}.tif"] = saved(photo.convert("1"), "TIFF", compression=name)
    found |= {
        "ycbcr-jpeg.tif": saved(photo.convert("YCbCr"), "TIFF", compression="jpeg"),
        "lzw16.tif": saved(Image.fromarray(_deep()), "TIFF", compression="tiff_lzw", tiffinfo={317: 2}),
        "grey16.tif": saved(Image.fromarray(_deep()), "TIFF"),
        "grey16-big-endian.tif": saved(
            Image.frombytes("I;16B", SIDE, _deep().astype(">u2").tobytes()), "TIFF"
        ),
        "grey32.tif": saved(Image.fromarray(_deep().astype(np.int32)), "TIFF"),
        "float.tif": saved(Image.fromarray(np.asarray(grey).astype(np.float32) / 255), "TIFF"),
        "float-lzw.tif": saved(
            Image.fromarray(np.asarray(grey).astype(np.float32) / 255), "TIFF", compression="tiff_lzw"
        ),
        "pages.tif": saved(photo, "TIFF", save_all=True, append_images=_frames("L")),
        "big.tif": saved(photo, "TIFF", big_tiff=True, exif=exif(5)),
        "described.tif": saved(
            photo, "TIFF", icc_profile=_profile(), description="said", compression="tiff_lzw"
        ),
        "planar.tif": _planar(photo),
        "tiled.tif": _tiled(np.asarray(grey), compressed=False),
        "tiled-deflate.tif": _tiled(np.asarray(grey), compressed=True),
    }
    return found


def _as(mode: str) -> Image.Image:
    if mode == "LAB":
        return Image.frombytes("LAB", SIDE, _photo().tobytes())
    return (_alpha() if mode in ("LA", "RGBA") else _photo()).convert(mode)


def _planar(photo: Image.Image) -> bytes:
    """Return a TIFF that holds red, green and blue one after another."""
    planes = [plane.tobytes() for plane in photo.split()]
    size = len(planes[0])
    head = struct.pack("<III", *(8 + 30 + size * index for index in range(3)))
    head += struct.pack("<III", size, size, size) + struct.pack("<HHH", 8, 8, 8)
    width, height = SIDE
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 32), (259, 4, 1, 1), (262, 4, 1, 2)]
    entries += [(273, 4, 3, 8), (277, 4, 1, 3), (278, 4, 1, height), (279, 4, 3, 20), (284, 4, 1, 2)]
    return tiff(entries, head + b"".join(planes))


def _tiled(grey_HW: NDArray[np.uint8], *, compressed: bool) -> bytes:
    """Return a grey TIFF of 16 x 16 px tiles, two by two."""
    padded = np.pad(grey_HW, ((0, 32 - grey_HW.shape[0]), (0, 32 - grey_HW.shape[1])))
    raw = [padded[y : y + 16, x : x + 16].tobytes() for y in (0, 16) for x in (0, 16)]
    tiles = [zlib.compress(tile) for tile in raw] if compressed else raw
    starts = [8 + 32 + sum(map(len, tiles[:index])) for index in range(4)]
    head = struct.pack("<4I", *starts) + struct.pack("<4I", *map(len, tiles))
    width, height = SIDE
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 4, 1, 8), (259, 4, 1, 8 if compressed else 1)]
    entries += [(262, 4, 1, 1), (277, 4, 1, 1), (322, 4, 1, 16), (323, 4, 1, 16)]
    return tiff([*entries, (324, 4, 4, 8), (325, 4, 4, 24)], head + b"".join(tiles))
