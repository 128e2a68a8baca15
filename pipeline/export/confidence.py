"""How sure the network was of each pixel. The table keeps one number an image, so it is computed again: by
the row's own checkpoint, on the version of the image that was segmented, in the row's own tiles.

Shape suffixes: H, W height and width in pixels; C channels.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.config import PredictConfig, Recipe, StorageConfig, TilingConfig
from pipeline.decode import decode
from pipeline.errors import ConfigError, DecodeError, FetchError, ImageError, LimitError
from pipeline.registry.checkpoints import CheckpointFiles, fetch_used

if TYPE_CHECKING:
    from pipeline.predict import Segmenter

PIXELS: Final = 32_000_000  # of images that are decoded at once, or one image


class Networks:
    """The networks of a table's rows, of which one at a time is ready.

    Raises ModelError if one is not there any more, or is another now, and ConfigError for rows whose run does
    not tell its recipe: better at once than after an hour.
    """

    def __init__(
        self, used: Sequence[tuple[str, str]], recipes: Mapping[str, Recipe], config: StorageConfig
    ) -> None:
        self._recipes = recipes
        self._files: dict[str, CheckpointFiles] = {}
        self._ready: tuple[tuple[str, str], Segmenter, int] | None = None
        for model, recipe in used:
            if recipe not in recipes:
                raise ConfigError(f"--confidence: no run of recipe {recipe} tells how its images were cut")
            if model not in self._files:
                self._files[model] = fetch_used(model, recipes[recipe].checkpoint, config)

    def confidence(
        self, rows: Sequence[Mapping[str, Any]], contents: Sequence[bytes | FetchError]
    ) -> list[NDArray[np.uint8] | ImageError]:
        """Return the winning probability of each pixel (H, W), 255 is 1, or why there is none."""
        results: list[NDArray[np.uint8] | ImageError] = [FetchError("not read")] * len(rows)
        batch: list[int] = []
        for index, row in enumerate(rows):
            if batch and (
                _network(row) != _network(rows[batch[0]])
                or sum(rows[i]["width"] * rows[i]["height"] for i in [*batch, index]) > PIXELS
            ):
                self._fill(results, batch, rows, contents)
                batch = []
            batch.append(index)
        self._fill(results, batch, rows, contents)
        return results

    def _fill(
        self,
        results: list[NDArray[np.uint8] | ImageError],
        batch: Sequence[int],
        rows: Sequence[Mapping[str, Any]],
        contents: Sequence[bytes | FetchError],
    ) -> None:
        if not batch:
            return
        segmenter, channels = self._segmenter(_network(rows[batch[0]]))
        images: dict[int, NDArray[np.uint8]] = {}
        for index in batch:
            try:
                images[index] = _image(rows[index], contents[index], channels)
            except ImageError as error:
                results[index] = error
        for index, result in zip(images, segmenter(list(images.values())), strict=True):
            if isinstance(result, ImageError):
                results[index] = result
            elif result.confidence_HW is not None:  # as it was asked for
                results[index] = result.confidence_HW

    def _segmenter(self, network: tuple[str, str]) -> tuple["Segmenter", int]:
        """Return the network and how many channels it takes."""
        from pipeline.predict import Segmenter  # torch: only where a network runs

        if self._ready is None or self._ready[0] != network:
            self._ready = None  # let go of the last one before
            checkpoint, recipe = self._files[network[0]].load(), self._recipes[network[1]]
            tiling = TilingConfig(side=recipe.side, overlap=recipe.overlap)
            segmenter = Segmenter(checkpoint, PredictConfig(), tiling, keep_confidence=True)
            self._ready = network, segmenter, checkpoint.config.in_channels
        return self._ready[1], self._ready[2]


def _network(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["model"], row["recipe"]


def _image(row: Mapping[str, Any], content: bytes | FetchError, channels: int) -> NDArray[np.uint8]:
    if isinstance(content, FetchError):
        raise content
    width, height = row["width"], row["height"]
    try:
        image_HWC = decode(content, channels=channels, max_pixels=width * height)
    except LimitError as error:
        raise DecodeError(f"the image is larger than its mask, which is {width} x {height} px") from error
    if image_HWC.shape[:2] != (height, width):
        raise DecodeError(f"the image has not the {width} x {height} px of its mask")
    return image_HWC
