"""The job, on one page: list, plan, fetch and decode, segment, encode and write, commit.

The only file that imports ray.data. The driver (this process) iterates over the parts that the writers report
and is the table's single committer; what the workers do with an image is in `pipeline.blocks`.
"""

import contextlib
import functools
import json
import logging
import os
import queue
import signal
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from models.checkpoint import Checkpoint
from pipeline import storage
from pipeline.blocks import (
    STAGES,
    RowLabels,
    SegmentBlock,
    as_part,
    encode_and_write,
    fetch_and_decode,
    finish_rows,
)
from pipeline.config import JobConfig, Recipe, RunConfig
from pipeline.errors import InterruptedRun, MasklakeError, StalledError
from pipeline.inventory import Plan, check_places, left_over, make_plan
from pipeline.progress import Reporter
from pipeline.registry import fetch_checkpoint
from pipeline.report import StageReport, Summary
from pipeline.table import Part, Table, write_part

RETRY_BLOCKS: Final = (8, 1)  # images of a block when the run reconciles plan with commits
WORKER_RETRIES: Final = 1  # of a block whose worker died, before it is let go
ACTOR_RESTARTS: Final = 20
TASK_CPUS: Final = 0.25  # what a fetch or write task asks of Ray: a fraction, so that it fits beside an actor
SPARE_CPUS: Final = 1  # that Ray is told of beside the cores: it wants a whole one for cutting the plan
POLL_SECONDS: Final = 0.25


def segment(config: JobConfig, reporter: Reporter) -> Summary:
    """Segment every image of the source that the table does not have yet, and return what was done.

    Raises MasklakeError; whatever it is, what was committed is there, and the same command goes on.
    """
    started = time.monotonic()
    check_places(config.source.uri, config.table)
    files = fetch_checkpoint(config.model, config.storage)
    checkpoint = files.load()
    recipe = Recipe.of(checkpoint.digest, [c.name for c in checkpoint.classes], config.tiling)
    table = Table.open_or_create(config.table, config.storage)
    with tempfile.TemporaryDirectory(prefix="masklake-") as name:
        folder = Path(name)
        plan = make_plan(
            config.source,
            config.storage,
            table.done(recipe.id),
            folder,
            retry_failed=config.run.retry_failed,
            progress=reporter.listed,
        )
        if plan.todo == 0:
            return Summary.nothing_to_do(table.uri, plan)
        labels = RowLabels(
            table_uri=table.uri,
            run_id=f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}",
            recipe=recipe.id,
            model=f"{files.uri}@{checkpoint.digest[:16]}",
            palette=tuple(c.colour for c in checkpoint.classes),
        )
        described = {"config": config.model_dump(mode="json"), "recipe": recipe.model_dump(mode="json")}
        table.write_run_file(labels.run_id, "config.json", json.dumps(described, indent=2).encode())
        if not storage.honours_conditional_writes(table.uri, config.storage):
            reporter.say(
                f"note: the store of {table.uri} ignores conditional writes, so two runs at once on this "
                "table could overwrite each other's commits: run one at a time"
            )
        table.delete_failures(plan.retried, recipe.id)
        reporter.started(plan.todo)
        run = _Run(config, table, labels, checkpoint, reporter)
        with _ray(config.run), _Signals() as signals:
            run.all(plan, folder, signals)
    summary = Summary.of_run(table, labels.run_id, plan, time.monotonic() - started, run.stages())
    table.write_run_file(labels.run_id, "summary.json", summary.to_json())
    return summary


