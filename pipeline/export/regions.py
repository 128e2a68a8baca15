"""Connected components of a label map: pixels of one class that touch, at corners too.

Shape suffixes: H, W height and width in pixels; h, w those of a component's box.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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


def components(labels_HW: NDArray[np.uint8]) -> tuple[NDArray[np.int32], list[int]]:
    """Return the number of each pixel's component, and the class id of each component.

    They are numbered from 1, class by class, in the order of their first pixels; 0 is class 0.
    """
    from scipy import ndimage  # here: it takes longer to import than all other formats

    numbers_HW = np.zeros(labels_HW.shape, np.int32)
    classes: list[int] = []
    for label in np.flatnonzero(np.bincount(labels_HW.ravel())):
        if label == 0:
            continue
        inside_HW = labels_HW == label
        own_HW, count = ndimage.label(inside_HW, np.ones((3, 3), int))
        numbers_HW[inside_HW] = own_HW[inside_HW] + len(classes)
        classes += [int(label)] * count
    return numbers_HW, classes


def boxes(numbers_HW: NDArray[np.int32]) -> list[tuple[slice, slice]]:
    """Return the rows and columns of the box around each number from 1."""
    from scipy import ndimage

    found: list[tuple[slice, slice]] = ndimage.find_objects(numbers_HW)
    return found


def regions(labels_HW: NDArray[np.uint8]) -> Iterator[Region]:
    """Yield the components of each class above 0, in the order of their numbers."""
    numbers_HW, classes = components(labels_HW)
    for index, (label, box) in enumerate(zip(classes, boxes(numbers_HW), strict=True)):
        yield Region(label, box[0].start, box[1].start, numbers_HW[box] == index + 1)
