"""Masks as PNG: ours against Pillow's, by the number of classes and how ragged their seams are."""

import io
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.encode import encode_mask
from tests.bench.figure import Figure, Say

SIDE, ROUNDS = 512, 15
NOISES = {
    "smooth": 0.0,
    "ragged": 0.1,
    "torn": 0.3,
    "noise": 5.0,
}  # of each class's score
ASKED = 8  # classes


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return the milliseconds of our masks of 8 classes, and their bytes over those of Pillow's level 6."""
    times, sizes = [], []
    for classes in (2, ASKED, 20):
        palette = [(i, 255 - i, i // 2) for i in range(classes)]
        for name, noise in NOISES.items():
            labels_HW = _mask(classes, noise)
            ours, fast, small = _in_turn(
                partial(encode_mask, labels_HW, palette),
                partial(_pillow, labels_HW, palette, 1),
                partial(_pillow, labels_HW, palette, 6),
            )
            sides = (("ours", ours), ("Pillow 1", fast), ("Pillow 6", small))
            told = ", ".join(f"{side} {ms:.2f} ms {size / 1e3:.1f} kB" for side, (ms, size) in sides)
            say(f"  {classes} classes, {name}: {told}")
            if classes == ASKED:
                times.append(ours[0])
                sizes.append(ours[1] / small[1])
    how = f"{SIDE}², {ASKED} classes, one core, {', '.join(NOISES)}; median of {ROUNDS} in turn: "
    return [
        Figure(
            name="mask encoding",
            value=max(times),
            unit="ms",
            limit=1.0,
            at_least=False,
            how=how + ", ".join(f"{ms:.2f}" for ms in times),
        ),
        Figure(
            name="bytes of a mask / Pillow's, level 6",
            value=max(sizes),
            unit="",
            limit=1.0,
            at_least=False,
            how=how + ", ".join(f"{size:.2f}" for size in sizes),
        ),
    ]


def _mask(classes: int, noise: float) -> NDArray[np.uint8]:
    """Return the winner, at each pixel, of one smooth field a class."""
    chance = np.random.default_rng(1)
    scores = []
    for _ in range(classes):
        coarse = Image.fromarray(chance.standard_normal((23, 23)).astype(np.float32))
        smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        scores.append(smooth + noise * chance.standard_normal((SIDE, SIDE)))
    labels_HW: NDArray[np.uint8] = np.argmax(scores, axis=0).astype(np.uint8)
    return labels_HW


def _pillow(labels_HW: NDArray[np.uint8], palette: list[tuple[int, int, int]], level: int) -> bytes:
    image, file = Image.fromarray(labels_HW), io.BytesIO()
    image.putpalette(bytes(value for colour in palette for value in colour))
    image.save(file, "PNG", compress_level=level)
    return file.getvalue()


def _in_turn(*sides: Callable[[], bytes]) -> list[tuple[float, int]]:
    """Return the median milliseconds of each side, and its bytes."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(ROUNDS):
        for side, taken in zip(sides, times, strict=True):
            started = time.process_time()
            side()
            taken.append(1e3 * (time.process_time() - started))
    return [(statistics.median(taken), len(side())) for side, taken in zip(sides, times, strict=True)]
