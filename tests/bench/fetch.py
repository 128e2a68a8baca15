"""Objects out of a store: what we use (s3fs), and obstore behind the same interface and behind its own."""

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.demo.server import S3Server
from pipeline.listing import list_objects
from pipeline.storage import Wanted
from tests.bench.figure import Figure, Say

OBJECTS, BYTES = 600, 300_000  # PNGs of 512² have about as many
AT_ONCE = (8, 32, 128)
ROUNDS = 5


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return the CPU time of this process for an object: the server shares the cores, but not that."""
    (bucket := folder / "root" / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(OBJECTS):
        (bucket / f"{number:04}.png").write_bytes(rng.bytes(BYTES))
    figures: list[Figure] = []
    with S3Server(folder / "root") as server:
        os.environ.update(server.environment)
        pages = list_objects("s3://images", StorageConfig())
        objects = [Wanted(one.uri, one.etag, one.size) for page in pages for one in page]
        for at_once in AT_ONCE:
            figures += _measured(objects, at_once, say)
    return figures


def _measured(objects: list[Wanted], at_once: int, say: Say) -> list[Figure]:
    """Read all objects by each library in turn."""
    config = StorageConfig(connections=at_once)
    sides: dict[str, Callable[[], int]] = {
        "s3fs, as the job reads": lambda: _ours(objects, config),
        "obstore's fsspec adapter": lambda: _adapted(objects, at_once),
        "obstore itself": lambda: asyncio.run(_bare(objects, at_once)),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(ROUNDS + 1):
        for name, side in sides.items():
            clock, began = time.perf_counter(), time.process_time()
            if side() != OBJECTS * BYTES:
                raise RuntimeError(f"{name} did not read everything")
            if number:  # the first opens the connections
                taken[name].append((time.perf_counter() - clock, time.process_time() - began))
    figures = []
    for name, times in taken.items():
        wall, cpu = (statistics.median(values) for values in zip(*times, strict=True))
        said = f"{OBJECTS / wall:.0f} objects/s, {1e3 * cpu / OBJECTS:.2f} ms of a core for each"
        say(f"  {at_once} at once, {name}: {said}")
        how = f"{OBJECTS} objects of {BYTES:,} bytes, {at_once} at once, {ROUNDS} rounds in turn; {said}"
        figures.append(
            Figure(name=f"fetch by {name}, {at_once} at once", value=1e3 * cpu / OBJECTS, unit="ms", how=how)
        )
    return figures


def _ours(objects: list[Wanted], config: StorageConfig) -> int:
    """Read as a fetch task does."""
    return sum(len(data) for data in storage.read_many(objects, config) if isinstance(data, bytes))


def _adapted(objects: list[Wanted], at_once: int) -> int:
    """Read through fsspec's interface."""
    from obstore.fsspec import FsspecStore

    fs = FsspecStore("s3", endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True})
    paths = [one.uri.removeprefix("s3://") for one in objects]
    return sum(len(data) for data in fs.cat(paths, batch_size=at_once).values())


async def _bare(objects: list[Wanted], at_once: int) -> int:
    """Read through obstore's own functions, with the version asked for as the job does."""
    import obstore
    from obstore.store import S3Store

    bucket = urlsplit(objects[0].uri).netloc
    store = S3Store(bucket, endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True})
    free = asyncio.Semaphore(at_once)

    async def one(wanted: Wanted) -> int:
        async with free:
            options = {"if_match": f'"{wanted.etag}"'}
            answer = await obstore.get_async(store, urlsplit(wanted.uri).path.lstrip("/"), options=options)
            return len(await answer.bytes_async())

    return sum(await asyncio.gather(*(one(wanted) for wanted in objects)))
