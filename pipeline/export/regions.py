"""Connected components of a label map: pixels of one class that touch, at corners too.

Shape suffixes: H, W height and width in pixels; h, w those of a component's box.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


@dataclass(frozen=True, slots=True)
class Region:
    """One connected component."""

    label: int  # class id, above 0
    top: int  # pixels
    left: int
    mask_hw: NDArray[np.bool_]  # within its box

    @property
    def area(self) -> int:
        """Pixels."""
        return int(self.mask_hw.sum())


def regions(labels_HW: NDArray[np.uint8]) -> Iterator[Region]:
    """Yield the components of each class above 0, class by class."""
    for label in np.unique(labels_HW):
        if label == 0:
            continue
        numbers_HW, _ = ndimage.label(labels_HW == label, np.ones((3, 3), int))
        for number, box in enumerate(ndimage.find_objects(numbers_HW), start=1):
            yield Region(int(label), box[0].start, box[1].start, numbers_HW[box] == number)
