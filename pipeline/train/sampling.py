"""Which crops a run sees, in which order: a pure function of the seed, so that a restart repeats nothing.

An epoch is a round over the training images in a new order, in which a large image comes more often than a
small one. It is cut into micro-batches, numbered through the whole run; workers share the numbers.

Shape suffixes: H, W height and width in pixels; C channels; S side of a crop.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Crop:
    """One crop of a run."""

    image: int  # index in the list of training images
    seed: tuple[int, int]  # decides the place


class Sampler:
    """The crops of every micro-batch of a run."""

    def __init__(self, areas: NDArray[np.int64], side: int, batch: int, micro_batch: int, seed: int) -> None:
        # By the root of its area: a large image holds more, but much of that is alike.
        self._weights = np.maximum(1.0, np.sqrt(areas) / side)
        self.steps = max(1, round(float(self._weights.sum()) / batch))  # of an epoch
        self.shares = batch // micro_batch  # micro-batches of a step
        self._micro_batch, self._seed = micro_batch, seed
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    def crops(self, micro: int) -> list[Crop]:
        """Return the crops of micro-batch number `micro`, counted from the beginning of the run."""
        epoch, within = divmod(micro, self.steps * self.shares)
        start = within * self._micro_batch
        images = self._order(epoch)[start : start + self._micro_batch]
        return [
            Crop(int(image), (self._seed, micro * self._micro_batch + i)) for i, image in enumerate(images)
        ]

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        """Return the image of every crop of an epoch: each image as often as it weighs, rounded by chance."""
        rng = np.random.default_rng((self._seed, epoch))
        order = rng.permutation(len(self._weights))
        count = self.steps * self.shares * self._micro_batch
        ends = np.cumsum(self._weights[order])
        points = (np.arange(count) + rng.random()) * (ends[-1] / count)
        images = order[np.minimum(np.searchsorted(ends, points, side="right"), len(order) - 1)]
        return rng.permutation(images)


def cut(
    image_HWC: NDArray[np.uint8], labels_HW: NDArray[np.uint8], side: int, seed: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a square of `side` px from a random place: (S, S, C) and (S, S).

    An image smaller than the crop is first mirrored at its right and lower edge.
    """
    rng = np.random.default_rng(seed)
    height, width = labels_HW.shape
    top, left = rng.integers(max(0, height - side) + 1), rng.integers(max(0, width - side) + 1)
    window = np.s_[top : top + side, left : left + side]
    image_HWC, labels_HW = image_HWC[window], labels_HW[window]
    missing = [(0, side - size) for size in labels_HW.shape]
    if max(after for _, after in missing):
        image_HWC = np.pad(image_HWC, [*missing, (0, 0)], mode="symmetric")
        labels_HW = np.pad(labels_HW, missing, mode="symmetric")
    return image_HWC, labels_HW
