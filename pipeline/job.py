"""The job, on one page: list, plan, fetch and decode, segment, encode and write, commit.

The only file that imports ray.data. The driver (this process) iterates over the parts that the writers report
and is the table's single committer; what the workers do with an image is in `pipeline.blocks`.
"""

import contextlib
import functools
import gc
import json
import math
import platform
import queue
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from models.header import Header
from pipeline import probes
from pipeline.background import in_background
from pipeline.blocks import (
    STAGES,
    RowLabels,
    Written,
    as_written,
    encode_and_write,
    fetch_and_decode,
    plan_rows,
    write_lost,
)
from pipeline.config import JobConfig, PredictConfig, Recipe
from pipeline.errors import (
    ClusterError,
    ConcurrentRunError,
    ConfigError,
    InterruptedRun,
    MasklakeError,
    StalledError,
    StorageError,
)
from pipeline.harmless import shown, without_secrets_in
from pipeline.inventory import check_places
from pipeline.lease import watched
from pipeline.meters import MeteredSegmentBlock, Meters
from pipeline.plan import Plan, left_over, make_plan
from pipeline.progress import Reporter
from pipeline.registry.checkpoints import fetch_checkpoint
from pipeline.report import StageReport, Summary
from pipeline.report_page import page
from pipeline.room import PLAN_CPUS, Demand, Room
from pipeline.session import (
    SPARE_CPUS,
    LostBlocks,
    Signals,
    may_grow,
    ray_session,
    what_waits,
    why_ray_failed,
)
from pipeline.sizing import task_workers
from pipeline.table import Table
from pipeline.tiling import check_tile_side
from pipeline.window import HoldActors, Window

RETRY_BLOCKS: Final = (8, 1)  # images of a block when the run reconciles plan with commits
ACTOR_BLOCKS: Final = 16  # for each actor, of a small run: so that stages overlap, and actors end together
WORKER_RETRIES: Final = 1  # of a block whose task died with its worker, before it is let go
ACTOR_RETRIES: Final = 0  # of its block: only the same actor does that, and its GPU may be gone for good
ACTOR_RESTARTS: Final = 20
TASK_CPUS: Final = 0.25  # what a fetch or write task asks of Ray: a fraction, so that it fits beside an actor
ACTOR_CPUS: Final = 1
BLOCK_IMAGES: Final = (64, 512)  # at least, and at most where they are small
BLOCK_PIXELS: Final = 64 * 512 * 512  # of a block of small images: as long a turn as one of large
BLOCK_BYTES: Final = 512 << 20  # that a block of decoded images should not exceed
DECODED_BYTES: Final = 10  # of pixels for a byte of a typical JPEG
MANY_LEFT: Final = 100  # images that all fail alone: then the workers are at fault, not the images
VERSIONS: Final = ("masklake", "ray", "torch", "pyarrow", "deltalake")  # that config.json keeps
POLL_SECONDS: Final = 0.25
OPERATORS: Final = {  # as Ray Data names them: the stage; what is before them cuts the plan
    "fetch_and_decode": "fetch + decode",
    "MeteredSegmentBlock": "segment",
    "encode_and_write": "encode + write",
}
SEGMENT, WRITE = tuple(OPERATORS)[1:]


def segment(config: JobConfig, reporter: Reporter) -> Summary:
    """Segment every image of the source that the table does not have yet, and return what was done.

    Raises MasklakeError; whatever it is, what was committed is there, and the same command goes on.
    """
    started = time.monotonic()
    if config.run.report:
        page.check_installed()
    check_places(config.source.uri, config.table)
    files = fetch_checkpoint(config.model, config.storage, config.registry)
    header = files.header()
    check_tile_side(config.tiling.side, header.config.stride)
    if config.run.ray_address is None and config.predict.device == "cuda":
        from pipeline.device import choose_device  # torch, which takes seconds to import

        choose_device("cuda")  # refuses what is not here, before anything starts
    recipe = _recipe(config, header)
    table = Table.open(config.table, config.storage) if Table.exists(config.table, config.storage) else None
    with tempfile.TemporaryDirectory(prefix="masklake-") as name:
        folder = Path(name)
        plan = make_plan(
            config.source,
            config.storage,
            table.save_seen(recipe.id, folder / "seen.parquet") if table else None,
            folder,
            retry_failed=config.run.retry_failed,
            progress=reporter.listed,
        )
        if plan.todo == 0:
            return Summary.nothing_to_do(config.table, plan)
        if not probes.check_table_store(config.table, config.storage):
            reporter.say(
                f"note: the store of {config.table} ignores conditional writes, so two runs at once on this "
                "table could overwrite each other's commits: run one at a time"
            )
        reporter.started(plan.todo)
        with (
            Signals() as signals,
            watched(config.run.lease, config.storage, signals.stop),
            ray_session(config.run.ray_address, signals),
        ):
            run = _begin(config, table or _new_table(config), files.uri, header, plan, reporter)
            run.all(plan, folder, signals)
    run_id = run.labels.run_id
    summary = Summary.of_run(run.table, run_id, plan, time.monotonic() - started, run.stages())
    run.table.write_run_file(run_id, "summary.json", summary.to_json())
    return replace(summary, page=_page(config, run.table, run_id, reporter))


