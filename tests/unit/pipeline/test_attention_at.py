"""Where a place looks: the same weights as those behind the statistics that the table keeps."""

import numpy as np
import pytest
import torch

from models.checkpoint import Checkpoint
from models.preprocess import normalise
from pipeline.attention_at import Inspector
from pipeline.config import TilingConfig
from pipeline.tiling import TileGrid, tile

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE, OVERLAP = 64, 32


def test_rows_and_what_is_received_are_those_of_the_network(tiny: Checkpoint) -> None:
    """Of each tile and head: the mass received is that of the statistics, and a row is softmax(QK)'s."""
    image_HWC = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    grid = TileGrid(height=70, width=100, side=SIDE, overlap=OVERLAP)
    found = Inspector(tiny, TilingConfig(side=SIDE, overlap=OVERLAP))(image_HWC)
    assert [one.corner for one in found] == list(grid.corners)
    x_BCHW = normalise(torch.from_numpy(tile(image_HWC, grid)), tiny.normalisation)
    with torch.inference_mode():
        _, statistics = tiny.model.folded().forward_with_statistics(x_BCHW)
    received_BMhw = statistics["level2"].received.numpy()
    for index, tokens in enumerate(found):
        assert (tokens.block, tokens.stride, tokens.grid) == ("level2", 4, (16, 16))
        for head in range(2):
            np.testing.assert_allclose(
                tokens.received(head), received_BMhw[index, head], rtol=1e-3, atol=1e-4
            )
            rows = [
                tokens.looks(tokens.corner[0] + 4 * i, tokens.corner[1] + 4 * j, head)
                for i, j in np.ndindex(16, 16)
            ]
            np.testing.assert_allclose(np.sum(rows, axis=0), tokens.received(head), rtol=1e-4, atol=1e-5)
            assert [row.sum() for row in rows] == pytest.approx([1.0] * 256, abs=1e-5)


def test_some_tiles_are_those_of_all(tiny: Checkpoint) -> None:
    """A tile that is asked for alone is the same, at the edges of the image, too."""
    image_HWC = np.random.default_rng(1).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    inspect = Inspector(tiny, TilingConfig(side=SIDE, overlap=OVERLAP))
    whole = inspect(image_HWC)
    for wanted in (whole[-1], whole[0]):
        (alone,) = inspect(image_HWC, [wanted.corner])
        np.testing.assert_array_equal(alone.q_MND, wanted.q_MND)
        np.testing.assert_array_equal(alone.k_MND, wanted.k_MND)


def test_places_outside_are_refused(tiny: Checkpoint) -> None:
    """A pixel of another tile, and a head that is not there."""
    (tokens,) = Inspector(tiny, TilingConfig(side=SIDE, overlap=OVERLAP))(np.zeros((64, 64, 3), np.uint8))
    for y, x, head in ((64, 0, 0), (0, -1, 0), (0, 0, 2)):
        with pytest.raises(IndexError, match="no token"):
            tokens.looks(y, x, head)
