"""Label Studio's brush masks: run lengths of bytes, packed into bits. Encoded and decoded.

A mask is an RGBA picture of 255 and 0, byte after byte. Format (thi.ng/rle-pack): 32 bits number of bytes, 5
bits word size - 1, four times 4 bits of a length's size - 1; then blocks of 1 bit (a run, or single words),
2 bits (which size), the length - 1 in so many bits, and one word, or as many words as the length says.

Shape suffixes: H, W height and width in pixels.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import LabelError

WORD: Final = 8  # bits
SIZES: Final = (3, 4, 8, 16)  # bits of a length
LONGEST: Final = 1 << SIZES[-1]
HEADER: Final = 32 + 5 + 4 * len(SIZES)  # bits
CHANNELS: Final = 4


def encode(mask_HW: NDArray[np.bool_]) -> list[int]:
    """Return the bytes of a mask, as Label Studio's `value.rle` has them. Its longest run is 2^16 bytes."""
    flat = np.ascontiguousarray(mask_HW).ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(np.append(starts, flat.size)) * CHANNELS
    values = flat[starts].astype(np.uint64) * 255
    pieces = -(-lengths // LONGEST)  # of each run
    values = np.repeat(values, pieces)
    last = np.cumsum(pieces) - 1
    rest = lengths - (pieces - 1) * LONGEST
    lengths = np.full(len(values), LONGEST, np.int64)
    lengths[last] = rest
    which = np.searchsorted([1 << size for size in SIZES], lengths)
    size = np.array(SIZES)[which]
    codes = (np.uint64(4) | which.astype(np.uint64)) << size.astype(np.uint64) | (lengths - 1).astype(
        np.uint64
    )
    codes = codes << np.uint64(WORD) | values
    bits = size + 3 + WORD
    head = flat.size * CHANNELS << 5 | WORD - 1
    for one in SIZES:
        head = head << 4 | one - 1
    all_bits = np.concatenate((_bits(np.array([head], np.uint64), np.array([HEADER])), _bits(codes, bits)))
    packed: list[int] = np.packbits(all_bits).tolist()
    return packed


def _bits(codes: NDArray[np.uint64], widths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the lowest bits of each number, so many of each, highest first."""
    ends = np.repeat(np.cumsum(widths), widths)
    shifts = (ends - 1 - np.arange(len(ends))).astype(np.uint64)
    bits: NDArray[np.uint8] = (np.repeat(codes, widths) >> shifts & np.uint64(1)).astype(np.uint8)
    return bits


def decode(rle: list[int], height: int, width: int) -> NDArray[np.bool_]:
    """Return the (H, W) mask of Label Studio's bytes: where alpha is not 0.

    Raises LabelError if they are no such bytes, or of another number of pixels.
    """
    try:
        data = bytes(rle)
    except (TypeError, ValueError) as error:
        raise LabelError("a brush mask must be a list of bytes, 0 to 255") from error
    place = 0

    def read(bits: int) -> int:
        nonlocal place
        place += bits
        if place > 8 * len(data):
            raise LabelError(f"a brush mask is cut short: {len(data):,} bytes")
        first, end = (place - bits) >> 3, (place + 7) >> 3
        return int.from_bytes(data[first:end], "big") >> (8 * end - place) & ((1 << bits) - 1)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in SIZES]
    if total != height * width * CHANNELS or word != WORD:
        raise LabelError(
            f"a brush mask has {total:,} words of {word} bits; its image, {width} x {height} px, "
            f"wants {height * width * CHANNELS:,} of {WORD}"
        )
    out = np.zeros(total, np.uint8)
    at = 0
    while at < total:
        run = read(1)
        end = at + read(sizes[read(2)]) + 1
        if end > total:
            raise LabelError("a brush mask is broken: a run reaches beyond its end")
        if run:
            out[at:end] = read(WORD)
        else:
            out[at:end] = [read(WORD) for _ in range(end - at)]
        at = end
    mask_HW: NDArray[np.bool_] = out.reshape(height, width, CHANNELS)[..., 3] > 0
    return mask_HW
