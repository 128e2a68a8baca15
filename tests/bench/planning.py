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

ROWS, LEFT = 1_000_000, 1_000


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return seconds and peak memory of the anti-join, in a process of its own."""
    storage_config = StorageConfig()
    uris = [f"s3://bucket/{number:09}.png" for number in range(ROWS)]
    ids = [inventory.image_id(uri, "etag") for uri in uris]
    listing = pa.table(
        [ids, uris, ["etag"] * ROWS, [1] * ROWS, pa.nulls(ROWS, PLAN_ROW.field("last_modified").type)],
        schema=PLAN_ROW,
    )
    pq.write_table(listing, folder / "bucket.parquet", compression="zstd")
    table = Table.open_or_create(str(folder / "table"), storage_config)
    parts = []
    for start in range(LEFT, ROWS, 10_000):
        rows = done(listing.slice(start, 10_000), "r" * 16)
        parts.append(write_part(rows, table.uri, storage_config))
    table.commit(parts)
    program = f"""
import resource, shutil, time
from pathlib import Path
from pipeline import inventory
from pipeline.config import SourceConfig, StorageConfig
from pipeline.table import Table
folder = Path({str(folder)!r})
def listed(source, config, target, progress):
    shutil.copy(folder / "bucket.parquet", target)
    return 0
inventory._write_listing = listed
started = time.perf_counter()
seen = Table.open(str(folder / "table"), StorageConfig()).done("r" * 16)
plan = inventory.make_plan(SourceConfig(uri="s3://bucket"), StorageConfig(), seen, folder)
assert plan.todo == {LEFT}, plan
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=dict(os.environ)
    ).stdout
    seconds, gigabytes = map(float, printed.split())
    say(f"  anti-join of {ROWS:,} with {ROWS - LEFT:,}: {seconds:.1f} s, {gigabytes:.2f} GB")
    how = f"{ROWS:,} planned, {ROWS - LEFT:,} rows in the table; listing read from a file"
    name = f"plan of {ROWS:,} against the table"
    return [
        Figure(name=f"{name}, time", value=seconds, unit="s", limit=5, at_least=False, how=how),
        Figure(name=f"{name}, memory", value=gigabytes, unit="GB", limit=2, at_least=False, how=how),
    ]
