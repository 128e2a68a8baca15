"""Images out of bytes, on one core: by us (Pillow, with checks), by Pillow alone, and by others."""

import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.decode import decode
from pipeline.demo.nuclei import generate
from tests.bench.figure import Figure, Say

SIDE, IMAGES, ROUNDS = 512, 24, 5
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG", "quality": 90},
    "PNG": {"format": "PNG"},
    "TIFF, LZW": {"format": "TIFF", "compression": "tiff_lzw"},
    "TIFF, raw": {"format": "TIFF"},
    "WebP": {"format": "WEBP", "quality": 90},
    "BMP": {"format": "BMP"},
}
Decoder = Callable[[bytes], Any]


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return the milliseconds of a core for an image, by format and decoder."""
    import cv2
    import simplejpeg

    cv2.setNumThreads(1)
    images = [Image.fromarray(generate((1, number), SIDE, SIDE).image_HWC) for number in range(IMAGES)]
    figures: list[Figure] = []
    for name, options in FORMATS.items():
        files = [_encoded(image, options) for image in images]
        sides: dict[str, Decoder] = {
            "ours": lambda data: decode(data, channels=3, max_pixels=1 << 28),
            "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
            "OpenCV": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB),
        }
        if name == "JPEG":
            sides["simplejpeg"] = simplejpeg.decode_jpeg
        times = _times(files, sides)
        told = ", ".join(f"{side} {1e3 * taken:.2f} ms" for side, taken in times.items())
        size = sum(map(len, files)) / len(files) / 1e3
        say(f"  {name}, {size:.0f} kB: {told}")
        how = f"{IMAGES} images of {SIDE}² ({size:.0f} kB), {ROUNDS} rounds in turn; {told}"
        figures.append(Figure(name=f"decoding {name}", value=1e3 * times["ours"], unit="ms", how=how))
    return figures


def _encoded(image: Image.Image, options: dict[str, Any]) -> bytes:
    image.save(file := io.BytesIO(), **options)
    return file.getvalue()


def _times(files: list[bytes], sides: dict[str, Decoder]) -> dict[str, float]:
    """Return each decoder's median seconds for an image, run in turn."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(ROUNDS + 1):
        for name, side in sides.items():
            began = time.process_time()
            for data in files:
                side(data)
            if number:
                taken[name].append((time.process_time() - began) / len(files))
    return {name: statistics.median(times) for name, times in taken.items()}
