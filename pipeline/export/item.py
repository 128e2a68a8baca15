"""One image on its way out of a table: its mask, what the table says of it, and a name that is safe.

Shape suffixes: H, W height and width in pixels.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.encode import decode_mask
from pipeline.errors import DecodeError

WORK: Final = ".masklake-export"  # folder of what an unfinished export has done
STEM: Final = 60  # characters of an object's name that stay in a file's name
SUFFIXES: Final = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"})


@dataclass(frozen=True, slots=True)
class Item:
    """One row with a mask. Raises DecodeError when made of a mask that cannot be read."""

    row: Mapping[str, Any]  # the columns of pipeline/export/selection.py
    classes: tuple[str, ...]  # names by class id; 0 is the background
    images: bool = False  # whether the images go along
    source: bytes | None = None  # the image, if it goes along and is still the one that was segmented
    confidence_HW: NDArray[np.uint8] | None = None  # winning probability, 255 is 1; None: not known
    labels_HW: NDArray[np.uint8] = field(init=False)  # class ids

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels_HW", decode_mask(self.png))
        if self.confidence_HW is not None and self.confidence_HW.shape != self.labels_HW.shape:
            raise DecodeError("its mask has not the size of the image")

    @property
    def png(self) -> bytes:
        """The mask as the table has it: a palette PNG whose pixel values are class ids."""
        data: bytes = (self.row["mask"] or {}).get("bytes") or b""
        return data

    @property
    def stem(self) -> str:
        """A file's name without its end: what is harmless of the object's, and the image's id."""
        return stem_of(self.row["name"] or "", self.row["image_id"])

    @property
    def image_name(self) -> str:
        """What the image is called in documents: the stem, with the object's own suffix if it is one."""
        suffix = (self.row["name"] or "").rpartition(".")[2].lower()
        return f"{self.stem}.{suffix if suffix in SUFFIXES else 'png'}"


def stem_of(name: str, image_id: str) -> str:
    """Return letters, digits, `_` and `-` alone: never a path, never hidden, and unique by the id."""
    kept = re.sub(r"[^A-Za-z0-9_-]+", "_", name.rpartition(".")[0] or name).strip("_-")[:STEM]
    return f"{kept or 'image'}-{re.sub(r'[^A-Za-z0-9_-]', '_', image_id)}"


def put(path: Path, data: bytes) -> None:
    """Write a file as a whole: one of its name is there with all of its bytes, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_bytes(data)
    beside.replace(path)
