"""What a table holds, as `masklake show` and `masklake failures` print it: computed from committed rows."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow.dataset as ds

from pipeline.report import count_failures, count_rows
from pipeline.table import Table

NEWEST = 5  # commits and runs that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The rows of one run that are in the table now."""

    run_id: str
    ok: int
    failed: int
    recipe: str
    images_per_second: float | None  # None: the run was interrupted, or its folder is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A table in numbers."""

    table: str
    rows: int
    ok: int
    failed: int
    files: int
    class_share: dict[str, float]  # of all pixels that have a mask, by class
    failures: dict[str, int]
    runs: list[Run]  # newest first
    commits: list[dict[str, Any]]  # newest first

    def to_dict(self) -> dict[str, Any]:
        """Return the overview as plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            self.table,
            f"  rows      {self.rows:,}: {self.ok:,} masks, {self.failed:,} failures, {self.files:,} files",
        ]
        if self.class_share:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in self.class_share.items())
            lines.append(f"  classes   {shares} of all pixels")
        lines += [f"  failed    {count:,} {reason}" for reason, count in sorted(self.failures.items())]
        for run in self.runs[:NEWEST]:
            rate = f", {run.images_per_second:.1f} images/s" if run.images_per_second else ""
            lines.append(
                f"  run       {run.run_id}: {run.ok:,} masks, {run.failed:,} failures, "
                f"recipe {run.recipe}{rate}"
            )
        if len(self.runs) > NEWEST:
            lines.append(f"            and {len(self.runs) - NEWEST:,} older runs")
        lines += [f"  commit    {c['version']} at {c['time']}: {c['operation']}" for c in self.commits]
        return "\n".join(lines)


def overview(table: Table) -> Overview:
    """Return what the table holds now."""
    counts = count_rows(table)
    runs = _runs(table)
    return Overview(
        table=table.uri,
        rows=sum(counts.values()),
        ok=counts.get("ok", 0),
        failed=counts.get("failed", 0),
        files=table.file_count,
        class_share=_class_share(table, runs),
        failures=count_failures(table),
        runs=runs,
        commits=[
            {
                "version": commit["version"],
                "time": f"{datetime.fromtimestamp(commit['timestamp'] / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC",
                "operation": commit["operation"],
            }
            for commit in table.versions(NEWEST)
        ],
    )


def failed_rows(table: Table, run_id: str | None = None) -> list[dict[str, Any]]:
    """Return every failed row: uri, etag, stage, type, message, run_id, finished_at."""
    columns = {name: ds.field(name) for name in ("uri", "etag", "run_id", "finished_at")}
    columns |= {name: ds.field("error", name) for name in ("stage", "type", "message")}
    rows: list[dict[str, Any]] = table.rows(
        columns, run_id=run_id, where=ds.field("status") == "failed"
    ).to_pylist()
    return sorted(rows, key=lambda row: str(row["uri"]))


def _runs(table: Table) -> list[Run]:
    rows = table.rows(["run_id", "status", "recipe"])
    counted = rows.group_by(["run_id", "status", "recipe"]).aggregate([([], "count_all")]).to_pylist()
    runs: dict[tuple[str, str], dict[str, int]] = {}
    for row in counted:
        runs.setdefault((row["run_id"], row["recipe"]), {})[row["status"]] = row["count_all"]
    newest = sorted(runs.items(), reverse=True)
    return [
        Run(
            run_id=run_id,
            ok=statuses.get("ok", 0),
            failed=statuses.get("failed", 0),
            recipe=recipe,
            images_per_second=_rate(table, run_id) if position < NEWEST else None,
        )
        for position, ((run_id, recipe), statuses) in enumerate(newest)
    ]


def _rate(table: Table, run_id: str) -> float | None:
    summary = table.read_run_file(run_id, "summary.json")
    return None if summary is None else float(json.loads(summary)["images_per_second"])


def _class_share(table: Table, runs: list[Run]) -> dict[str, float]:
    """Return each class's share of all pixels; names come from the newest run's recipe."""
    totals: Counter[int] = Counter()
    for pixels in table.rows(["class_pixels"], where=ds.field("status") == "ok")["class_pixels"].to_pylist():
        totals.update(dict(enumerate(pixels)))
    described = table.read_run_file(runs[0].run_id, "config.json") if runs else None
    names = json.loads(described)["recipe"]["classes"] if described else []
    whole = sum(totals.values())
    return {
        names[index] if index < len(names) else f"class {index}": count / whole
        for index, count in sorted(totals.items())
    }
