"""The overview of a table: counted from committed rows, also where run folders are missing."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.config import StorageConfig
from pipeline.overview import NEWEST, failed_rows, overview
from pipeline.table import Table, write_part

LOCAL = StorageConfig()
MakeRows = Callable[..., pa.Table]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """An empty table."""
    return Table.open_or_create(str(tmp_path / "masks"), LOCAL)


def add(table: Table, *rows: pa.Table) -> None:
    table.commit([write_part(part, table.uri, LOCAL) for part in rows])


def test_an_empty_table_is_shown(table: Table) -> None:
    """No rows are no error, and nothing is divided by nothing."""
    facts = overview(table)
    assert (facts.rows, facts.ok, facts.failed, facts.files, facts.runs) == (0, 0, 0, 0, [])
    assert (facts.class_share, facts.failures) == ({}, {})
    assert "0: 0 masks, 0 failures" in str(facts)
    json.dumps(facts.to_dict())


def test_rows_classes_failures_and_runs(table: Table, make_rows: MakeRows) -> None:
    """Every number is that of the committed rows, and names and speed come from the runs' folders."""
    config = {"recipe": {"classes": ["ground", "nucleus"]}}
    table.write_run_file("run-2", "config.json", json.dumps(config).encode())
    table.write_run_file("run-2", "summary.json", json.dumps({"images_per_second": 12.34}).encode())
    add(table, make_rows("ok", "abc"), make_rows("failed", "d", stage="limit"))
    add(table, make_rows("ok", "ef", run_id="run-2"))
    write_part(make_rows("ok", "z"), table.uri, LOCAL)  # never committed
    facts = overview(table)
    assert (facts.rows, facts.ok, facts.failed, facts.files) == (6, 5, 1, 3)
    assert facts.class_share == {"ground": pytest.approx(4 / 6), "nucleus": pytest.approx(2 / 6)}
    assert facts.failures == {"limit: SomeError": 1}
    assert [(run.run_id, run.ok, run.failed, run.images_per_second) for run in facts.runs] == [
        ("run-2", 2, 0, 12.34),
        ("run-1", 3, 1, None),
    ]
    text = str(facts)
    for words in (
        "6: 5 masks, 1 failures, 3 files",
        "ground 66.7%, nucleus 33.3% of all pixels",
        "1 limit: SomeError",
        "run-2: 2 masks, 0 failures, recipe r1, 12.3 images/s",
        "run-1: 3 masks, 1 failures, recipe r1\n",
    ):
        assert words in text
    json.dumps(facts.to_dict())


def test_only_the_newest_runs_and_commits_are_shown(table: Table, make_rows: MakeRows) -> None:
    """A table of many nights stays one screen, and says what it leaves out."""
    for index in range(NEWEST + 3):
        add(table, make_rows("ok", "a", run_id=f"run-{index}"))
    facts = overview(table)
    assert len(facts.runs) == NEWEST + 3
    assert len(facts.commits) == NEWEST
    assert [commit["version"] for commit in facts.commits] == list(range(NEWEST + 3, 3, -1))
    text = str(facts)
    assert "and 3 older runs" in text
    assert f"run-{NEWEST + 2}: " in text
    assert "run-0: " not in text


def test_classes_without_a_run_folder_go_by_number(table: Table, make_rows: MakeRows) -> None:
    """Where nobody knows the names any more, the shares are still right."""
    add(table, make_rows("ok", "a"))
    assert list(overview(table).class_share) == ["class 0", "class 1"]


def test_failed_rows_are_listed_by_name(table: Table, make_rows: MakeRows) -> None:
    """Each failure has its object, stage, class and message; masks are none; one run can be asked for."""
    add(table, make_rows("ok", "a"), make_rows("failed", "cb", stage="decode"))
    add(table, make_rows("failed", "d", run_id="run-2"))
    rows = failed_rows(table)
    assert [(row["uri"], row["stage"], row["type"], row["message"], row["run_id"]) for row in rows] == [
        ("file:///images/b", "decode", "SomeError", "it did not work", "run-1"),
        ("file:///images/c", "decode", "SomeError", "it did not work", "run-1"),
        ("file:///images/d", "fetch", "SomeError", "it did not work", "run-2"),
    ]
    assert [row["uri"] for row in failed_rows(table, "run-2")] == ["file:///images/d"]
    assert failed_rows(table, "run-3") == []
