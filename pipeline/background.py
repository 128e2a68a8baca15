"""What is computed in another thread, and heard in this one."""

import threading
from collections.abc import Iterable
from queue import Queue
from typing import Final, TypeVar

MOST: Final = 64  # items that wait to be heard; then the other thread waits
T = TypeVar("T")


def in_background(items: Iterable[T], name: str) -> "Queue[T | BaseException | None]":
    """Return a queue that gets the items, then None, or the exception that ended them."""
    results: Queue[T | BaseException | None] = Queue(maxsize=MOST)

    def iterate() -> None:
        try:
            for item in items:
                results.put(item)
            results.put(None)
        except BaseException as error:  # handed over: raised by the reader
            results.put(error)

    threading.Thread(target=iterate, daemon=True, name=name).start()
    return results
