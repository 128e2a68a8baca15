"""Cut an image into overlapping tiles, and stitch per-tile scores back into one image.

Pure numpy: no I/O, no Ray, no torch. `tile` and `stitch` share a file because each is only right with
respect to the other; tests/unit/pipeline/test_tiling.py checks the round trip. `add_tiles` takes torch
tensors as well, so that prediction stitches on the device.

Shape suffixes: H, W image height and width in pixels; S tile side in pixels; N tiles; C channels; a padded
height or width is marked P.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

ALIGN = 32  # pixels; the largest stride of the network


def check_tile_side(side: int, stride: int) -> None:
    """Raise ConfigError if a network of this stride cannot be given tiles of `side` pixels."""
    if side % stride:
        raise ConfigError(f"--tile {side}: this network needs tiles of a multiple of {stride} pixels")


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid:
    """Where the tiles of one image lie. Equal fields give equal tiles, so a retry repeats them.

    The image is extended at the right and below to one tile at least, and to a multiple of ALIGN: every
    corner then lies on a multiple of ALIGN, and maps at the network's stride can be stitched exactly too.
    """

    height: int  # pixels, whole image
    width: int  # pixels, whole image
    side: int = 256  # pixels, the model's input size
    overlap: int = 32  # pixels shared by neighbours, so that seams are averaged away

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ConfigError(f"image must not be empty, got {self.height} x {self.width} px")
        if self.side < ALIGN or self.side % ALIGN:
            raise ConfigError(f"side must be a positive multiple of {ALIGN} px, got {self.side}")
        if not 0 <= self.overlap < self.side or self.overlap % ALIGN:
            raise ConfigError(
                f"overlap must be a multiple of {ALIGN} px in [0, {self.side}), got {self.overlap}"
            )

    @property
    def padded_height(self) -> int:
        """Height in pixels after extension."""
        return max(self.side, -(-self.height // ALIGN) * ALIGN)

    @property
    def padded_width(self) -> int:
        """Width in pixels after extension."""
        return max(self.side, -(-self.width // ALIGN) * ALIGN)

    @property
    def corners(self) -> tuple[tuple[int, int], ...]:
        """Top-left (y, x) of each tile, row by row; the last of a row is moved inwards, not cut."""
        return _corners(self.padded_height, self.padded_width, self.side, self.overlap)


@functools.lru_cache(maxsize=1024)  # a bucket has millions of images, but few sizes
def _corners(height: int, width: int, side: int, overlap: int) -> tuple[tuple[int, int], ...]:
    step = side - overlap
    ys = [*range(0, height - side, step), height - side]
    xs = [*range(0, width - side, step), width - side]
    return tuple((y, x) for y in ys for x in xs)


def tile(image_HWC: NDArray[np.uint8], grid: TileGrid) -> NDArray[np.uint8]:
    """Return the tiles as one (N, S, S, C) array, in the order of `grid.corners`.

    The image is extended to the right and below by its edge pixels. An image of exactly one tile is not
    copied: the result is a view of it.

    Raises ValueError if the image is not the size that `grid` describes.
    """
    if image_HWC.ndim != 3 or image_HWC.shape[:2] != (grid.height, grid.width):
        raise ValueError(
            f"image must have shape ({grid.height}, {grid.width}, C) to fit its grid, got {image_HWC.shape}"
        )
    below, right = grid.padded_height - grid.height, grid.padded_width - grid.width
    if below or right:
        image_HWC = np.pad(image_HWC, ((0, below), (0, right), (0, 0)), mode="edge")
    side = grid.side
    if len(grid.corners) == 1:
        return image_HWC[np.newaxis]
    return np.stack([image_HWC[y : y + side, x : x + side] for y, x in grid.corners])


def window(side: int) -> NDArray[np.float32]:
    """Return the (S, S) weights of a tile's pixels: a Gaussian with a maximum of 1 and sigma = side / 8.

    The weight falls to exp(-16) = 1.1e-7 in the corners. It is never 0, and far above the smallest normal
    float32 and bfloat16 (1.2e-38), so that sums of weights are safe to divide by in both, not in float16.

    Source: Isensee et al. 2021, nnU-Net, Nature Methods 18, 203-211 (inference with Gaussian importance
    weighting).
    """
    distance = np.arange(side) - (side - 1) / 2
    profile = np.exp(-0.5 * (distance / (side / 8)) ** 2)
    profile /= profile.max()
    return np.outer(profile, profile).astype(np.float32)


class _Array(Protocol):
    """What `add_tiles` needs of a numpy array or a torch tensor."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: Any, /) -> Any: ...


_ArrayT = TypeVar("_ArrayT", bound=_Array)


def add_tiles(canvas: _ArrayT, scores: _ArrayT, corners: Sequence[tuple[int, int]], window: _ArrayT) -> None:
    """Add the weighted scores of tiles to `canvas`, in place.

    `canvas` is (C, PH, PW) and floating, `scores` (N, C, S, S), `window` (S, S); all three are numpy arrays,
    or all three torch tensors on one device. `corners` holds the (y, x) of the N tiles, which may be a part
    of a grid's. Divide by `coverage` when all tiles are added.
    """
    if len(scores) != len(corners):
        raise ValueError(f"scores and corners must be as many, got {len(scores)} and {len(corners)}")
    side = len(window)
    for index, (y, x) in enumerate(corners):
        # Not `canvas[...] += ...`, which would write the slice back onto itself: one more pass in torch.
        part = canvas[:, y : y + side, x : x + side]
        part += scores[index] * window


def coverage(grid: TileGrid, window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the (PH, PW) sums of the weights that the tiles of `grid` lay on each pixel; all above 0."""
    total = np.zeros((grid.padded_height, grid.padded_width), np.float32)
    for y, x in grid.corners:
        total[y : y + grid.side, x : x + grid.side] += window
    return total


def stitch(scores_NCSS: NDArray[np.float32], grid: TileGrid) -> NDArray[np.float32]:
    """Return the (C, H, W) weighted mean of the tiles' scores, which are in the order of `grid.corners`.

    The inverse of `tile`: scores that agree wherever tiles overlap come back as they are, up to rounding.

    Raises ValueError if the scores do not fit `grid`.
    """
    if scores_NCSS.ndim != 4 or scores_NCSS.shape[2:] != (grid.side, grid.side):
        raise ValueError(f"scores must have shape (N, C, {grid.side}, {grid.side}), got {scores_NCSS.shape}")
    weights = window(grid.side)
    canvas = np.zeros((scores_NCSS.shape[1], grid.padded_height, grid.padded_width), np.float32)
    add_tiles(canvas, scores_NCSS.astype(np.float32, copy=False), grid.corners, weights)
    canvas /= coverage(grid, weights)
    return canvas[:, : grid.height, : grid.width]
