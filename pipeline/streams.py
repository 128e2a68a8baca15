"""How a network's batches share a CPU: several at once, each on cores of its own. A GPU has one at a time.

Cores that share one convolution wait for each other after every layer, and all of them for the one that
another process took for a moment; what has a core of its own waits for nobody.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

import torch

Batch = TypeVar("Batch")
Result = TypeVar("Result")

MOST: Final = 4  # at once: the more there are, the more cores idle while the last ones of a block are done
CACHED_PIXELS: Final = 512 * 512  # of a batch: a larger one is slower, since its layers fit no cache


class Streams:
    """Divides `threads` of this process among batches of tiles of `side` pixels, `tile_batch` in all."""

    def __init__(self, threads: int, *, tile_batch: int, side: int) -> None:
        self.threads, self.side = threads, side
        self.count = min(threads, tile_batch, MOST)
        self.tiles = max(1, min(tile_batch // self.count, CACHED_PIXELS // side**2))  # of a batch
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="network")

    def map(
        self, compute: Callable[[Batch], Result], batches: Iterable[Batch], tiles: int
    ) -> Iterator[Result]:
        """Yield `compute(batch)` of each batch, in order; `tiles` of all tells how many can be at once.

        `batches` is read one ahead of what is at work, no further.
        """
        share = self.threads // max(1, min(self.count, -(-tiles // self.tiles)))
        before = torch.get_num_threads()
        waiting: deque[Future[Result]] = deque()

        def on_its_share(batch: Batch) -> Result:
            torch.set_num_threads(share)  # of this thread
            return compute(batch)

        torch.set_num_threads(share)  # of the caller's, which puts results together meanwhile
        try:
            for batch in batches:
                waiting.append(self._pool.submit(on_its_share, batch))
                if len(waiting) > self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            torch.set_num_threads(before)
