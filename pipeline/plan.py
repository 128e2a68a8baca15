"""PLAN: what of a source the table does not have yet.

The plan is the listing anti-joined with the table on (image_id, recipe). Resume after a crash, nightly
increments and "only what changed" are this one operation. All of it goes from file to file through a database
that spills what its memory does not hold, so that a bucket may have any number of objects.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from pipeline.config import SourceConfig, StorageConfig
from pipeline.errors import StorageError
from pipeline.inventory import ROWS_PER_GROUP, is_manifest, write_listing
from pipeline.table import Table

MEMORY: Final = "2GB"  # of the database; what is more goes to a file beside the plan
THREADS: Final = 8  # of the database, at most: each takes a share of its memory
TRANSIENT_STAGES: Final = ("fetch",)  # failures of these stages are tried again by every run

# Views of the files `rows` (of the table), `listing` and, once it is written, `planned`.
SEEN: Final = """
    CREATE VIEW seen AS
    SELECT image_id, uri,
           coalesce(status = 'failed' AND list_contains(getvariable('transient'), stage), false) AS transient,
           transient OR (status = 'failed' AND getvariable('retry_failed')) AS again
    FROM rows
"""  # `again`: failed rows that this run does anew; one that may pass makes way for any version of its object
NOTHING: Final = (
    "CREATE VIEW seen AS SELECT '' AS image_id, '' AS uri, false AS transient, false AS again LIMIT 0"
)
LISTED: Final = "CREATE VIEW listed AS SELECT * EXCLUDE file_row_number FROM listing"
LISTED_ONCE: Final = f"""
    {LISTED}
    QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY file_row_number) = 1
    ORDER BY file_row_number
"""  # a manifest may name an object twice
TODO: Final = "SELECT * FROM listed ANTI JOIN (SELECT image_id FROM seen WHERE NOT again) USING (image_id)"
OUTDATED: Final = """
    CREATE TABLE outdated AS
    SELECT image_id, uri FROM seen WHERE again AND image_id IN (SELECT image_id FROM planned)
    UNION SELECT image_id, uri FROM seen WHERE transient AND uri IN (SELECT uri FROM planned)
"""
RETRIED: Final = "SELECT * FROM planned SEMI JOIN outdated USING (uri)"
CHANGED: Final = """
    SELECT * FROM planned ANTI JOIN outdated USING (uri)
    SEMI JOIN (SELECT uri FROM seen ANTI JOIN outdated USING (image_id)) USING (uri)
"""
LEFT: Final = "SELECT * FROM planned ANTI JOIN rows USING (image_id)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would do. Counts are images, except where they say otherwise."""

    file: Path  # Parquet file of PLAN_ROW: the images to do
    todo: int
    todo_bytes: int
    listed: int  # images in the source
    listed_bytes: int
    skipped: int  # objects that are not images by their name
    done: int  # the table has them: masks, and failures that are permanent
    new: int  # of todo: never seen under this recipe
    changed: int  # of todo: the table has another version of the object
    retried: int  # of todo: failed before
    outdated: tuple[str, ...]  # image_ids of failed rows that make way for this run's


def make_plan(
    source: SourceConfig,
    storage_config: StorageConfig,
    seen: Path | None,
    folder: Path,
    *,
    retry_failed: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Plan:
    """List the source and write what is left to do to `folder/plan.parquet`.

    `seen` has every row under the recipe, as `Table.save_seen` writes it; None where there is no table yet.
    `progress` is called with the images listed so far.
    Raises StorageError if the source cannot be listed, or holds no image.
    """
    listing, file = folder / "listing.parquet", folder / "plan.parquet"
    skipped = write_listing(source, storage_config, listing, progress)
    with _database(folder) as database:
        database.read_parquet(str(listing), file_row_number=True).create_view("listing")
        database.execute(LISTED_ONCE if is_manifest(source.uri) else LISTED)
        listed, listed_bytes = _sums(database.table("listed"))
        if not listed:
            raise StorageError(
                f"{source.uri}: no image there ({skipped} objects with other names): "
                f"check the prefix, or --include (now {', '.join(source.include)})"
            )
        database.execute("SET VARIABLE transient = $1", [TRANSIENT_STAGES])
        database.execute("SET VARIABLE retry_failed = $1", [retry_failed])
        if seen:
            database.read_parquet(str(seen)).create_view("rows")
        database.execute(SEEN if seen else NOTHING)
        _write(database.sql(TODO), file)
        listing.unlink()
        database.read_parquet(str(file)).create_view("planned")
        database.execute(OUTDATED)
        todo, todo_bytes = _sums(database.table("planned"))
        retried, _ = _sums(database.sql(RETRIED))
        changed, _ = _sums(database.sql(CHANGED))
        return Plan(
            file=file,
            todo=todo,
            todo_bytes=todo_bytes,
            listed=listed,
            listed_bytes=listed_bytes,
            skipped=skipped,
            done=listed - todo,
            new=todo - changed - retried,
            changed=changed,
            retried=retried,
            outdated=tuple(image_id for image_id, _ in database.table("outdated").fetchall()),
        )


def left_over(plan_file: Path, table: Table, run_id: str, target: Path) -> int:
    """Write the planned images that the run has not committed to `target`; return how many there are."""
    committed = target.with_suffix(".committed")
    table.save(["image_id"], committed, run_id=run_id)
    with _database(target.parent) as database:
        database.read_parquet(str(plan_file)).create_view("planned")
        database.read_parquet(str(committed)).create_view("rows")
        _write(database.sql(LEFT), target)
        return _sums(database.read_parquet(str(target)))[0]


# ---------------------------------------------------------------- the database


@contextmanager
def _database(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a database that keeps nothing and asks nobody; its errors are one line, with its folder."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY,
        "threads": min(THREADS, os.cpu_count() or 1),
        "temp_directory": str(folder / "spilled"),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    try:
        with duckdb.connect(config=config) as database:
            yield database
    except duckdb.Error as error:
        reason = " ".join(str(error).partition("\n\n")[0].split())[:300]  # without its advice on settings
        raise StorageError(f"the plan cannot be made in {folder}: {reason}: make room there") from error


def _write(rows: duckdb.DuckDBPyRelation, target: Path) -> None:
    """Write rows to a Parquet file.

    Columns that happen to have no null are marked there as never having one: who reads them casts.
    """
    rows.write_parquet(str(target), compression="zstd", row_group_size=ROWS_PER_GROUP)


def _sums(rows: duckdb.DuckDBPyRelation) -> tuple[int, int]:
    """Return the number of rows of a plan or listing, and the bytes of their objects."""
    ((count, size),) = rows.aggregate("count(*), coalesce(sum(size_bytes), 0)").fetchall()
    return int(count), int(size)
