"""Plans of small sources, and what tables say of them."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import SourceConfig, StorageConfig
from pipeline.inventory import image_id
from pipeline.listing import ObjectInfo, list_objects
from pipeline.plan import Plan, make_plan

LOCAL = StorageConfig()


def plan_of(source: Path | str, folder: Path, seen: pa.Table | None = None, **options: Any) -> Plan:
    """Return the plan of a source; `folder` takes its files."""
    folder.mkdir(exist_ok=True)
    retry = options.pop("retry_failed", False)
    config = SourceConfig(uri=str(source), **options)
    if seen is not None:
        pq.write_table(seen, folder / "seen.parquet")
    rows = None if seen is None else folder / "seen.parquet"
    return make_plan(config, LOCAL, rows, folder, retry_failed=retry)


def uris(plan: Plan) -> list[str]:
    found: list[str] = pq.read_table(plan.file)["uri"].to_pylist()
    return found


def names(plan: Plan, source: Path) -> list[str]:
    """Return the planned names below the source, sorted."""
    return sorted(uri.removeprefix(f"file://{source}/") for uri in uris(plan))


def write(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(file)


def seen(rows: Sequence[tuple[ObjectInfo, str, str | None]]) -> pa.Table:
    """Return what a table would say that has these objects: status, and stage of the failure."""
    return pa.table(
        {
            "image_id": pa.array([image_id(item.uri, item.etag) for item, _, _ in rows], pa.string()),
            "uri": pa.array([item.uri for item, _, _ in rows], pa.string()),
            "status": pa.array([status for _, status, _ in rows], pa.string()),
            "stage": pa.array([stage for _, _, stage in rows], pa.string()),
        }
    )


def objects(folder: Path) -> dict[str, ObjectInfo]:
    pages = list_objects(str(folder), LOCAL)
    return {item.uri.removeprefix(f"file://{folder}/"): item for item in itertools.chain.from_iterable(pages)}
