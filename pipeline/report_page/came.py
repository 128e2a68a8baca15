"""What came of a run, from its committed rows: how many, how large, when, what failed and why."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.table import Table

NAMES: Final = 8  # of failed images, for each reason
REASONS: Final = 20
POINTS: Final = 60  # of the curve of images over time, at most
STEPS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Images that failed alike."""

    stage: str
    kind: str  # exception class
    images: int
    examples: list[tuple[str, str]]  # URI, message


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """The rows of a run in numbers."""

    ok: int
    failed: int
    read_bytes: int  # of the source objects of all its rows
    first: datetime | None  # row
    last: datetime | None
    reasons: list[Reason]  # most frequent first
    step: int  # seconds between two points of the curve
    rates: list[float]  # images/s in each step since the run began, or since the first row

    @property
    def images(self) -> int:
        """Number of rows."""
        return self.ok + self.failed


def came(table: Table, run_id: str, began: datetime | None) -> Came:
    """Return what the table holds of a run. Reads three narrow columns of it, and what failed."""
    rows = table.rows(["status", "size_bytes", "finished_at"], run_id=run_id)
    ok = pc.sum(pc.equal(rows["status"], "ok")).as_py() or 0
    span = pc.min_max(rows["finished_at"]).as_py()
    step, rates = _rates(rows["finished_at"], began or span["min"], span["max"])
    return Came(
        ok=ok,
        failed=rows.num_rows - ok,
        read_bytes=pc.sum(rows["size_bytes"]).as_py() or 0,
        first=span["min"],
        last=span["max"],
        reasons=_reasons(table, run_id) if rows.num_rows > ok else [],
        step=step,
        rates=rates,
    )


def _rates(
    finished: pa.ChunkedArray, begin: datetime | None, end: datetime | None
) -> tuple[int, list[float]]:
    if begin is None or end is None:
        return 1, []
    begin = begin.astimezone(UTC)
    length = max(1.0, (end - begin).total_seconds())
    step = next((step for step in STEPS if length / step <= POINTS), round(length / POINTS))
    micros_N = finished.drop_null().cast(pa.int64()).to_numpy()
    after_N = np.maximum(0, micros_N / 1e6 - begin.timestamp())  # a worker's clock may be behind
    counts = np.bincount((after_N // step).astype(np.int64))
    lengths = np.full(len(counts), float(step))
    lengths[-1] = min(step, max(1.0, length - step * (len(counts) - 1)))  # the last step is not full
    return step, (counts / lengths).tolist()


def _reasons(table: Table, run_id: str) -> list[Reason]:
    columns = {"uri": ds.field("uri")}
    columns |= {name: ds.field("error", name) for name in ("stage", "type", "message")}
    rows = table.rows(columns, run_id=run_id, where=ds.field("status") == "failed")
    counted: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in rows.sort_by("uri").to_batches():
        for one in row.to_pylist():
            _count(one, counted, examples)
    return [
        Reason(stage=stage, kind=kind, images=images, examples=examples[stage, kind])
        for (stage, kind), images in counted.most_common(REASONS)
    ]


def _count(
    row: dict[str, Any],
    counted: Counter[tuple[str, str]],
    examples: dict[tuple[str, str], list[tuple[str, str]]],
) -> None:
    reason = row["stage"] or "unknown", row["type"] or ""
    counted[reason] += 1
    known = examples.setdefault(reason, [])
    if len(known) < NAMES:
        known.append((row["uri"] or "", row["message"] or ""))
