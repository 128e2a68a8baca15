"""Hostile images that are built: small files that ask for much memory or time, and what never ends."""

import lzma
import struct
import zlib
from collections.abc import Mapping

from PIL import Image

from tests.faults.corpus.pieces import chunk, directory, grey_tiff, png, riff, saved, segment, tiff

HUGE = 100_000  # pixels of a declared side
MEGABYTE = bytes(1 << 20)
ZEROS = zlib.compress(bytes(64 << 20), 9)  # 64 MB in 64 KB
ROW = chunk(b"IDAT", zlib.compress(b"\0\0"))  # of a grey PNG of one pixel


def bombs(seeds: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files by name. Some need a good file to begin with."""
    return {
        **_declared(seeds),
        **_png_bombs(),
        **_jpeg_bombs(seeds["baseline.jpg"]),
        **_frame_bombs(seeds),
        **_tiff_directories(),
        **_tiff_pixels(seeds["l.tif"]),
        **_others(seeds),
    }


def scan_bomb(width: int, height: int, scans: int) -> bytes:
    """Return a grey progressive JPEG of many empty scans: each costs 10 bytes, and a pass over all pixels."""
    data = bytearray(saved(Image.new("L", (8, 8)), "JPEG", progressive=True))
    frame = data.index(b"\xff\xc2")  # start of frame: length, precision, height, width
    data[frame + 5 : frame + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    start = data.index(b"\xff\xda")
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return bytes(data[:start] + data[start:end] * scans + b"\xff\xd9")


def _patched(data: bytes, place: int, packed: bytes) -> bytes:
    return data[:place] + packed + data[place + len(packed) :]


def _declared(seeds: Mapping[str, bytes]) -> dict[str, bytes]:
    """Small files that declare the largest sides that their formats allow, or 100,000 pixels."""
    sides = struct.pack("<II", HUGE, HUGE)
    found = {
        "declared.png": png(HUGE, HUGE, (8, 2, 0), chunk(b"IDAT", zlib.compress(bytes(1000)))),
        "declared.bmp": _patched(seeds["rgb.bmp"], 18, sides),
        "declared-runs.bmp": _patched(seeds["runs.bmp"], 18, sides),
        "declared.tif": grey_tiff(HUGE, HUGE, bytes(100)),
        "declared-deflate.tif": grey_tiff(HUGE, HUGE, zlib.compress(bytes(100)), t259=(4, 1, 8)),
        "declared.gif": _patched(seeds["palette.gif"], 6, b"\xff" * 4),
        "declared.webp": riff((b"VP8X", bytes(4) + struct.pack("<I", HUGE)[:3] * 2)),
        "declared-animated.webp": _patched(seeds["animated.webp"], 24, b"\xff\x3f\0\xff\x3f\0"),
        "canvas.webp": _patched(seeds["animated.webp"], 24, b"\xff\x1f\0\xff\x1f\0"),  # below Pillow's limit
        "declared-lossless.webp": riff((b"VP8L", b"\x2f\xff\xff\xff\xff" + bytes(50))),
    }
    for name, marker in (("baseline.jpg", b"\xff\xc0"), ("progressive.jpg", b"\xff\xc2")):
        frame = seeds[name].index(marker)
        found[f"declared-{name}"] = _patched(seeds[name], frame + 5, b"\xff" * 4)
    frame = seeds["palette.gif"].index(b",", 13 + 3 * 32)
    found["declared-frame.gif"] = _patched(seeds["palette.gif"], frame + 5, b"\xff" * 4)
    found["frame.gif"] = _patched(seeds["palette.gif"], frame + 5, b"\0\x20\0\x20")  # below Pillow's limit
    frame = seeds["lossy.webp"].index(b"\x9d\x01\x2a")
    found["lossy.webp"] = _patched(seeds["lossy.webp"], frame + 3, b"\0\x20\0\x20")  # below Pillow's limit
    found["declared-lossy.webp"] = _patched(seeds["lossy.webp"], frame + 3, b"\xff\x3f\xff\x3f")
    return found


def _png_bombs() -> dict[str, bytes]:
    """Endless chunks, and texts that unpack to a thousand times their size."""
    packed = zlib.compress(MEGABYTE[:-1], 9)
    grey = (8, 0, 0)
    return {
        "texts.png": png(1, 1, grey, *[chunk(b"zTXt", b"k%d\0\0" % n + packed) for n in range(200)], ROW),
        "late-texts.png": png(1, 1, grey, ROW, *[chunk(b"zTXt", b"k\0\0" + packed)] * 200),
        "long-texts.png": png(
            1, 1, grey, *[chunk(b"iTXt", b"k%d\0\1\0\0\0" % n + packed) for n in range(63)], ROW
        ),
        "profile.png": png(1, 1, grey, chunk(b"iCCP", b"k\0\0" + ZEROS), ROW),
        "tiny-texts.png": png(1, 1, grey, *[chunk(b"tEXt", b"k%d\0" % n) for n in range(50_000)], ROW),
        "private-chunks.png": png(1, 1, grey, *[chunk(b"prVt", b"")] * 50_000, ROW),
        "empty-data.png": png(1, 1, grey, *[chunk(b"IDAT", b"")] * 50_000, ROW),
        "data.png": png(1, 1, grey, chunk(b"IDAT", ZEROS)),
        "huge-chunk.png": png(1, 1, grey) + b"\xff\xff\xff\xffIDAT",
        "palette.png": png(1, 1, (8, 3, 0), chunk(b"PLTE", bytes(3 << 20)), ROW),
        "exif.png": png(1, 1, grey, chunk(b"eXIf", _absurd_exif(50_000)), ROW),
        "exif-as-text.png": png(
            1,
            1,
            grey,
            chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\n\n\n" + b"0" * 1_000_000)),
            ROW,
        ),
    }


def _absurd_exif(count: int) -> bytes:
    """Return EXIF whose many entries all claim the same bytes, all of them, as numbers."""
    size = 8 + 2 + 12 * count + 4
    entries = [(1000 + n % 60_000, 3, size // 2 - 1, 0) for n in range(count)]
    return b"II*\0\x08\0\0\0" + directory(entries[:0xFFFF])


def _jpeg_bombs(jpeg: bytes) -> dict[str, bytes]:
    def described(*segments: bytes) -> bytes:
        return jpeg[:2] + b"".join(segments) + jpeg[2:]

    profile = [segment(0xE2, b"ICC_PROFILE\0" + bytes((n, 255)) + bytes(60_000)) for n in range(1, 256)]
    tables = segment(0xDB, b"\0" + b"\x01" * 64)
    looped = b"II*\0\x08\0\0\0" + directory([(0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0x0112, 4, 1, 8)], 8)
    return {
        "scans.jpg": scan_bomb(360, 360, 20_000),
        "profile.jpg": described(*profile),
        "profile-parts.jpg": described(*[segment(0xE2, b"ICC_PROFILE\0\1\1")] * 20_000),
        "exif.jpg": described(segment(0xE1, b"Exif\0\0" + _absurd_exif(5000))),
        "exif-again.jpg": described(*[segment(0xE1, b"Exif\0\0" + _absurd_exif(5000))] * 50),
        "exif-loop.jpg": described(segment(0xE1, b"Exif\0\0" + looped)),
        "xmp.jpg": described(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"tiff:Orientation=" * 3800)),
        "comments.jpg": described(*[segment(0xFE, b"")] * 50_000),
        "tables.jpg": described(*[tables] * 20_000),
        "fill.jpg": described(b"\xff" * 2_000_000),
        "photoshop.jpg": described(
            segment(0xED, b"Photoshop 3.0\x008BIM" + b"8BIM\x03\xed\0\0\0\0\0\0" * 4000)
        ),
    }


def _frame_bombs(seeds: Mapping[str, bytes]) -> dict[str, bytes]:
    """Thousands of frames or pages."""
    gif = seeds["palette.gif"]
    start = gif.index(b",", 13 + 3 * 32)
    frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 1, 0, 0))
    webp = seeds["lossy.webp"][12:]
    part = b"ANMF", bytes(6) + struct.pack("<I", 23)[:3] + struct.pack("<I", 19)[:3] + bytes(4) + webp
    animation = (b"VP8X", b"\x02\0\0\0\x17\0\0\x13\0\0"), (b"ANIM", bytes(6))
    pages = b"".join(directory([(256, 4, 1, 1), (257, 4, 1, 1)], 8 + 30 * (n + 1)) for n in range(5000))
    return {
        "frames.gif": gif[:-1] + gif[start:-1] * 5000 + b";",
        "comments.gif": gif[:start] + b"!\xfe\x01a\0" * 20_000 + gif[start:],
        "comment.gif": gif[:start] + b"!\xfe" + (b"\xff" + b"a" * 255) * 8000 + b"\0" + gif[start:],
        "extensions.gif": gif[:start] + b"!\xf9\x04\0\0\0\0\0" * 20_000 + gif[start:],
        "no-frame.gif": gif[:start] + b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0" * 20_000,
        "frames.png": png(1, 1, (8, 0, 0), chunk(b"acTL", b"\xff" * 4 + bytes(4)), *[frame] * 10_000, ROW),
        "frames.webp": riff(*animation, *[part] * 3000),
        "chunks.webp": riff(animation[0], *[(b"junk", b"")] * 50_000),
        "pages.tif": b"II*\0\x08\0\0\0" + pages,
        "first-of-pages.tif": grey_tiff(1, 1, b"\0" * 4)[:-4] + struct.pack("<I", 126) + pages,
    }


def _tiff_directories() -> dict[str, bytes]:
    """Directories that loop, nest and claim what is not there."""
    pixel = {
        tag: (4, 1, value) for tag, value in ((256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (279, 1))
    }
    entries = [(tag, *entry) for tag, entry in pixel.items()] + [(273, 4, 1, 8), (277, 4, 1, 1)]
    data = bytes(1 << 20)
    following = 8 + 4
    absurd = [(30_000 + n, 3, len(data) // 2, 8) for n in range(20_000)]
    deep = b"".join(directory([(330, 4, 1, 8 + 18 * (n + 1))]) for n in range(3000))
    return {
        "loop.tif": tiff(entries, bytes(4), following=following),
        "sub-loop.tif": tiff([*entries, (330, 4, 1, 8 + 4), (0x8769, 4, 1, 8 + 4)], bytes(4)),
        "deep.tif": b"II*\0\x08\0\0\0" + deep,
        "overlap.tif": tiff([*entries, *absurd], data),
        "rationals.tif": tiff([*entries, (30_000, 5, len(data) // 8, 8)], data),
        "numbers.tif": tiff([*entries, (30_000, 3, len(data) // 2, 8)], data),
        "counts.tif": tiff(
            [*entries, *((tag, 12, 0x7FFFFFFF, 8) for tag in range(40_000, 41_000))], bytes(4)
        ),
        "entries.tif": tiff([*entries, *((tag, 1, 1, 1) for tag in range(1000, 60_000))], bytes(4)),
        "profile.tif": tiff([*entries, (34_675, 7, len(data), 8)], data),
        "strips.tif": grey_tiff(1, 1000, data, t273=(4, 200_000, 8), t279=(4, 200_000, 8), t278=(4, 1, 1)),
    }


def _tiff_pixels(grey: bytes) -> dict[str, bytes]:
    """Strips and tiles that unpack to far more than the image holds, or ask their codec for far more."""
    bomb = ZEROS
    packed = lzma.compress(bytes(100), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}])
    block = bytearray(packed[12:24])  # size, flags, filter, size of properties, dictionary, padding, checksum
    block[4] = 38  # 2 GB
    block[8:] = struct.pack("<I", zlib.crc32(block[:8]))
    jpeg = saved(Image.new("L", (2000, 2000)), "JPEG")
    tile = {"t322": (4, 1, 16 * HUGE), "t323": (4, 1, 16 * HUGE), "t324": (4, 1, 8)}
    small = {"t322": (4, 1, 16), "t323": (4, 1, 16), "t324": (4, 1, 8)}
    found = {
        "strip.tif": grey_tiff(10, 10, bomb, t259=(4, 1, 8)),
        "dictionary.tif": grey_tiff(10, 10, packed[:12] + block + packed[24:], t259=(4, 1, 34925)),
        "larger-jpeg.tif": grey_tiff(10, 10, jpeg, t259=(4, 1, 7)),
        "old-jpeg.tif": grey_tiff(10, 10, jpeg, t259=(4, 1, 6), t513=(4, 1, 8), t514=(4, 1, len(jpeg))),
        "jpeg-scans.tif": grey_tiff(360, 360, scan_bomb(360, 360, 5000), t259=(4, 1, 7)),
        "channels.tif": grey_tiff(300, 300, bytes(100), t277=(4, 1, 0xFFFF), t259=(4, 1, 8)),
        "rows.tif": grey_tiff(10, 10, zlib.compress(bytes(100)), t278=(4, 1, 0xFFFFFFFF), t259=(4, 1, 8)),
        "no-rows.tif": grey_tiff(10, 10, zlib.compress(bytes(100)), t278=(4, 1, 0), t259=(4, 1, 8)),
        "bits.tif": grey_tiff(10, 10, bytes(100), t258=(4, 1, 0xFFFF)),
        "empty.tif": grey_tiff(0, 0, b""),
    }
    for compression in (1, 5, 7, 8, 32773, 34925, 50000, 50001):
        for size, fields in (("large", tile), ("small", small)):
            counted = {**fields, "t325": (4, 1, len(bomb)), "t259": (4, 1, compression)}
            found[f"tile-{size}-{compression}.tif"] = grey_tiff(10, 10, bomb, **counted)
    found["wide-tile.tif"] = grey_tiff(
        10,
        10,
        bomb,
        t322=(4, 1, 16),
        t323=(4, 1, 1 << 24),
        t324=(4, 1, 8),
        t325=(4, 1, len(bomb)),
        t259=(4, 1, 8),
    )
    found["copies.tif"] = grey * 2000
    return found


def _others(seeds: Mapping[str, bytes]) -> dict[str, bytes]:
    runs = seeds["runs.bmp"]
    return {
        "empty.jpg": b"",
        "zeros.png": bytes(100_000),
        "jumps.bmp": runs[:1078] + b"\0\2\xff\xff" * 100_000,
        "long-runs.bmp": runs[:1078] + b"\xff\x00" * 100_000,
        "colours.bmp": _patched(runs, 46, b"\xff" * 4),
        "upside-down.bmp": _patched(seeds["rgb.bmp"], 22, struct.pack("<i", -0x80000000)),
        "header.bmp": _patched(seeds["rgb.bmp"], 14, b"\xff" * 4),
        "riff.webp": _patched(seeds["lossy.webp"], 4, b"\xff" * 4),
        "chunk.webp": _patched(seeds["lossy.webp"], 16, b"\xff" * 4),
        "exif.webp": riff(
            (b"VP8X", b"\x08\0\0\0\x17\0\0\x13\0\0"),
            (seeds["lossy.webp"][12:16], seeds["lossy.webp"][20:]),
            (b"EXIF", _absurd_exif(50_000)),
        ),
    }
