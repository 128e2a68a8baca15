"""Tiling: tiles cover the image, and stitching is the inverse of cutting."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.tiling import ALIGN, TileGrid, add_tiles, coverage, stitch, tile, window


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    side = draw(st.sampled_from([32, 64, 96, 128]))
    overlap = draw(st.sampled_from(range(0, side, ALIGN)))
    height, width = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    return TileGrid(height=height, width=width, side=side, overlap=overlap)


def noise(grid: TileGrid, channels: int = 2) -> NDArray[np.uint8]:
    shape = (grid.height, grid.width, channels)
    return np.random.default_rng(grid.height).integers(0, 256, shape, dtype=np.uint8)


@given(grid=grids())
def test_round_trip(grid: TileGrid) -> None:
    """Stitching an image's tiles gives the image back."""
    image_HWC = noise(grid)
    tiles_NSSC = tile(image_HWC, grid)
    assert tiles_NSSC.dtype == np.uint8
    assert tiles_NSSC.shape == (len(grid.corners), grid.side, grid.side, 2)
    stitched_CHW = stitch(tiles_NSSC.transpose(0, 3, 1, 2).astype(np.float32), grid)
    np.testing.assert_allclose(stitched_CHW, image_HWC.transpose(2, 0, 1), rtol=1e-5, atol=1e-4)


@given(grid=grids())
def test_grid(grid: TileGrid) -> None:
    """Tiles lie within the padded image, on multiples of 32 px, in row order, and none twice."""
    corners = grid.corners
    assert list(corners) == sorted(set(corners))
    assert corners[0] == (0, 0)
    assert corners[-1] == (grid.padded_height - grid.side, grid.padded_width - grid.side)
    assert all(y % ALIGN == 0 and x % ALIGN == 0 for y, x in corners)
    for size, padded in ((grid.height, grid.padded_height), (grid.width, grid.padded_width)):
        assert padded % ALIGN == 0
        assert padded == grid.side or size <= padded < size + ALIGN


@given(grid=grids())
def test_every_pixel_is_covered(grid: TileGrid) -> None:
    """Every padded pixel has a weight above 0, and neighbours share at least the overlap."""
    total = coverage(grid, window(grid.side))
    assert total.shape == (grid.padded_height, grid.padded_width)
    assert total.dtype == np.float32
    assert total.min() > 0
    xs = sorted({x for _, x in grid.corners})
    assert all(right - left <= grid.side - grid.overlap for left, right in itertools.pairwise(xs))


def test_corners_of_a_known_grid() -> None:
    """Starts are side - overlap apart, and the last tile of a row is moved inwards."""
    grid = TileGrid(height=200, width=500, side=256, overlap=32)
    assert (grid.padded_height, grid.padded_width) == (256, 512)
    assert grid.corners == ((0, 0), (0, 224), (0, 256))


def test_equal_grids_share_their_corners() -> None:
    """Corners are computed once for all images of a size."""
    first, second = (TileGrid(height=700, width=900) for _ in range(2))
    assert first == second
    assert first.corners is second.corners


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 0, "width": 5}, "must not be empty"),
        ({"height": 5, "width": -1}, "must not be empty"),
        ({"height": 5, "width": 5, "side": 0}, "side must be a positive multiple of 32 px, got 0"),
        ({"height": 5, "width": 5, "side": -32}, "side must be"),
        ({"height": 5, "width": 5, "side": 100}, "side must be"),
        ({"height": 5, "width": 5, "overlap": -32}, "overlap must be a multiple of 32 px"),
        ({"height": 5, "width": 5, "overlap": 16}, "overlap must be"),
        ({"height": 5, "width": 5, "overlap": 256}, r"in \[0, 256\), got 256"),
    ],
)
def test_impossible_grids(fields: dict[str, int], message: str) -> None:
    """A grid that cannot be is refused when it is made."""
    with pytest.raises(ConfigError, match=message):
        TileGrid(**fields)


