"""Chunks, segments and directories: what files of the formats are put together from."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return the file that Pillow writes."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a PNG chunk with the right checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, kind: tuple[int, int, int], *chunks: bytes) -> bytes:
    """Return a PNG of these chunks; `kind` is bits a channel, colour type and interlacing."""
    depth, colours, interlaced = kind
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, interlaced)
    return b"".join((PNG_SIGNATURE, chunk(b"IHDR", header), *chunks, chunk(b"IEND", b"")))


def segment(marker: int, body: bytes) -> bytes:
    """Return a JPEG marker segment."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a WEBP file of these chunks."""
    parts = (name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2) for name, body in chunks)
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


Entry = tuple[int, int, int, int]  # tag, type, count, value or offset


def directory(entries: Sequence[Entry], following: int = 0) -> bytes:
    """Return a little-endian TIFF directory; every value takes four bytes. `following` is the next one."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)


def tiff(entries: Sequence[Entry], data: bytes = b"", *, following: int = 0) -> bytes:
    """Return a TIFF whose `data` begins at byte 8 and whose directory stands behind it."""
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory(entries, following)


def grey_tiff(width: int, height: int, data: bytes, **fields: tuple[int, int, int]) -> bytes:
    """Return an 8-bit grey TIFF of one uncompressed strip; a field `t273` is another entry for tag 273."""
    usual = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = {tag: (4, 1, value) for tag, value in usual.items()}
    entries |= {int(name[1:]): entry for name, entry in fields.items()}
    return tiff([(tag, *entry) for tag, entry in entries.items()], data)
