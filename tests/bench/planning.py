"""The plan of a bucket against a table that has nearly all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import inventory
from pipeline.config import StorageConfig
from pipeline.schema import PLAN_ROW
from pipeline.table import Table, write_part
from tests.bench.buckets import done
from tests.bench.figure import Figure, Say

ROWS, LEFT = 10_000_000, 1_000
PART = 20_000  # rows of a file of the table, as compaction leaves them where masks have some 10 kB
RECIPE = "r" * 16

# Imports are in it, the listing is not: that depends on the store, and is a figure of its own.
PROGRAM = """
import resource, shutil, sys, time
from pathlib import Path
started = time.perf_counter()
from pipeline import plan as planning
from pipeline.config import SourceConfig, StorageConfig
from pipeline.table import Table
folder = Path(sys.argv[1])
def listed(source, config, target, progress):
    shutil.move(folder / "bucket.parquet", target)
    return 0
planning.write_listing = listed
seen = Table.open(str(folder / "table"), StorageConfig()).save_seen(sys.argv[2], folder / "seen.parquet")
plan = planning.make_plan(SourceConfig(uri="s3://bucket"), StorageConfig(), seen, folder)
assert plan.todo == plan.new == int(sys.argv[3]), plan
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return seconds and peak memory of the anti-join, in a process of its own."""
    _write(folder)
    command = [sys.executable, "-c", PROGRAM, str(folder), RECIPE, str(LEFT)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if ended.returncode:
        raise RuntimeError(f"the plan failed:\n{ended.stderr[-3000:]}")
    seconds, gigabytes = map(float, ended.stdout.split())
    say(f"  anti-join of {ROWS:,} with {ROWS - LEFT:,}: {seconds:.1f} s, {gigabytes:.2f} GB")
    how = f"{ROWS:,} planned, {ROWS - LEFT:,} rows in the table; listing read from a file"
    name = f"plan of {ROWS:,} against the table"
    return [
        Figure(name=f"{name}, time", value=seconds, unit="s", limit=30, at_least=False, how=how),
        Figure(name=f"{name}, memory", value=gigabytes, unit="GB", limit=4, at_least=False, how=how),
    ]


def _write(folder: Path) -> None:
    """Write the listing, and a table that lacks its first images."""
    config = StorageConfig()
    table = Table.open_or_create(str(folder / "table"), config)
    parts = []
    with pq.ParquetWriter(folder / "bucket.parquet", PLAN_ROW, compression="zstd") as writer:
        for start in range(0, ROWS, PART):
            rows = _listing(start)
            writer.write_table(rows, inventory.ROWS_PER_GROUP)
            parts.append(write_part(done(rows.slice(0 if start else LEFT), RECIPE), table.uri, config))
    table.commit(parts)


def _listing(start: int) -> pa.Table:
    """Return PART rows of the listing."""
    uris = [f"s3://bucket/{number:09}.png" for number in range(start, start + PART)]
    ids = [inventory.image_id(uri, "etag") for uri in uris]
    times = pa.nulls(PART, PLAN_ROW.field("last_modified").type)
    return pa.table([ids, uris, ["etag"] * PART, [1] * PART, times], schema=PLAN_ROW)
