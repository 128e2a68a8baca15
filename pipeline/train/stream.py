"""Images on their way to training, by Ray's tasks: inspected once, then cut to crops again and again.

A worker streams its own micro-batches, whose numbers say which images and which places they hold: nothing is
shuffled in memory, no worker waits for another's data, and a restart goes on at any number.

Shape suffixes: B crops; H, W height and width in pixels; C channels; S side of a crop.
"""

import functools
import io
import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.background import in_background
from pipeline.config import StorageConfig
from pipeline.errors import ImageError, StalledError, StorageError
from pipeline.train.config import FinetuneConfig
from pipeline.train.labelled import LabelledImage, Reading, inspect, read_labelled
from pipeline.train.sampling import Sampler, cut

TASK_CPUS: Final = 0.25  # that a task asks of Ray: a fraction, so that it fits beside a worker
TASK_MICRO_BATCHES: Final = 2  # that one task makes: a task costs some milliseconds by itself
TASK_RETRIES: Final = 3  # of a task whose process died
INSPECT_IMAGES: Final = 16  # that one task inspects


@dataclass(frozen=True, slots=True, kw_only=True)
class CropSource:
    """What a task must know to make a micro-batch of crops."""

    config: FinetuneConfig
    manifest_uri: str
    reading: Reading


def inspect_all(
    found: pa.Table, reading: Reading, progress: Callable[[int], None], stall_seconds: float
) -> pa.Table:
    """Return the rows, of FOUND, as rows of MANIFEST, in the same order.

    Raises StalledError if no row comes for so many seconds.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.verbose_progress = False
    blocks = max(1, -(-found.num_rows // INSPECT_IMAGES))
    # Ranges of row numbers travel; the rows themselves are sent to each process once.
    rows = ray.put(found)
    stream = ray.data.range(found.num_rows, override_num_blocks=blocks).map_batches(
        functools.partial(_inspect_rows, rows=rows, reading=reading),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,  # nothing else runs yet
    )
    batches = stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    parts: list[pa.Table] = []
    done = 0
    with in_background(batches, "masklake-inspection") as results:
        for part in _each_within(stall_seconds, results):
            parts.append(part)
            done += part.num_rows
            progress(done)
    return pa.concat_tables(parts)


def _each_within(
    seconds: float, results: "queue.Queue[pa.Table | BaseException | None]"
) -> Iterator[pa.Table]:
    """Yield what comes from another thread; raise StalledError if nothing comes for so many seconds."""
    while True:
        try:
            item = results.get(timeout=seconds)
        except queue.Empty:
            raise StalledError(
                f"no image was inspected for {seconds:g} s: Ray has no place for it, or the store is silent; "
                "--stall-timeout sets the limit"
            ) from None
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return
        yield item


def _inspect_rows(ids: pa.Table, rows: Any, reading: Reading) -> pa.Table:
    import ray

    return inspect(ray.get(rows).take(ids["id"]), reading)


def micro_batches(
    source: CropSource, first_step: int, last_step: int, rank: int, world: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield the micro-batches of one worker from one step to another: (B, H, W, C) and (B, H, W), uint8.

    A window of Ray tasks makes them in advance, and is read in order. Ray Data would do it too, but its
    scheduler turns in the trainer's own process, and holds the interpreter's lock while it waits for room.
    """
    import ray

    shares = source.config.optim.batch // source.config.optim.micro_batch
    numbers = (
        step * shares + share for step in range(first_step, last_step) for share in range(rank, shares, world)
    )
    # Spread over all nodes: by default tasks would stay within the workers' own reservation.
    make = ray.remote(num_cpus=TASK_CPUS, max_retries=TASK_RETRIES, scheduling_strategy="SPREAD")(_make)
    shared = ray.put(source)
    cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call] # Ray's, untyped
    window: deque[Any] = deque()
    while True:
        while len(window) < max(2, cpus // world) and (some := list(islice(numbers, TASK_MICRO_BATCHES))):
            window.append(make.remote(some, shared))
        if not window:
            return
        for images, labels in ray.get(window.popleft()):
            yield images.copy(), labels.copy()  # torch wants memory that it may write to


def _make(numbers: Sequence[int], source: CropSource) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Return the crops of some micro-batches: images (B, S, S, C) and labels (B, S, S) of each."""
    rows, sampler = _training_set(source.manifest_uri, source.config.model_dump_json())
    batches = [sampler.crops(number) for number in numbers]
    wanted = sorted({crop.image for crops in batches for crop in crops})
    images: dict[int, LabelledImage] = {}
    read = read_labelled([rows[index] for index in wanted], source.reading)
    for index, image in zip(wanted, read, strict=True):
        if isinstance(image, ImageError):
            raise StorageError(f"{rows[index]['image_uri']}: {image}")
        images[index] = image
    side = source.config.crops.side
    made = []
    for crops in batches:
        cuts = [
            cut(images[crop.image].image_HWC, images[crop.image].labels_HW, side, crop.seed) for crop in crops
        ]
        made.append(
            (np.stack([image_SSC for image_SSC, _ in cuts]), np.stack([labels for _, labels in cuts]))
        )
    return made


@functools.lru_cache(maxsize=1)
def _training_set(manifest_uri: str, config_json: str) -> tuple[Sequence[dict[str, Any]], Sampler]:
    """Return the rows of the training images, and the order of their crops: read once a process."""
    config = FinetuneConfig.model_validate_json(config_json)
    rows, areas = training_rows(manifest_uri, config.storage)
    return rows, sampler_of(config, areas)


def training_rows(uri: str, config: StorageConfig) -> tuple[Sequence[dict[str, Any]], NDArray[np.int64]]:
    """Return the training images of a manifest, and their areas in pixels."""
    columns = ["name", "image_uri", "image_etag", "mask_uri", "mask_etag", "annotations", "height", "width"]
    table = pq.read_table(
        io.BytesIO(storage.read(uri, config)), filters=[("split", "=", "train")], columns=columns
    )
    rows = table.to_pylist()
    return rows, np.array([row["height"] * row["width"] for row in rows], np.int64)


def sampler_of(config: FinetuneConfig, areas: NDArray[np.int64]) -> Sampler:
    """Return the crops of a run over images of these areas."""
    optim = config.optim
    return Sampler(areas, config.crops.side, optim.batch, optim.micro_batch, optim.seed)