def _page(config: JobConfig, table: Table, run_id: str, reporter: Reporter) -> str | None:
    """Write the run's page and return its URI, or None: the run is done, whatever becomes of its page."""
    if config.run.report is False or page.missing():
        return None
    try:
        return page.keep(table, page.make_page(table, run_id, config.storage))
    except KeyboardInterrupt:
        reporter.say("note: no page of this run, stopped while it was made: masklake report makes it")
    except Exception as error:
        reporter.say(f"note: no page of this run: {shown(str(error))}")
    return None


def _new_table(config: JobConfig) -> Table:
    table = Table.open_or_create(config.table, config.storage)
    if table.file_count:  # made and filled after we planned: the plan knows nothing of it
        raise ConcurrentRunError(f"{table.uri}: another run began it just now: run this command again")
    return table


def _begin(
    config: JobConfig, table: Table, model: str, header: Header, plan: Plan, reporter: Reporter
) -> "_Run":
    """Return a run whose configuration is kept beside the table, less the failed rows that it does anew."""
    import ray

    recipe = _recipe(config, header)
    labels = RowLabels(
        table_uri=table.uri,
        run_id=f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}",
        recipe=recipe.id,
        model=f"{model}@{header.digest[:16]}",
        palette=tuple(c.colour for c in header.classes),
    )
    described = {
        "config": config.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
        "model": labels.model,
        "nodes": [asdict(node) for node in Room.of(ray.nodes()).nodes],  # type: ignore[no-untyped-call]
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
    }
    kept = json.dumps(without_secrets_in(described), indent=2)  # who reads the table may read it
    table.write_run_file(labels.run_id, "config.json", kept.encode())
    table.delete_failures(plan.outdated, recipe.id)
    return _Run(config, table, labels, model, header, reporter, Meters(header.digest, plan.todo))


def _recipe(config: JobConfig, header: Header) -> Recipe:
    return Recipe.of(header.digest, [c.name for c in header.classes], config.tiling)


