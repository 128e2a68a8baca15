"""Listing 100,000 objects of a local S3 server."""

import os
import time
from pathlib import Path

from pipeline import listing
from pipeline.config import StorageConfig
from pipeline.demo.server import S3Server
from tests.bench.buckets import write_objects
from tests.bench.figure import Figure, Say

OBJECTS, FOLDERS = 100_000, 100


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
                    at_least=False,
                    how="rclone's S3 server on loopback",
                )
            )
    return figures