@dataclass(slots=True)
class _Run:
    """One execution of a plan."""

    config: JobConfig
    table: Table
    labels: RowLabels
    checkpoint: Checkpoint
    reporter: Reporter
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    workers: dict[str, int] = field(default_factory=dict)
    committed: int = 0

    def all(self, plan: Plan, folder: Path, signals: "_Signals") -> None:
        """Do the plan; what did not come back is done again in smaller blocks, then given up one by one."""
        todo, count = plan.file, plan.todo
        for attempt, block_images in enumerate((self._block_images(count), *RETRY_BLOCKS)):
            uri = self.table.copy_run_file(self.labels.run_id, f"plan-{attempt}.parquet", todo)
            self._commit_stream(self._graph(uri, block_images), signals)
            rest = folder / f"plan-{attempt + 1}.parquet"
            count = left_over(todo, self.table, self.labels.run_id, rest)
            if count == 0:
                return
            todo = rest
            self.reporter.say(f"{count} images did not come back from their workers; trying them again apart")
        if self.committed == 0:
            raise MasklakeError(
                "no image came through: every worker died or failed; "
                "Ray's logs (/tmp/ray/session_latest/logs) say why"
            )
        self._give_up(todo)

    # ------------------------------------------------------------ the graph

    def _graph(self, plan_uri: str, block_images: int) -> Any:
        """Return the lazy dataset whose rows are the parts that were written."""
        import ray.data
        from ray.data import ActorPoolStrategy, TaskPoolStrategy

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # a lost block must not end the run: it is found and done again
        context.execution_options.verbose_progress = False
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call] # Ray's, untyped
        cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        on_gpu = gpus > 0 and self.config.predict.device != "cpu"
        actors = self.config.run.actors or (gpus if on_gpu else 1)
        self.workers = {
            "fetch + decode": max(1, cpus // 2),
            "segment": actors,
            "encode + write": max(1, cpus // 4),
        }
        scheme, path = storage.split(plan_uri)
        filesystem = None if scheme == "file" else storage.filesystem(plan_uri, self.config.storage)
        return (
            ray.data.read_parquet(path, filesystem=filesystem, num_cpus=TASK_CPUS)
            .repartition(target_num_rows_per_block=block_images)
            .map_batches(
                functools.partial(
                    fetch_and_decode,
                    storage_config=self.config.storage,
                    decode_config=self.config.decode,
                    channels=self.checkpoint.config.in_channels,
                ),
                batch_size=None,
                batch_format="pyarrow",
                compute=TaskPoolStrategy(size=self.workers["fetch + decode"]),
                num_cpus=TASK_CPUS,
                max_retries=WORKER_RETRIES,
            )
            .map_batches(
                SegmentBlock,
                fn_constructor_args=(
                    self.config.model,
                    self.checkpoint.digest,
                    self.config.storage,
                    self.config.predict,
                    self.config.tiling,
                ),
                batch_size=block_images,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=actors),
                num_cpus=1,
                num_gpus=1 if on_gpu else 0,
                max_restarts=ACTOR_RESTARTS,
                max_task_retries=WORKER_RETRIES,
            )
            .map_batches(
                functools.partial(encode_and_write, labels=self.labels, storage_config=self.config.storage),
                batch_size=None,
                batch_format="pyarrow",
                compute=TaskPoolStrategy(size=self.workers["encode + write"]),
                num_cpus=TASK_CPUS,
                max_retries=WORKER_RETRIES,
            )
        )

    def _block_images(self, todo: int) -> int:
        """Return how many images travel together: few in a small run, so that its stages overlap."""
        return min(self.config.run.block_images, max(RETRY_BLOCKS[0], todo // 16))

    # ------------------------------------------------------------ commit

    def _commit_stream(self, dataset: Any, signals: "_Signals") -> None:
        """Iterate over the written parts and commit them every few seconds, the first at once."""
        results = _in_background(dataset)
        waiting: list[Part] = []
        now = last_move = time.monotonic()
        last_commit = 0.0
        while True:
            with contextlib.suppress(queue.Empty):
                item = results.get(timeout=POLL_SECONDS)
                last_move = time.monotonic()
                if isinstance(item, pa.Table):
                    waiting += self._received(item)
                else:
                    self._commit(waiting)
                    if item is not None:
                        raise MasklakeError(f"Ray stopped the run: {_first_line(item)}") from item
                    return
            now = time.monotonic()
            if waiting and now - last_commit >= self.config.run.commit_seconds:
                self._commit(waiting)
                waiting, last_commit = [], time.monotonic()
            if signals.received:
                self._commit(waiting)
                raise InterruptedRun(
                    signals.received,
                    f"stopped: {self.committed:,} images of this run are in {self.table.uri}; "
                    "the same command goes on from there",
                )
            if now - last_move > self.config.run.stall_seconds:
                self._commit(waiting)
                raise StalledError(
                    f"nothing has moved for {self.config.run.stall_seconds:.0f} s; {self.committed:,} images "
                    "are in the table and the same command goes on: check the workers, or raise "
                    "run.stall_seconds"
                )
            self.reporter.tick()

    def _received(self, rows: pa.Table) -> list[Part]:
        parts = rows.to_pylist()
        for stage in STAGES:
            self.seconds[stage] += sum(part[f"{stage}_seconds"] for part in parts)
        return [as_part(part) for part in parts]

    def _commit(self, parts: list[Part]) -> None:
        if parts:
            self.table.commit(parts)
            images = sum(part.rows for part in parts)
            self.committed += images
            self.reporter.committed(images, sum(part.rows for part in parts if part.status == "failed"))

    def _give_up(self, plan_file: Path) -> None:
        """Commit a failed row for each image whose worker died every time."""
        error = {"stage": "worker", "type": "WorkerDied", "message": "its worker died each time it was tried"}
        for batch in pq.ParquetFile(plan_file).iter_batches():
            rows = finish_rows([{**row, "error": error} for row in batch.to_pylist()], "failed", self.labels)
            self._commit([write_part(rows, self.table.uri, self.config.storage)])

    def stages(self) -> list[StageReport]:
        """Return what each stage cost, for the summary."""
        parts = {"fetch + decode": STAGES[:2], "segment": STAGES[2:3], "encode + write": STAGES[3:]}
        return [
            StageReport(
                name=name, seconds={s: self.seconds[s] for s in stages}, workers=self.workers.get(name, 1)
            )
            for name, stages in parts.items()
        ]


def _in_background(dataset: Any) -> "queue.Queue[pa.Table | BaseException | None]":
    """Return a queue that gets the dataset's blocks, then None, or the exception that ended it."""
    results: queue.Queue[pa.Table | BaseException | None] = queue.Queue(maxsize=64)

    def iterate() -> None:
        try:
            for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                results.put(block)
            results.put(None)
        except BaseException as error:  # handed over: raised by the reader
            results.put(error)

    threading.Thread(target=iterate, daemon=True, name="masklake-stream").start()
    return results


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


# ---------------------------------------------------------------- Ray and signals


@contextlib.contextmanager
def _ray(config: RunConfig) -> Iterator[None]:
    """Start Ray on this machine, or join the cluster at `ray_address`; leave it as it was found."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what concerns an image becomes its row
    import ray
    import ray.data  # its loggers exist from here on

    warnings.filterwarnings("ignore", message=".*ray_remote_args")  # the pin in pyproject.toml knows of it
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    try:
        with _mute():
            if config.ray_address:
                ray.init(config.ray_address, log_to_driver=False, logging_level=logging.ERROR)
            else:
                ray.init(
                    "local",
                    num_cpus=(os.cpu_count() or 1) + SPARE_CPUS,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = config.ray_address or "on this machine"
        raise MasklakeError(f"Ray cannot be started or reached ({where}): {_first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    """Keep what Ray's C++ side says of itself while it starts off the terminal; errors are raised anyway."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class _Signals:
    """While entered, the first Ctrl-C or SIGTERM is only noted, and the second ends the process at once."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _: FrameType | None) -> None:
        if self.received:
            os._exit(128 + signum)
        self.received = signum
