"""What another thread computes comes in order, and does not run ahead."""

import threading
from collections.abc import Iterator

from pipeline.background import in_background


def test_it_does_not_run_ahead_without_bound() -> None:
    """Where the reader is slow the other waits: the queue between them holds only so many items."""
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for index in range(10_000):
            taken.append(index)
            yield index

    with in_background(endless(), "test") as results:
        while not results.full():
            threading.Event().wait(0.01)
        threading.Event().wait(0.05)
        assert len(taken) <= results.maxsize + 1
        assert [results.get(timeout=10) for _ in range(200)] == list(range(200))


def test_it_ends_once_nobody_reads_on() -> None:
    """Also where it waits for a place: then it would stand there for ever."""
    with in_background(iter(range(10_000)), "left early") as results:
        while not results.full():
            threading.Event().wait(0.01)
    thread = next((one for one in threading.enumerate() if one.name == "left early"), None)
    if thread is not None:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_its_end_is_heard() -> None:
    """None after the last, or the error that ended it."""

    def fails() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with in_background(iter([1, 2]), "test") as results:
        assert [results.get(timeout=10) for _ in range(3)] == [1, 2, None]
    with in_background(fails(), "test") as results:
        assert results.get(timeout=10) == 1
        assert isinstance(ended := results.get(timeout=10), ValueError), ended
