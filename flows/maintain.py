"""The flow `maintain`: drop runs that are too old, merge small files, remove what nothing needs any more."""

from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import State, flow, task
from prefect.states import Completed

from flows import page
from flows.night import NightConfig
from flows.outcome import RETRIES, holder, in_one_line
from flows.segment import lease_of
from pipeline import storage
from pipeline.lease import Lease
from pipeline.report import count_rows
from pipeline.table import Table


@flow(name="maintain", flow_run_name="{night.table}", validate_parameters=True, persist_result=False)
@in_one_line
def maintain(night: NightConfig) -> State[Any]:
    """Tidy a table up. Never while a flow's run writes to it: its parts would look like left-overs."""
    if not Table.exists(night.table, night.storage):
        return Completed(message=f"there is no table at {storage.canonical(night.table)} yet")
    done = tidy(night)
    page.show_table(
        "maintenance", done["table"], [{"what": k, "value": v} for k, v in done.items()], "Tidied up"
    )
    return Completed(message=f"{done['files before']} files became {done['files']}")


@task(name="tidy up", **RETRIES)
def tidy(night: NightConfig) -> dict[str, Any]:
    """Drop old runs and compact the table; return what was done. Raises ConflictError while a flow writes."""
    told = night.maintain
    with Lease.take(
        lease_of(night.table), holder(), "maintain", night.cluster.lease_seconds, night.storage
    ).renewed():
        table = Table.open(night.table, night.storage)
        before = table.file_count
        dropped = drop_old_runs(table, told.keep_days, datetime.now(UTC))
        if told.compact:
            table.compact(told.retention_hours)
        rows = sum(count_rows(table).values())
    return {
        "table": table.uri,
        "rows": f"{rows:,}",
        "runs dropped": ", ".join(dropped) or "none",
        "files before": f"{before:,}",
        "files": f"{table.file_count:,}",
    }


def drop_old_runs(table: Table, keep_days: int | None, now: datetime) -> list[str]:
    """Drop the runs that began more than `keep_days` days ago, and return their ids; None drops none."""
    if keep_days is None:
        return []
    oldest = f"{now - timedelta(days=keep_days):%Y%m%dT%H%M%SZ}"  # run ids begin with their time
    old = [run_id for run_id in table.runs_with_rows() if run_id < oldest]
    for run_id in old:
        table.drop_run(run_id)
    return old
