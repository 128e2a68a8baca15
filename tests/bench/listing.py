"""Listing: 100,000 objects of a local S3 server, and a million of a store that answers at once."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipeline import inventory, listing, storage
from pipeline.config import SourceConfig, StorageConfig
from pipeline.demo.server import S3Server
from tests.bench.buckets import write_objects
from tests.bench.figure import Figure, Say

OBJECTS, FOLDERS = 100_000, 100
MANY, PAGE = 1_000_000, 1_000  # of the store that answers at once; objects of its pages, as S3 has them


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return the seconds that listing takes, with the objects in folders and all in one."""
    root = folder / "root"
    write_objects(root / "wide", OBJECTS, FOLDERS)
    write_objects(root / "flat", OBJECTS)
    figures = []
    with S3Server(root) as server:
        os.environ.update(server.environment)
        for bucket, shape in (("wide", f"{FOLDERS} prefixes"), ("flat", "one prefix")):
            started = time.perf_counter()
            found = sum(len(page) for page in listing.list_objects(f"s3://{bucket}", StorageConfig()))
            seconds = time.perf_counter() - started
            say(f"  {found:,} objects in {shape}: {seconds:.1f} s")
            if found != OBJECTS:
                raise RuntimeError(f"listed {found:,} of {OBJECTS:,} objects")
            figures.append(
                Figure(
                    name=f"listing {OBJECTS:,} objects, {shape}",
                    value=seconds,
                    unit="s",
                    limit=60,
                    how="rclone's S3 server on loopback",
                )
            )
    return [*figures, _of_many(folder, say)]


def _of_many(folder: Path, say: Say) -> Figure:
    """List what a store would say of MANY objects: what is ours of the time, up to the file."""
    counts: list[int] = []
    with patch.object(storage, "asked", _answer):
        started = time.process_time()
        inventory.write_listing(
            SourceConfig(uri="s3://many"), StorageConfig(), folder / "listing.parquet", counts.append
        )
        seconds = time.process_time() - started
    if counts[-1] != MANY:
        raise RuntimeError(f"listed {counts[-1]:,} of {MANY:,} objects")
    say(f"  {MANY:,} objects of a store that answers at once: {seconds:.1f} s of a core")
    return Figure(
        name="listing, time of a core for an object",
        value=1e6 * seconds / MANY,
        unit="µs",
        how=f"{MANY:,} objects in pages of {PAGE:,} from memory, written to a file",
    )


def _answer(*_call: Any, **request: str) -> dict[str, Any]:
    """Return a page of ListObjectsV2."""
    start = int(request.get("ContinuationToken", "0"))
    keys = (f"{number // 10_000:04}/{number:09}.png" for number in range(start, start + PAGE))
    now = datetime.now(UTC)
    contents = [{"Key": key, "ETag": f'"{key}"', "Size": 300_000, "LastModified": now} for key in keys]
    more = {"IsTruncated": True, "NextContinuationToken": str(start + PAGE)} if start + PAGE < MANY else {}
    return {"Contents": contents, **more}
