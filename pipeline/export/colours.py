"""Colours that differ, for as many classes or objects as a palette holds."""

import functools

import numpy as np
from numpy.typing import NDArray


@functools.cache
def colour_map(count: int = 256) -> NDArray[np.uint8]:
    """Return (count, 3) colours, red, green and blue, of which no two are equal; the first is black.

    These are Pascal VOC's: the bits of a number, three by three, are the highest bits of its colour.
    """
    numbers = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            bit = numbers >> (3 * place + channel) & 1
            colours[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    colours.setflags(write=False)  # as it is kept
    return colours
