"""The summary of a run, computed from what was committed."""

import json
from dataclasses import asdict, dataclass, field
from typing import Self

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.harmless import without_secrets_in
from pipeline.plan import Plan
from pipeline.progress import duration
from pipeline.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """What one stage of the graph cost."""

    name: str
    seconds: dict[str, float]  # by step, summed over workers
    workers: int
    devices: list[str] = field(default_factory=list)  # that its networks ran on: CPU, or names of GPUs

    def busy(self, wall_seconds: float) -> float:
        """Return the share of its workers' time in which the stage was at work."""
        return sum(self.seconds.values()) / max(1e-9, wall_seconds * self.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What one command did."""

    table: str
    run_id: str | None  # None: nothing to do
    listed: int
    already_done: int
    skipped_objects: int
    images: int  # rows that the run committed
    failures: dict[str, int]  # "stage: type": rows
    seconds: float  # wall time, everything included
    images_per_second: float
    stages: list[StageReport]
    bottleneck: str | None
    page: str | None = None  # URI of report.html

    @classmethod
    def nothing_to_do(cls, table: str, plan: Plan) -> Self:
        """Return the summary of a command that found every image in the table."""
        return cls(
            table=table,
            run_id=None,
            listed=plan.listed,
            already_done=plan.done,
            skipped_objects=plan.skipped,
            images=0,
            failures={},
            seconds=0.0,
            images_per_second=0.0,
            stages=[],
            bottleneck=None,
        )

    @classmethod
    def of_run(cls, table: Table, run_id: str, plan: Plan, seconds: float, stages: list[StageReport]) -> Self:
        """Return the summary of a run: counts come from the table, times from the workers."""
        failures = count_failures(table, run_id)
        images = sum(count for _, count in count_rows(table, run_id).items())
        busiest = max(stages, key=lambda stage: stage.busy(seconds))
        return cls(
            table=table.uri,
            run_id=run_id,
            listed=plan.listed,
            already_done=plan.done,
            skipped_objects=plan.skipped,
            images=images,
            failures=failures,
            seconds=seconds,
            images_per_second=images / seconds,
            stages=stages,
            bottleneck=busiest.name,
        )

    @property
    def failed(self) -> int:
        """Number of failed rows."""
        return sum(self.failures.values())

    def to_json(self) -> bytes:
        """Return the summary as it is kept in the run's folder."""
        return json.dumps(without_secrets_in(asdict(self)), indent=2).encode()

    def __str__(self) -> str:
        if self.run_id is None:
            return (
                f"nothing to do: {self.listed:,} images listed, {self.already_done:,} already in {self.table}"
                f"{f', {self.skipped_objects:,} other objects skipped' if self.skipped_objects else ''}"
            )
        lines = [
            f"run {self.run_id}",
            f"  images      {self.images:,} in {duration(self.seconds)} "
            f"({self.images_per_second:.1f} images/s), {self.already_done:,} were there before",
            f"  failed      {self.failed:,}",
        ]
        lines += [f"    {count:>7,}  {reason}" for reason, count in sorted(self.failures.items())]
        for stage in self.stages:
            steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stage.seconds.items())
            mark = "  <- bottleneck" if stage.name == self.bottleneck else ""
            where = f" on {', '.join(stage.devices)}" if stage.devices else ""
            lines.append(f"  {stage.name:<15} {steps}; {stage.workers} at once{where}{mark}")
        lines += [f"  table       {self.table}", *([f"  page        {self.page}"] if self.page else [])]
        return "\n".join([*lines, "", how_to_read(self.table)])


def how_to_read(table: str) -> str:
    """Return three lines of Python that read the table."""
    location = table.removeprefix("file://")
    return (
        "  import polars\n"
        f'  rows = polars.scan_delta("{location}")\n'
        '  rows.select("uri", "status", "class_pixels", "confidence").head().collect()'
    )


def count_rows(table: Table, run_id: str | None = None) -> dict[str, int]:
    """Return the number of committed rows by status."""
    return _counts(table.rows(["status"], run_id=run_id), "status")


def count_failures(table: Table, run_id: str | None = None) -> dict[str, int]:
    """Return the number of failed rows by "stage: type"."""
    rows = table.rows(
        {"stage": ds.field("error", "stage"), "type": ds.field("error", "type")},
        run_id=run_id,
        where=ds.field("status") == "failed",
    )
    reasons = [f"{stage}: {kind}" for stage, kind in zip(*(c.to_pylist() for c in rows.columns), strict=True)]
    return _counts(pa.table({"reason": pa.array(reasons, pa.string())}), "reason")


def _counts(rows: pa.Table, column: str) -> dict[str, int]:
    counted = rows.group_by(column).aggregate([([], "count_all")])
    return dict(zip(counted[column].to_pylist(), counted["count_all"].to_pylist(), strict=True))
