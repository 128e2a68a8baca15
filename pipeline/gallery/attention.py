"""What the tokens of an image look at: a row's network on its source, when somebody points at a place.

Shape suffixes: H, W rows and columns of a picture of the whole image; h, w those of a tile's tokens.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.attention_at import Inspector, Tokens
from pipeline.config import Recipe, StorageConfig, TilingConfig
from pipeline.errors import ConfigError, LimitError, ModelError
from pipeline.gallery.pictures import source
from pipeline.registry.checkpoints import fetch_used
from pipeline.tiling import TileGrid

MAX_TILES: Final = 256  # of an image that is computed when somebody asks: some 15 seconds on two cores
KEPT_BYTES: Final = 256 << 20  # of queries and keys of the images that were asked for last
NETWORKS: Final = 2  # kept
SIDE: Final = 800  # pixels, at most, of the longer side of a picture


class Attention:
    """Computes tokens, one image at a time, and keeps those of the last ones."""

    def __init__(self, storage_config: StorageConfig, registry: str | None) -> None:
        self._storage, self._registry = storage_config, registry
        self._lock = threading.Lock()
        self._networks: OrderedDict[tuple[str, str], tuple[Inspector, int]] = OrderedDict()
        self._tokens: OrderedDict[str, list[Tokens]] = OrderedDict()

    def tokens(self, row: Mapping[str, Any], recipe: Recipe | None) -> list[Tokens]:
        """Return the tokens of a row's image.

        Raises ModelError if its network cannot be had, LimitError if the image is too large for it, and
        ImageError if the image is not what it was.
        """
        if recipe is None:
            raise ModelError("the folder of the run is gone that says how its images were tiled")
        with self._lock:
            if row["key"] in self._tokens:
                self._tokens.move_to_end(row["key"])
                return self._tokens[row["key"]]
            tiling = TilingConfig(side=recipe.side, overlap=recipe.overlap)
            grid = TileGrid(
                height=row["height"], width=row["width"], side=tiling.side, overlap=tiling.overlap
            )
            if len(grid.corners) > MAX_TILES:
                raise LimitError(
                    f"the image has {len(grid.corners):,} tiles; at most {MAX_TILES} are computed on demand"
                )
            inspector, channels = self._network(row["model"], recipe, tiling)
            found = inspector(source(row, self._storage, channels))
            self._tokens[row["key"]] = found
            while len(self._tokens) > 1 and sum(map(_size, self._tokens.values())) > KEPT_BYTES:
                self._tokens.popitem(last=False)
        return found

    def _network(self, model: str, recipe: Recipe, tiling: TilingConfig) -> tuple[Inspector, int]:
        if (model, recipe.id) not in self._networks:
            checkpoint = fetch_used(model, recipe.checkpoint, self._storage, self._registry).load()
            self._networks[model, recipe.id] = Inspector(checkpoint, tiling), checkpoint.config.in_channels
            if len(self._networks) > NETWORKS:
                self._networks.popitem(last=False)
        self._networks.move_to_end((model, recipe.id))
        return self._networks[model, recipe.id]


def _size(tokens: list[Tokens]) -> int:
    return sum(one.q_MND.nbytes + one.k_MND.nbytes for one in tokens)


def described(tokens: list[Tokens]) -> list[dict[str, Any]]:
    """Return the blocks with their tiles, for JSON."""
    blocks: dict[str, dict[str, Any]] = {}
    for one in tokens:
        block = blocks.setdefault(
            one.block, {"block": one.block, "heads": len(one.q_MND), "stride": one.stride, "tiles": []}
        )
        block["tiles"].append({"corner": list(one.corner), "grid": list(one.grid)})
    return list(blocks.values())


def received(tokens: list[Tokens], block: str, head: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the attention that each place gets, over the whole image: log(1 + received), 255 its maximum.

    `size` is (height, width) of the image. Where tiles overlap it is their mean.
    """
    chosen = _of_block(tokens, block, head)
    sum_HW, count_HW = np.zeros(_scaled(size), np.float32), np.zeros(_scaled(size), np.float32)
    for one in chosen:
        rows, columns, values = _spread(one, one.received(head), size)
        sum_HW[np.ix_(rows, columns)] += values
        count_HW[np.ix_(rows, columns)] += 1
    return _grey(np.log1p(sum_HW / np.maximum(count_HW, 1)))


def looks(
    tokens: list[Tokens], block: str, head: int, at: tuple[int, int], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], float, tuple[int, int]]:
    """Return where the token at a pixel (y, x) looks, its largest weight, and its row and column.

    In the picture 255 is that weight. Of several tiles that have the pixel, the one is asked in whose
    middle it is most. Raises ConfigError if the pixel is not in the image.
    """
    y, x = at
    if not (0 <= y < size[0] and 0 <= x < size[1]):
        raise ConfigError(
            f"y and x are pixels of an image of {size[0]:,} x {size[1]:,} (rows, columns), got {y}, {x}"
        )

    def distance(one: Tokens) -> float:
        (top, left), (rows, columns) = one.corner, one.grid
        return max(abs(y + 0.5 - top - rows * one.stride / 2), abs(x + 0.5 - left - columns * one.stride / 2))

    one = min(_of_block(tokens, block, head), key=distance)
    weights = one.looks(y, x, head)
    picture_HW = np.zeros(_scaled(size), np.float32)
    rows, columns, values = _spread(one, weights, size)
    picture_HW[np.ix_(rows, columns)] = values
    token = ((y - one.corner[0]) // one.stride, (x - one.corner[1]) // one.stride)
    return _grey(picture_HW), float(weights.max()), token


def _of_block(tokens: list[Tokens], block: str, head: int) -> list[Tokens]:
    chosen = [one for one in tokens if one.block == block]
    if not chosen or not 0 <= head < len(chosen[0].q_MND):
        known = "; ".join(f"{one['block']}: heads 0 to {one['heads'] - 1}" for one in described(tokens))
        raise ConfigError(f"there is no head {head} of block {block!r}; there are {known or 'none'}")
    return chosen


def _scaled(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _spread(
    one: Tokens, values_hw: NDArray[np.float32], size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return which rows and columns of the picture a tile covers, and its values there."""
    covered, taken = [], []
    for corner, tokens, length, shown in zip(one.corner, one.grid, size, _scaled(size), strict=True):
        pixels = ((np.arange(shown) + 0.5) * length / shown).astype(np.int64) - corner
        inside = np.flatnonzero((pixels >= 0) & (pixels < tokens * one.stride))
        covered.append(inside)
        taken.append(pixels[inside] // one.stride)
    return covered[0], covered[1], values_hw[np.ix_(*taken)]


def _grey(values_HW: NDArray[np.float32]) -> NDArray[np.uint8]:
    most = float(values_HW.max())
    scaled: NDArray[np.uint8] = np.rint(values_HW * (255 / most if most > 0 else 0)).astype(np.uint8)
    return scaled
