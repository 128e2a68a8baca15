"""What a run would do, how long it would take and what it would cost. Changes nothing."""

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from pipeline import storage
from pipeline.blocks import SegmentBlock, fetch_and_decode
from pipeline.config import JobConfig, Recipe
from pipeline.harmless import without_secrets_in
from pipeline.inventory import check_places
from pipeline.plan import make_plan
from pipeline.progress import Reporter, duration
from pipeline.registry.checkpoints import fetch_checkpoint
from pipeline.runs import finished_runs
from pipeline.sizing import Costs, cores_for, seconds_for
from pipeline.table import Table

EARLIER_RUNS = 5  # that are asked for their speed
SAMPLE_IMAGES = 8  # that are segmented to find the speed, where no earlier run tells it


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """What is to do, on a cluster of so many GPUs."""

    gpus: int
    cpu_cores: int  # that keep them busy
    seconds: float
    costs: Costs  # of one image
    run_id: str  # that measured them

    def __str__(self) -> str:
        told = f"{self.gpus:,} GPU{'' if self.gpus == 1 else 's'}"
        answer = f"  {told:<10} about {duration(self.seconds)} with {self.cpu_cores:,} CPU cores"
        if self.costs.on_gpu:
            return f"{answer} (as measured on {self.costs.device}, run {self.run_id})"
        return (
            f"{answer}, were a GPU as fast as the {self.costs.device} of run {self.run_id}: "
            "no earlier run was on a GPU, which is faster and needs more cores"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """The answer of `masklake plan`. Counts are images."""

    source: str
    table: str
    recipe: str
    listed: int
    listed_bytes: int
    skipped_objects: int
    done: int
    new: int
    changed: int
    retried: int
    todo: int
    todo_bytes: int
    images_per_second: float | None  # None: nothing to do, or unknown
    measured: str  # where the speed comes from
    seconds: float
    cost: float | None  # in the currency of --price-per-hour
    sizing: Sizing | None  # None: not asked for, nothing to do, or no earlier run tells

    def to_json(self) -> str:
        """Return the quote as JSON."""
        return json.dumps(without_secrets_in(asdict(self)), indent=2)

    def __str__(self) -> str:
        lines = [
            f"{self.source}",
            f"  images     {self.listed:,} ({_size(self.listed_bytes)}); "
            f"{self.skipped_objects:,} other objects",
            f"  done       {self.done:,} are in {self.table} for recipe {self.recipe}",
            f"  to do      {self.todo:,} ({_size(self.todo_bytes)}): "
            f"{self.new:,} new, {self.changed:,} changed, {self.retried:,} failed before",
        ]
        if self.images_per_second:
            lines.append(
                f"  time       about {duration(self.seconds)} at {self.images_per_second:.1f} images/s "
                f"({self.measured})"
            )
        elif self.todo:
            lines.append(f"  time       unknown ({self.measured})")
        if self.sizing:
            lines.append(str(self.sizing))
        if self.cost is not None:
            lines.append(f"  cost       about {self.cost:,.2f}")
        return "\n".join(lines)


def quote(
    config: JobConfig, price_per_hour: float | None, reporter: Reporter, gpus: int | None = None
) -> Quote:
    """Return what `segment` would do with this configuration; with `gpus`, the cost is that of so many.

    Raises MasklakeError as `segment` would.
    """
    check_places(config.source.uri, config.table)
    files = fetch_checkpoint(config.model, config.storage, config.registry)
    header = files.header()
    recipe = Recipe.of(header.digest, [c.name for c in header.classes], config.tiling)
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
        speed, measured = None, "nothing to do"
        if plan.todo:
            speed = _earlier_speed(table, recipe.id) if table else None
            measured = "as in earlier runs of this recipe"
            if speed is None:
                reporter.say(f"segmenting {min(SAMPLE_IMAGES, plan.todo)} images to find the speed")
                speed = _sample_speed(
                    plan.file,
                    config,
                    SegmentBlock(files.uri, header.digest, config.storage, config.predict, config.tiling),
                )
                measured = f"measured on {min(SAMPLE_IMAGES, plan.todo)} images, on this machine"
            if speed is None:
                measured = "no image of the sample could be read"
    seconds = plan.todo / speed if speed else 0.0
    sized = _sizing(table, recipe.id, plan.todo, gpus) if table and gpus and plan.todo else None
    if gpus and plan.todo and not sized:
        reporter.say(
            "--gpus: no earlier run of this recipe is in the table, and only a run tells what it takes"
        )
    known = not plan.todo or sized is not None or (speed is not None and not gpus)
    hours = (sized.seconds if sized else seconds) / 3600
    return Quote(
        source=storage.canonical(config.source.uri),
        table=storage.canonical(config.table),
        recipe=recipe.id,
        listed=plan.listed,
        listed_bytes=plan.listed_bytes,
        skipped_objects=plan.skipped,
        done=plan.done,
        new=plan.new,
        changed=plan.changed,
        retried=plan.retried,
        todo=plan.todo,
        todo_bytes=plan.todo_bytes,
        images_per_second=speed,
        measured=measured,
        seconds=seconds,
        cost=hours * price_per_hour if price_per_hour is not None and known else None,
        sizing=sized,
    )


def _earlier_speed(table: Table, recipe: str) -> float | None:
    """Return images/s of the largest of the newest runs of this recipe: a small one is mostly Ray's start."""
    newest = islice(finished_runs(table, recipe), EARLIER_RUNS)
    speeds = [(run.images, run.images_per_second) for run in newest]
    return max(speeds)[1] if speeds else None


def _sizing(table: Table, recipe: str, images: int, gpus: int) -> Sizing | None:
    """Return the answer by the largest of the newest runs, of those on a GPU if there is one."""
    told = [(run, run.costs) for run in islice(finished_runs(table, recipe), EARLIER_RUNS) if run.costs]
    if not told:
        return None
    run, costs = max(told, key=lambda pair: (pair[1].on_gpu, pair[0].images))
    return Sizing(
        gpus=gpus,
        cpu_cores=cores_for(gpus, costs),
        seconds=seconds_for(images, gpus, costs),
        costs=costs,
        run_id=run.run_id,
    )


def _sample_speed(plan_file: Path, config: JobConfig, actor: SegmentBlock) -> float | None:
    """Return images/s of one actor on images spread over the plan, or None if none of them can be read."""
    rows = pq.read_table(plan_file)
    count = min(SAMPLE_IMAGES, rows.num_rows)
    sample = rows.take([index * rows.num_rows // count for index in range(count)])
    decoded = list(
        fetch_and_decode(
            sample, storage_config=config.storage, decode_config=config.decode, channels=actor.channels
        )
    )
    actor(decoded[0])  # the first call compiles kernels and warms caches
    started = time.perf_counter()
    for block in decoded:
        actor(block)
    images = sum(block.num_rows - block["pixels"].null_count for block in decoded)
    return images / max(1e-9, time.perf_counter() - started) if images else None


def _size(size: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
