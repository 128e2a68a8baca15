"""Which runs are old enough to be dropped."""

from datetime import UTC, datetime
from pathlib import Path

from flows.maintain import drop_old_runs
from pipeline.config import StorageConfig
from pipeline.schema import ROW
from pipeline.table import Table, write_part

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
RUNS = ["20261023T015959Z-aaaaaa", "20261024T015959Z-bbbbbb", "20261024T020001Z-cccccc", "20261123T010000Z-d"]


def test_runs_older_than_so_many_days_go(tmp_path: Path) -> None:
    """By the time in their names; those that have no rows any more are not asked for again."""
    table = Table.open_or_create(str(tmp_path), StorageConfig())
    for run_id in RUNS:
        row = {"image_id": run_id, "status": "ok", "run_id": run_id, "uri": "x"}
        rows = ROW.empty_table().from_pylist([row], schema=ROW)
        table.commit([write_part(rows, table.uri, StorageConfig())])
        table.write_run_file(run_id, "config.json", b"{}")
    assert drop_old_runs(table, None, NOW) == []
    assert drop_old_runs(table, 30, NOW) == RUNS[:2]
    assert drop_old_runs(table, 30, NOW) == []
    assert table.runs_with_rows() == RUNS[2:]
