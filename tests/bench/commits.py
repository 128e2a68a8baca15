"""A commit, by how many the table has had, and what a run's start costs as the table grows.

The entries of the log are real, the files that they name are not: nothing here reads a mask.
"""

import json
import re
import statistics
import time
import uuid
from pathlib import Path

from deltalake import DeltaTable

from pipeline.config import StorageConfig
from pipeline.table import Part, Table
from tests.bench.figure import Figure, Say

SIZES = (10, 100, 1_000, 10_000)  # commits
AT_EACH = 30  # commits that are timed
ROWS, FILES = 100_000_000, 5_000  # of the large table: 20,000 rows a file, as compaction leaves them
RUNS = 1_000  # nights that made it


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return the milliseconds of a commit, and the seconds to open a large table and commit to it."""
    return [*_commits(folder / "commits", say), *_large(folder / "large", say)]


def _commits(folder: Path, say: Say) -> list[Figure]:
    Table.open_or_create(str(folder), StorageConfig()).commit([_part("run-0")])
    figures = []
    for size in SIZES:
        _grow(folder / "_delta_log", size)
        started = time.perf_counter()
        table = Table.open(str(folder), StorageConfig())
        opened = time.perf_counter() - started
        times = []
        for _ in range(AT_EACH):
            started = time.perf_counter()
            table.commit([_part("run-0")])
            times.append(time.perf_counter() - started)
        said = f"{1e3 * min(times):.1f} to {1e3 * max(times):.1f} ms; opened in {1e3 * opened:.0f} ms"
        say(f"  after {size:,} commits: one takes {1e3 * statistics.median(times):.1f} ms, {said}")
        figures.append(
            Figure(
                name=f"a commit after {size:,}",
                value=1e3 * statistics.median(times),
                unit="ms",
                how=f"one part, a local folder, {AT_EACH} of them: {said}",
            )
        )
    return figures


def _grow(log: Path, commits: int) -> None:
    """Repeat the newest entry until the log has so many, as if all had been written one by one."""
    newest = max(log.glob("*.json"))
    entry, version = newest.read_text(), int(newest.stem)
    name = re.search(r"part-([0-9a-f]{32})", entry)
    if name is None:
        raise RuntimeError(f"{newest} names no part")
    for number in range(version + 1, commits + 1):
        text = entry.replace(name[1], uuid.uuid4().hex).replace(
            f'"version":{version}}}', f'"version":{number}}}'
        )
        (log / f"{number:020}.json").write_text(text)
    DeltaTable(log.parent).create_checkpoint()


def _large(folder: Path, say: Say) -> list[Figure]:
    """Open a table of ROWS rows, and commit to it: what a run does with its log, its rows apart."""
    table = Table.open_or_create(str(folder), StorageConfig())
    for night in range(RUNS):
        table.commit([_part(f"run-{night}", ROWS // FILES) for _ in range(FILES // RUNS)])
    started = time.perf_counter()
    table = Table.open(str(folder), StorageConfig())
    opened = time.perf_counter() - started
    started = time.perf_counter()
    table.commit([_part("run-new")])
    committed = time.perf_counter() - started
    how = f"{ROWS:,} rows in {FILES:,} files of {RUNS:,} runs, from their metadata; a local folder"
    say(f"  {how}: opened in {opened:.2f} s, a commit {1e3 * committed:.0f} ms")
    return [
        Figure(name=f"opening a table of {ROWS:,} rows", value=opened, unit="s", how=how),
        Figure(name=f"a commit to a table of {ROWS:,} rows", value=1e3 * committed, unit="ms", how=how),
    ]


def _part(run_id: str, rows: int = 64) -> Part:
    """Return what a writer would report of a file."""
    name = uuid.uuid4().hex
    ends = {"image_id": name, "recipe": "r" * 16}
    return Part(
        path=f"run_id={run_id}/status=ok/part-{name}.parquet",
        run_id=run_id,
        status="ok",
        size=1_000_000,
        rows=rows,
        statistics=json.dumps({"numRecords": rows, "minValues": ends, "maxValues": ends}),
    )
