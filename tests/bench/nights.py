"""A night with nothing new, and what the flow costs over the plain command."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import Recipe, SourceConfig, StorageConfig, TilingConfig
from pipeline.demo.server import S3Server
from pipeline.plan import make_plan
from pipeline.registry.checkpoints import fetch_checkpoint
from pipeline.table import Table, write_part
from tests.bench.buckets import done, write_objects
from tests.bench.figure import Figure, Say
from tests.integration.commands import FAULTS
from tests.integration.prefect_server import prefect_server

OBJECTS, FOLDERS, FEW, ROUNDS = 100_000, 100, 100, 5


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return the seconds of both, against a Prefect server that is there."""
    root = folder / "root"
    write_objects(root / "many", OBJECTS, FOLDERS)
    write_objects(root / "few", FEW)
    with S3Server(root) as server, prefect_server(folder / "prefect") as prefect:
        os.environ.update(server.environment)
        environment = server.environment | prefect.environment
        for bucket in ("many", "few"):
            _fill(folder, bucket)
        seconds = _timed(_night(folder, "many", "nightly"), environment)
        say(f"  a night with nothing new among {OBJECTS:,} objects: {seconds:.1f} s")
        flow, plain = [], []
        config = str(folder / "few.toml")
        command = ["segment", "s3://few", "--config", config]
        for number in range(ROUNDS):
            plain.append(_timed(command, environment))
            flow.append(_timed(_night(folder, "few", "segment"), environment))
            say(f"  round {number + 1}: command {plain[-1]:.1f} s, flow {flow[-1]:.1f} s")
    cost = statistics.median(one - other for one, other in zip(flow, plain, strict=True))
    return [
        Figure(
            name=f"a night with nothing new, {OBJECTS:,} objects",
            value=seconds,
            unit="s",
            limit=60,
            at_least=False,
            how="masklake run --flow nightly, rclone's S3 server on loopback; no Ray",
        ),
        Figure(
            name="the flow over the plain command",
            value=cost,
            unit="s",
            limit=5,
            at_least=False,
            how=f"{ROUNDS} rounds in turn, whole processes, nothing new: "
            f"{min(flow):.1f} to {max(flow):.1f} s, {min(plain):.1f} to {max(plain):.1f} s",
        ),
    ]


def _night(folder: Path, bucket: str, flow: str) -> list[str]:
    return ["run", "--flow", flow, "--config", str(folder / f"{bucket}.toml")]


def _fill(folder: Path, bucket: str) -> None:
    """Write a table that has every object of the bucket, and the night's configuration."""
    table, config = folder / f"table-{bucket}", StorageConfig()
    checkpoint = fetch_checkpoint("nuclei", config).load()
    recipe = Recipe.of(checkpoint.digest, [one.name for one in checkpoint.classes], TilingConfig())
    place = folder / f"plan-{bucket}"
    place.mkdir()
    plan = make_plan(SourceConfig(uri=f"s3://{bucket}"), config, None, place)
    rows = done(pq.read_table(plan.file), recipe.id)
    opened = Table.open_or_create(str(table), config)
    opened.commit([write_part(rows, storage.canonical(str(table)), config)])
    (folder / f"{bucket}.toml").write_text(f'table = "{table}"\n[source]\nuri = "s3://{bucket}"\n')


def _timed(arguments: list[str], environment: Mapping[str, str]) -> float:
    """Return how long a command took, in which Ray cannot be imported. Raises RuntimeError if it failed."""
    variables = {**os.environ, **environment, "PYTHONPATH": str(FAULTS), "MASKLAKE_FAULT_NO_RAY": "1"}
    started = time.perf_counter()
    masklake = str(Path(sys.executable).with_name("masklake"))
    done = subprocess.run([masklake, *arguments], env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{arguments} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - started
