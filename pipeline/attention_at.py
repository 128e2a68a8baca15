"""Where a network looks: queries and keys of its attention for one image, to ask of any place.

A row of the table keeps what each place received; what one place looks at is computed for one image when it
is asked for, by the same network on the same tiles.

Shape suffixes: H, W image height and width in pixels; C channels; M heads; N tokens of a tile, row by row;
D width of a query or key; h, w rows and columns of the tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.checkpoint import Checkpoint
from models.preprocess import normalise
from models.stretch import stretch
from pipeline.config import TilingConfig
from pipeline.tiling import TileGrid, tile


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What one attention block makes of one tile."""

    block: str  # as in the table: level4
    corner: tuple[int, int]  # (y, x) of the tile in the image, pixels
    stride: int  # pixels of a token's side
    grid: tuple[int, int]  # (h, w)
    q_MND: NDArray[np.float32]
    k_MND: NDArray[np.float32]

    def looks(self, y: int, x: int, head: int) -> NDArray[np.float32]:
        """Return the weights (h, w), which sum to 1, that the token at a pixel of the image gives to each.

        Raises IndexError if the pixel is not in this tile, or there is no such head.
        """
        rows, columns = self.grid
        row, column = (y - self.corner[0]) // self.stride, (x - self.corner[1]) // self.stride
        if not (0 <= row < rows and 0 <= column < columns and 0 <= head < len(self.q_MND)):
            raise IndexError(f"no token of head {head} at ({y}, {x}) in the tile at {self.corner}")
        scores_N = self.k_MND[head] @ self.q_MND[head, row * columns + column]
        weights_N: NDArray[np.float32] = softmax(scores_N * self._scale)
        return weights_N.reshape(self.grid)

    def received(self, head: int) -> NDArray[np.float32]:
        """Return the attention (h, w) that each token gets from all: mean 1, and all 1 if it is uniform."""
        weights_NN = softmax(self.q_MND[head] @ self.k_MND[head].T * self._scale)
        received_N: NDArray[np.float32] = weights_NN.sum(axis=0)
        return received_N.reshape(self.grid)

    @property
    def _scale(self) -> float:
        return float(self.q_MND.shape[-1] ** -0.5)


class Inspector:
    """A network that tells its queries and keys, on the CPU and in float32."""

    def __init__(self, checkpoint: Checkpoint, tiling: TilingConfig) -> None:
        self._model = checkpoint.model.folded()
        self._normalisation = checkpoint.normalisation
        self._tiling = tiling

    def __call__(
        self, image_HWC: NDArray[np.uint8], corners: Sequence[tuple[int, int]] | None = None
    ) -> list[Tokens]:
        """Return the tokens of every block in every tile of an image; none without attention.

        `corners` are some of the image's `TileGrid.corners`: then only these tiles are computed.
        """
        height, width = image_HWC.shape[:2]
        grid = TileGrid(height=height, width=width, side=self._tiling.side, overlap=self._tiling.overlap)
        stretched_HWC = stretch(image_HWC, self._normalisation.stretch)
        return [
            tokens
            for corner in (grid.corners if corners is None else corners)
            for tokens in self._of_tile(_cut(stretched_HWC, corner, grid.side), corner)
        ]

    @torch.inference_mode()
    def _of_tile(self, tile_SSC: NDArray[np.uint8], corner: tuple[int, int]) -> list[Tokens]:
        x_BCSS = normalise(torch.from_numpy(tile_SSC[None].copy()), self._normalisation, torch.float32)
        inputs = self._model.attention_inputs(x_BCSS)
        return [
            Tokens(
                block=block,
                corner=corner,
                stride=self._tiling.side // given.grid[1],
                grid=given.grid,
                q_MND=given.q_BMND[0].numpy(),
                k_MND=given.k_BMND[0].numpy(),
            )
            for block, given in inputs.items()
        ]


def _cut(image_HWC: NDArray[np.uint8], corner: tuple[int, int], side: int) -> NDArray[np.uint8]:
    """Return the tile at a corner of the image's grid."""
    y, x = corner
    part_HWC = image_HWC[y : y + side, x : x + side]
    height, width = part_HWC.shape[:2]
    tile_SSC: NDArray[np.uint8]
    (tile_SSC,) = tile(part_HWC, TileGrid(height=height, width=width, side=side, overlap=0))
    return tile_SSC


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the weights of the last dimension, whatever the size of the scores."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True), np.float32)
