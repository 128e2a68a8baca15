"""What is computed in another thread, and heard in this one."""

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

MOST: Final = 64  # items that wait to be heard; then the other thread waits
T = TypeVar("T")


class Background(threading.Thread, Generic[T]):
    """Puts items into a queue, then None, or the exception that ended them; left early, it ends by itself."""

    def __init__(self, items: Iterable[T], name: str) -> None:
        super().__init__(daemon=True, name=name)
        self.results: queue.Queue[T | BaseException | None] = queue.Queue(maxsize=MOST)
        self._items = items
        self._left = threading.Event()

    def run(self) -> None:
        """Compute the items."""
        try:
            for item in self._items:
                self.results.put(item)
                if self._left.is_set():
                    return
            self.results.put(None)
        except BaseException as error:  # handed over: raised by the reader
            self.results.put(error)

    def leave(self) -> None:
        """Let the thread end with the item it is at: nobody reads on."""
        self._left.set()
        with contextlib.suppress(queue.Empty):
            while True:  # it may wait for a place
                self.results.get_nowait()


@contextlib.contextmanager
def in_background(items: Iterable[T], name: str) -> Iterator["queue.Queue[T | BaseException | None]"]:
    """Give the queue of a `Background`, which ends by itself once the block is left."""
    thread = Background(items, name)
    thread.start()
    try:
        yield thread.results
    finally:
        thread.leave()
