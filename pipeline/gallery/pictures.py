"""The gallery's pictures: the images of rows, from where they lie, and what the table has of them.

Shape suffixes: H, W height and width in pixels; C channels.
"""

import io
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.drawing import brightened, fitted, gain
from pipeline.encode import decode_mask, encode_grey
from pipeline.errors import LimitError
from pipeline.specimens import decoded

MAX_BYTES: Final = 512 << 20  # of an image that is fetched
AT_ONCE: Final = 2  # images in memory: one of 100 million pixels has 300 MB
DIFFERENT: Final = (255, 0, 128)  # colour of pixels in which two masks differ
_free = threading.BoundedSemaphore(AT_ONCE)


def source(row: Mapping[str, Any], storage_config: StorageConfig, channels: int = 3) -> NDArray[np.uint8]:
    """Return a row's image as (H, W, C), fetched now. Raises ImageError: gone, changed, denied, too large."""
    if (row["size_bytes"] or 0) > MAX_BYTES:
        raise LimitError(f"the image has {row['size_bytes']:,} bytes; at most {MAX_BYTES:,} are shown")
    (content,) = storage.read_many([storage.Wanted(row["uri"], row["etag"] or "")], storage_config)
    return decoded(row, content, storage_config, channels)


def picture(row: Mapping[str, Any], storage_config: StorageConfig, side: int) -> tuple[bytes, int]:
    """Return a row's image as WebP, its longer side at most `side` pixels, and how much it was brightened."""
    with _free:
        image_HWC = source(row, storage_config)
        factor = gain(image_HWC)
        small = brightened(fitted(image_HWC, min(side, max(image_HWC.shape[:2]))), factor)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85, method=2)
    return buffer.getvalue(), factor


def class_ids(png: bytes, side: int) -> bytes:
    """Return a mask as a grey PNG whose values are class ids, its longer side at most `side` pixels."""
    labels_HW = decode_mask(png)
    return encode_grey(np.ascontiguousarray(labels_HW[np.ix_(*_nearest(labels_HW.shape, side))]))


def difference(
    masks: tuple[bytes, bytes], classes: tuple[Sequence[str], Sequence[str]], side: int
) -> tuple[bytes, float]:
    """Return a PNG of the pixels in which two masks differ, transparent elsewhere, and their share.

    Classes are equal if their names are; where the table does not tell names, if their ids are.
    Raises LimitError if the masks differ in size, DecodeError if one cannot be read.
    """
    differ_HW = differing(masks, classes)
    small_HW = differ_HW[np.ix_(*_nearest(differ_HW.shape, side))].astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(small_HW), "L").convert("P")
    image.putpalette([0, 0, 0, *DIFFERENT])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    return buffer.getvalue(), float(differ_HW.mean())


def differing(masks: tuple[bytes, bytes], classes: tuple[Sequence[str], Sequence[str]]) -> NDArray[np.bool_]:
    """Return in which pixels (H, W) two masks differ, as `difference` tells it."""
    first_HW, second_HW = map(decode_mask, masks)
    if first_HW.shape != second_HW.shape:
        sizes = " and ".join(f"{w:,} x {h:,}" for h, w in (first_HW.shape, second_HW.shape))
        raise LimitError(f"masks of different sizes cannot be compared: {sizes} pixels")
    same = np.arange(256)
    if all(classes):
        known = {name: place for place, name in enumerate(classes[0])}
        for place, name in enumerate(classes[1]):
            same[place] = known.get(name, 256 + place)
    differ_HW: NDArray[np.bool_] = first_HW != same[second_HW]
    return differ_HW


def _nearest(shape: tuple[int, ...], side: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which rows and columns stay where the longer side has at most `side` pixels."""
    scale = min(1.0, side / max(shape))

    def kept(length: int) -> NDArray[np.int64]:
        shown = max(1, round(length * scale))
        return ((np.arange(shown) + 0.5) * length / shown).astype(np.int64)

    return kept(shape[0]), kept(shape[1])