def test_padding_repeats_the_edge() -> None:
    """An image smaller than a tile is extended to the right and below by its edge pixels."""
    image_HWC = np.array([[[1], [2]], [[3], [4]]], np.uint8)
    tiles_NSSC = tile(image_HWC, TileGrid(height=2, width=2, side=32, overlap=0))
    assert tiles_NSSC[0, :3, :4, 0].tolist() == [[1, 2, 2, 2], [3, 4, 4, 4], [3, 4, 4, 4]]


def test_an_image_of_one_tile_is_not_copied() -> None:
    """The single tile of an image of just that size is a view of the image."""
    grid = TileGrid(height=64, width=64, side=64, overlap=32)
    image_HWC = noise(grid)
    assert np.shares_memory(tile(image_HWC, grid), image_HWC)


@pytest.mark.parametrize("shape", [(64, 65, 3), (65, 64, 3), (64, 64)])
def test_image_of_another_size(shape: tuple[int, ...]) -> None:
    """An image that is not the size of the grid is refused."""
    with pytest.raises(ValueError, match=r"must have shape \(64, 64, C\)"):
        tile(np.zeros(shape, np.uint8), TileGrid(height=64, width=64))


@pytest.mark.parametrize("side", [32, 64, 256, 512, 1024])
def test_window(side: int) -> None:
    """The window is symmetric, has a maximum of 1, and falls to about exp(-16) in the corners."""
    weights = window(side)
    assert weights.dtype == np.float32
    assert weights.max() == 1
    assert 1e-7 < weights.min() < 1e-6
    np.testing.assert_array_equal(weights, weights.T)
    np.testing.assert_array_equal(weights, weights[::-1, ::-1])


def test_overlapping_tiles_blend_smoothly() -> None:
    """Between two tiles that disagree, the result passes from one to the other without a jump."""
    grid = TileGrid(height=128, width=192, side=128, overlap=64)
    scores_NCSS = np.stack([np.full((1, 128, 128), value, np.float32) for value in (0, 1)])
    row = stitch(scores_NCSS, grid)[0, 64]
    assert row[:64].max() == 0
    assert row[128:].min() == 1
    assert 0 < np.diff(row[63:129]).max() < 0.1


def test_tiles_can_be_added_in_parts() -> None:
    """Tiles added a few at a time give the same canvas as all at once."""
    grid = TileGrid(height=150, width=170, side=64, overlap=32)
    scores = np.random.default_rng(0).random((len(grid.corners), 3, 64, 64), dtype=np.float32)
    weights = window(64)
    whole, parts = (np.zeros((3, grid.padded_height, grid.padded_width), np.float32) for _ in range(2))
    add_tiles(whole, scores, grid.corners, weights)
    for start in range(0, len(grid.corners), 4):
        add_tiles(parts, scores[start : start + 4], grid.corners[start : start + 4], weights)
    np.testing.assert_array_equal(parts, whole)


def test_torch_tensors() -> None:
    """Torch tensors are added like numpy arrays."""
    torch = pytest.importorskip("torch")
    grid = TileGrid(height=100, width=90, side=64, overlap=32)
    scores = np.random.default_rng(0).random((len(grid.corners), 2, 64, 64), dtype=np.float32)
    expected = np.zeros((2, grid.padded_height, grid.padded_width), np.float32)
    add_tiles(expected, scores, grid.corners, window(64))
    canvas = torch.zeros(expected.shape)
    add_tiles(canvas, torch.from_numpy(scores), grid.corners, torch.from_numpy(window(64)))
    np.testing.assert_allclose(canvas.numpy(), expected, rtol=1e-6)


def test_scores_that_do_not_fit() -> None:
    """Scores of another number or side than the grid's tiles are refused."""
    grid = TileGrid(height=64, width=64, side=64)
    with pytest.raises(ValueError, match="as many, got 2 and 1"):
        stitch(np.zeros((2, 1, 64, 64), np.float32), grid)
    with pytest.raises(ValueError, match=r"shape \(N, C, 64, 64\)"):
        stitch(np.zeros((1, 1, 32, 32), np.float32), grid)
