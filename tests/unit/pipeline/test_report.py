"""The summary: counts come from the table, times from the workers, and a person can read it."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.config import StorageConfig
from pipeline.plan import Plan
from pipeline.report import StageReport, Summary, count_failures, count_rows, how_to_read
from pipeline.table import Table, write_part

LOCAL = StorageConfig()


@pytest.fixture
def table(tmp_path: Path, make_rows: Callable[..., pa.Table]) -> Table:
    """Two runs: five masks and three failures in the first, one mask in the second."""
    table = Table.open_or_create(str(tmp_path / "masks"), LOCAL)
    rows = [
        make_rows("ok", "abcde"),
        make_rows("failed", "fg", stage="decode"),
        make_rows("failed", "h", stage="fetch"),
        make_rows("ok", "i", run_id="run-2"),
    ]
    table.commit([write_part(part, table.uri, LOCAL) for part in rows])
    write_part(make_rows("ok", "z"), table.uri, LOCAL)  # never committed: counts nowhere
    return table


def plan(**counts: int) -> Plan:
    numbers = dict.fromkeys(("todo", "todo_bytes", "listed", "listed_bytes", "skipped", "done", "new"), 0)
    return Plan(file=Path("plan"), changed=0, retried=0, outdated=(), **(numbers | counts))


STAGES = [
    StageReport(name="fetch + decode", seconds={"fetch": 3.0, "decode": 1.0}, workers=4),
    StageReport(name="segment", seconds={"segment": 8.0}, workers=1, devices=["CPU"]),
    StageReport(name="encode + write", seconds={"encode": 2.0, "write": 0.5}, workers=1),
]


def test_rows_are_counted_as_committed(table: Table) -> None:
    """By status and by reason, of one run or of all."""
    assert count_rows(table) == {"ok": 6, "failed": 3}
    assert count_rows(table, "run-2") == {"ok": 1}
    assert count_rows(table, "run-3") == {}
    assert count_failures(table, "run-1") == {"decode: SomeError": 2, "fetch: SomeError": 1}
    assert count_failures(table, "run-2") == {}


def test_summary_of_a_run(table: Table) -> None:
    """The run's own rows are counted; the stage whose workers were busiest is the bottleneck."""
    counts = plan(todo=8, listed=20, done=12, skipped=1234)
    summary = Summary.of_run(table, "run-1", counts, 10.0, STAGES)
    assert (summary.images, summary.failed, summary.images_per_second) == (8, 3, 0.8)
    assert (summary.listed, summary.already_done, summary.skipped_objects) == (20, 12, 1234)
    assert summary.bottleneck == "segment"  # 8 of 10 s; four fetchers were busy for 4 of 40 s
    text = str(summary)
    for words in (
        "run run-1",
        "8 in 10 s (0.8 images/s), 12 were there before",
        "2  decode: SomeError",
        "1  fetch: SomeError",
        "fetch 3.0 s, decode 1.0 s; 4 at once",
        "segment 8.0 s; 1 at once on CPU  <- bottleneck",
        table.uri,
    ):
        assert words in text


def test_summary_survives_json(table: Table) -> None:
    """What is kept in the run's folder has every number that later commands read."""
    summary = Summary.of_run(table, "run-1", plan(), 10.0, STAGES)
    kept = json.loads(summary.to_json())
    assert (kept["images"], kept["images_per_second"], kept["bottleneck"]) == (8, 0.8, "segment")
    assert kept["stages"][0]["seconds"] == {"fetch": 3.0, "decode": 1.0}
    assert kept["stages"][1]["devices"] == ["CPU"]


def test_nothing_to_do_is_said_with_counts(table: Table) -> None:
    """A command that found everything done says so, and has no run."""
    summary = Summary.nothing_to_do(table.uri, plan(listed=1200, done=1200, skipped=3))
    assert (summary.run_id, summary.images, summary.failed) == (None, 0, 0)
    assert str(summary) == (
        f"nothing to do: 1,200 images listed, 1,200 already in {table.uri}, 3 other objects skipped"
    )


def test_how_to_read_is_python_that_runs(table: Table) -> None:
    """The three lines under a summary read the table as they stand."""
    lines = how_to_read(table.uri)
    assert len(lines.splitlines()) == 3
    exec("\n".join(line.strip() for line in lines.splitlines()), {})


def test_a_stage_without_time_is_not_busy() -> None:
    """A run that was over at once divides by nothing."""
    assert StageReport(name="x", seconds={}, workers=1).busy(0.0) == 0
