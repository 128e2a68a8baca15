"""Parts of an export written by several processes: an image's masks are computed in Python, a core each.

Each part is on its own: what is done is in the folder, whoever wrote it.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Final

from pipeline.errors import MasklakeError

IMAGES: Final = 512  # for each process: fewer are done before it has started
AHEAD: Final = 2  # parts for each process that are in memory

Part = tuple[Sequence[dict[str, Any]], int]  # rows, and its number


def processes_for(images: int) -> int:
    """Return how many processes so many images are worth, on the cores of this machine."""
    return max(1, min(os.cpu_count() or 1, images // IMAGES))


def write_parts(
    write: Callable[[Sequence[dict[str, Any]], int], None], parts: Iterable[Part], processes: int
) -> Iterator[int]:
    """Call `write` with each part, and yield the number of its images once it is written.

    Raises what `write` raises, and MasklakeError if one of the processes dies.
    """
    if processes == 1:
        for rows, number in parts:
            write(rows, number)
            yield len(rows)
        return
    waiting: deque[tuple[Future[None], int]] = deque()
    # Spawned: a fork would copy the locks of Arrow's and DuckDB's threads as they are.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _end_with_parent)
    try:
        for rows, number in parts:
            with _held_back(signal.SIGINT):  # the first part starts the processes; Ctrl-C is the command's
                waiting.append((pool.submit(write, rows, number), len(rows)))
            if len(waiting) > AHEAD * processes:
                yield _written(*waiting.popleft())
        while waiting:
            yield _written(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _written(part: "Future[None]", images: int) -> int:
    try:
        part.result()
    except BrokenProcessPool as error:
        raise MasklakeError(
            "a process of this export died, most often for want of memory: what is done is in the folder, "
            "and the same command goes on"
        ) from error
    return images


@contextmanager
def _held_back(signum: signal.Signals) -> Iterator[None]:
    """Hold a signal back: what is started here never hears it, and this process does afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signum})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """End when the parent does, however it does."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