@dataclass(slots=True)
class _Run:
    """One execution of a plan."""

    config: JobConfig
    table: Table
    labels: RowLabels
    model: str  # address that every worker can read
    header: Header
    reporter: Reporter
    meters: Meters
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    workers: dict[str, int] = field(default_factory=dict)
    devices: set[str] = field(default_factory=set)  # that the networks ran on
    committed: int = 0
    window: Window = field(default_factory=lambda: Window(actors=1))

    def all(self, plan: Plan, folder: Path, signals: Signals) -> None:
        """Do the plan; what did not come back is done again in smaller blocks, then given up one by one."""
        self._check_room()
        self.table.check_alone()  # Ray took seconds to start: a run that is under way has committed by now
        todo, count, lost = plan.file, plan.todo, LostBlocks()
        before = 0
        for attempt, block_images in enumerate((self._block_images(plan, self._room()[1]), *RETRY_BLOCKS)):
            uri = self.table.copy_run_file(self.labels.run_id, f"plan-{attempt}.parquet", todo)
            before = self.committed
            groups = pq.read_metadata(todo).num_row_groups
            self._commit_stream(self._graph(uri, groups, block_images), signals)
            gc.collect()  # lost blocks leave cycles that hold the actors' handles, and so their GPUs
            rest = folder / f"plan-{attempt + 1}.parquet"
            count = left_over(todo, self.table, self.labels.run_id, rest)
            if count == 0:
                return
            todo = rest
            then = "trying them again in smaller blocks" if attempt < len(RETRY_BLOCKS) else "giving them up"
            self.reporter.say(f"{count:,} images did not come back ({lost.reason}): {then}")
        if self.committed == before and (lost.in_code or count > MANY_LEFT):
            raise MasklakeError(f"{count:,} images do not come through, and are left undone: {lost.reason}")
        self._give_up(todo)

    # ------------------------------------------------------------ the graph

    def _room(self) -> tuple[Room, int, bool]:
        """Return the nodes that are up, how many actors are started on them, and whether each has a GPU."""
        import ray

        room, device = Room.of(ray.nodes()), self.config.predict.device  # type: ignore[no-untyped-call]
        awaited = device == "cuda" and self.config.run.ray_address is not None  # its node may yet come
        on_gpu = device != "cpu" and (awaited or any(node.gpus for node in room.nodes))
        return room, self.config.run.actors or room.actors(on_gpu=on_gpu), on_gpu

    def _check_room(self) -> None:
        """Raise ConfigError if a stage has no place; where an autoscaler may bring one, only say so."""
        room, actors, on_gpu = self._room()
        demands = (
            Demand(stage="segment", cpus=ACTOR_CPUS, gpus=int(on_gpu)),
            Demand(stage="reading the plan", cpus=PLAN_CPUS),
            *(Demand(stage=stage, cpus=TASK_CPUS) for stage in task_workers(0)),
        )
        if problem := room.lacks(demands, actors, on_gpu=on_gpu):
            if not may_grow():
                raise ConfigError(problem)
            self.reporter.say(f"note: {problem}; this cluster's autoscaler is waited for")

    def _graph(self, plan_uri: str, plan_groups: int, block_images: int) -> Any:
        """Return the lazy dataset whose rows are the parts that were written."""
        import ray.data
        from ray.data import ActorPoolStrategy, TaskPoolStrategy
        from ray.data._internal.execution.backpressure_policy import (
            ENABLED_BACKPRESSURE_POLICIES,
            ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
        )

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # a lost block must not end the run: it is found and done again
        context.execution_options.verbose_progress = False
        room, actors, on_gpu = self._room()
        in_flight = 1 if block_images == 1 else None  # the last try: no image dies with its neighbour
        self.workers = {"segment": actors, **task_workers(room.cpus)}
        self.window = HoldActors.window = Window(actors)
        HoldActors.stages = SEGMENT, WRITE
        context.set_config(
            ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, HoldActors]
        )
        return (
            ray.data.range(plan_groups, override_num_blocks=plan_groups)
            .map_batches(
                functools.partial(plan_rows, plan_uri=plan_uri, storage_config=self.config.storage),
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=TASK_CPUS,
            )
            .repartition(target_num_rows_per_block=block_images)
            .map_batches(
                functools.partial(
                    fetch_and_decode,
                    storage_config=self.config.storage,
                    decode_config=self.config.decode,
                    channels=self.header.config.in_channels,
                ),
                batch_size=None,
                batch_format="pyarrow",
                compute=TaskPoolStrategy(size=self.workers["fetch + decode"]),
                num_cpus=TASK_CPUS,
                max_retries=WORKER_RETRIES,
            )
            .map_batches(
                MeteredSegmentBlock,
                fn_constructor_args=(
                    self.model,
                    self.header.digest,
                    self.config.storage,
                    self._predict_config(room.cpus, actors),
                    self.config.tiling,
                ),
                batch_size=block_images,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=in_flight),
                num_cpus=ACTOR_CPUS,
                num_gpus=int(on_gpu),
                max_restarts=ACTOR_RESTARTS,
                max_task_retries=ACTOR_RETRIES,
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

    def _predict_config(self, cpus: int, actors: int) -> PredictConfig:
        """Return the prediction's section with the actor's share of the cores filled in."""
        cores = cpus if self.config.run.ray_address else cpus - SPARE_CPUS
        threads = self.config.predict.threads or max(1, cores // actors)
        return self.config.predict.model_copy(update={"threads": threads})

    def _block_images(self, plan: Plan, actors: int) -> int:
        """Return how many images travel together: few in a small run, so that its stages overlap, few where
        they are large, so that a block fits the object store, and many where they are small, since each block
        costs the driver the same."""
        decoded = max(1, plan.todo_bytes // plan.todo) * DECODED_BYTES
        pixels = max(self.config.tiling.side**2, decoded // 3)
        least, most = BLOCK_IMAGES
        return min(
            self.config.run.block_images or min(most, max(least, BLOCK_PIXELS // pixels)),
            max(RETRY_BLOCKS[0], plan.todo // (ACTOR_BLOCKS * actors)),
            max(1, BLOCK_BYTES // decoded),
        )

    # ------------------------------------------------------------ commit

    def _commit_stream(self, dataset: Any, signals: Signals) -> None:
        """Iterate over the written parts and commit them: when, the window says; the first at once."""
        blocks = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        with in_background(blocks, "masklake-stream") as results:
            self._commit_results(results, signals)

    def _commit_results(
        self, results: "queue.Queue[pa.Table | BaseException | None]", signals: Signals
    ) -> None:
        """Commit what the stream gives until it ends, a signal comes, or nothing moves any more."""
        waiting: list[Written] = []
        now = last_move = time.monotonic()
        last_commit = -math.inf  # the first part waits for no other
        while True:
            with contextlib.suppress(queue.Empty):
                item = results.get(timeout=POLL_SECONDS)
                last_move = time.monotonic()
                if isinstance(item, pa.Table):
                    try:
                        waiting += self._received(item)
                    except StorageError:
                        self._commit(waiting)
                        raise
                else:
                    self._commit(waiting)
                    if item is not None:
                        why = why_ray_failed(item, self.config.run.ray_address)
                        raise ClusterError(f"Ray stopped the run: {why}") from item
                    return
            now = time.monotonic()
            if self._due(len(waiting), now - last_commit):
                self._commit(waiting)
                waiting, last_commit = [], time.monotonic()
            stalled = now - last_move > self.config.run.stall_seconds
            if signals.received or signals.lost or stalled:
                self._commit([*waiting, *self._rest(results)])
            if signals.received:
                raise InterruptedRun(
                    signals.received,
                    f"stopped{signals.why}: {self.committed:,} images of this run are in {self.table.uri}; "
                    "the same command goes on from there",
                )
            if signals.lost:
                raise ClusterError(
                    f"{signals.lost}: {self.committed:,} images of this run are in {self.table.uri}; "
                    "the same command goes on from there, on a cluster that is up"
                )
            if stalled:
                raise StalledError(
                    f"nothing has moved for {self.config.run.stall_seconds:g} s: {what_waits(OPERATORS)}; "
                    f"{self.committed:,} images are in the table and the same command goes on; "
                    "--stall-timeout sets the limit"
                )
            self.meters.tick(len(waiting))
            self.reporter.tick()

    def _due(self, waiting: int, seconds: float) -> bool:
        """Return whether that many parts are committed now, so many seconds after the last commit."""
        enough = self.window.actors * self.window.batch
        return waiting >= enough or (waiting > 0 and seconds >= self.config.run.commit_seconds)

    def _rest(self, results: "queue.Queue[pa.Table | BaseException | None]") -> list[Written]:
        """Return the parts that have arrived and wait in the queue."""
        parts: list[Written] = []
        with contextlib.suppress(queue.Empty):
            while isinstance(item := results.get_nowait(), pa.Table):
                parts += self._received(item)
        return parts

    def _received(self, rows: pa.Table) -> list[Written]:
        """Return the parts that a writer reports. Raises StorageError if it could not write."""
        parts = rows.to_pylist()
        if problem := next((part["problem"] for part in parts if part["problem"]), None):
            raise StorageError(problem)
        return [as_written(part) for part in parts]

    def _commit(self, written: list[Written]) -> None:
        if not written:
            return
        started = time.perf_counter()
        self.table.commit([one.part for one in written])
        took = time.perf_counter() - started
        seconds = {stage: sum(one.seconds.get(stage, 0.0) for one in written) for stage in STAGES}
        self.window.learn(len(written), seconds["segment"], seconds["encode"] + seconds["write"], took)
        self.meters.committed(written, took)
        images = sum(one.part.rows for one in written)
        self.committed += images
        self.devices |= {one.device for one in written if one.device}
        for stage in STAGES:
            self.seconds[stage] += seconds[stage]
        self.reporter.committed(images, sum(sum(one.failed.values()) for one in written))

    def _give_up(self, plan_file: Path) -> None:
        """Commit a failed row for each image whose worker died every time."""
        for batch in pq.ParquetFile(plan_file).iter_batches():
            self._commit([write_lost(batch.to_pylist(), self.labels, self.config.storage)])

    def stages(self) -> list[StageReport]:
        """Return what each stage cost, for the summary."""
        parts = {"fetch + decode": STAGES[:2], "segment": STAGES[2:3], "encode + write": STAGES[3:]}
        return [
            StageReport(
                name=name,
                seconds={s: self.seconds[s] for s in stages},
                workers=self.workers.get(name, 1),
                devices=sorted(self.devices) if name == "segment" else [],
            )
            for name, stages in parts.items()
        ]
