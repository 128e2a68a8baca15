"""Batches side by side on a CPU: in order, each on its share of the threads, nothing left behind."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from pipeline.streams import CACHED_PIXELS, MOST, Streams

SMALL = 64  # pixels of a tile's side
LARGE = 512
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("threads", "tile_batch", "side", "count", "tiles"),
    [
        (1, 16, LARGE, 1, 1),  # one core: one tile after the other
        (2, 16, LARGE, 2, 1),
        (2, 16, SMALL, 2, 8),  # small tiles together, as many as the user allows
        (2, 64, SMALL, 2, 32),
        (1, 4096, SMALL, 1, CACHED_PIXELS // SMALL**2),
        (2, 1, SMALL, 1, 1),  # memory for one tile only
        (64, 16, LARGE, MOST, 1),
        (2, 16, 2048, 2, 1),  # a tile larger than the caches is still a batch
    ],
)
def test_cores_are_shared_out(threads: int, tile_batch: int, side: int, count: int, tiles: int) -> None:
    """No more tiles at once than `tile_batch`, and no more of them in a batch than caches hold."""
    streams = Streams(threads, tile_batch=tile_batch, side=side)
    assert (streams.count, streams.tiles) == (count, tiles)
    assert streams.count * streams.tiles <= tile_batch


def test_results_come_in_order() -> None:
    """Whoever is faster waits."""

    def late_if_even(number: int) -> int:
        time.sleep(0.02 if number % 2 == 0 else 0)
        return number

    assert list(Streams(4, tile_batch=4, side=LARGE).map(late_if_even, range(20), 20)) == list(range(20))


def test_two_work_at_once_and_no_more() -> None:
    """Two meet, a third never: what is not at work is not read, but for one."""
    streams, meeting = Streams(2, tile_batch=2, side=LARGE), threading.Barrier(2, timeout=30)
    at_work, most, read = 0, 0, 0
    lock = threading.Lock()

    def numbers() -> Iterator[int]:
        nonlocal read
        for number in range(8):
            read += 1
            yield number

    def meet(number: int) -> int:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        meeting.wait()
        with lock:
            at_work -= 1
        return number

    for done, number in enumerate(streams.map(meet, numbers(), 8)):
        assert number == done
        assert read <= done + 1 + streams.count
    assert most == 2


@pytest.mark.parametrize(("tiles", "share"), [(1, 4), (2, 2), (3, 1), (100, 1)])
def test_few_tiles_get_all_threads(tiles: int, share: int) -> None:
    """A tile that is alone has every core; the caller is on a share, too, until all is done."""
    streams, before = Streams(4, tile_batch=4, side=LARGE), torch.get_num_threads()
    for given in streams.map(lambda _: torch.get_num_threads(), range(tiles), tiles):
        assert given == torch.get_num_threads() == share
    assert torch.get_num_threads() == before


def test_an_error_is_the_callers_and_ends_nothing_else() -> None:
    """It is raised in its turn, after what came before; what waits is dropped, and the next call works."""
    streams, before = Streams(2, tile_batch=2, side=LARGE), torch.get_num_threads()
    begun: list[int] = []

    def fail_at_two(number: int) -> int:
        begun.append(number)
        if number == 2:
            raise ValueError("two")
        return number

    found: list[int] = []
    with pytest.raises(ValueError, match="two"):
        found.extend(streams.map(fail_at_two, range(100), 100))
    assert found == [0, 1]
    assert len(begun) < 8
    assert torch.get_num_threads() == before
    assert list(streams.map(abs, [-7], 1)) == [7]


def test_nothing_is_nothing() -> None:
    """No batches, no results."""
    assert list(Streams(2, tile_batch=2, side=LARGE).map(abs, [], 0)) == []
