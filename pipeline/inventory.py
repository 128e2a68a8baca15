"""LIST and PLAN: what is in the source, and what of it the table does not have yet.

The plan is the listing anti-joined with the table on (image_id, recipe). Resume after a crash, nightly
increments and "only what changed" are this one operation.
"""

import fnmatch
import hashlib
import io
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import listing, storage
from pipeline.config import SourceConfig, StorageConfig
from pipeline.errors import ConfigError, StorageError
from pipeline.listing import ObjectInfo
from pipeline.schema import PLAN_ROW
from pipeline.table import Table

MANIFESTS = (".parquet", ".csv", ".txt")
MANIFEST_TYPES = {"uri": pa.string(), "etag": pa.string(), "size_bytes": pa.int64()}  # columns that are read
TRANSIENT_STAGES = ("fetch",)  # failures of these stages are tried again by every run
Pages = Generator[tuple[list[ObjectInfo], int], None, None]
ROWS_PER_GROUP = 65_536  # of the plan file: bounds the memory of listing and of readers


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


def image_id(uri: str, etag: str) -> str:
    """Return the 32 hex digits that name one version of one object: a 128-bit hash of URI and ETag."""
    return hashlib.blake2b(f"{etag}\0{uri}".encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def check_places(source: str, table: str) -> None:
    """Raise ConfigError if the table lies in the source, or the source in the table."""
    source, table = storage.canonical(source), storage.canonical(table)
    if f"{table}/".startswith(f"{source}/"):
        raise ConfigError(f"the table {table} lies in the source {source}: name a table outside of it")
    if f"{source}/".startswith(f"{table}/"):
        raise ConfigError(f"the source {source} lies in the table {table}: name a table outside of it")


def make_plan(
    source: SourceConfig,
    storage_config: StorageConfig,
    seen: pa.Table,
    folder: Path,
    *,
    retry_failed: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Plan:
    """List the source and write what is left to do to `folder/plan.parquet`.

    `seen` holds image_id, uri, status and error stage of every row under the recipe (`Table.done`, or
    `nothing_seen()` where there is no table yet). `progress` is called with the images listed so far.
    Raises StorageError if the source cannot be listed, or holds no image.
    """
    listing = folder / "listing.parquet"
    skipped = _write_listing(source, storage_config, listing, progress)
    columns = pq.read_table(listing, columns=["image_id", "size_bytes"])
    ids = columns["image_id"].combine_chunks()
    if len(ids) == 0:
        raise StorageError(
            f"{source.uri}: no image there ({skipped} objects with other names): "
            f"check the prefix, or --include (now {', '.join(source.include)})"
        )
    transient = pc.and_(
        pc.equal(seen["status"], "failed"), pc.is_in(seen["stage"], value_set=pa.array(TRANSIENT_STAGES))
    )
    again = pc.equal(seen["status"], "failed") if retry_failed else transient
    done_ids = seen["image_id"].filter(pc.invert(again))
    todo = pc.invert(pc.is_in(ids, value_set=_flat(done_ids)))
    if _is_manifest(source.uri):  # may name an object twice: it counts once
        first = _first_of_each(ids)
        todo, columns = pc.and_(todo, first), columns.filter(first)
    plan_file = folder / "plan.parquet"
    _filter_file(listing, plan_file, lambda batch, start: todo.slice(start, batch.num_rows))
    listing.unlink()
    planned = pq.read_table(plan_file, columns=["image_id", "uri", "size_bytes"])
    # A failed row makes way for the same image, and one that may pass also for a newer version of its object.
    outdated = pc.or_(
        pc.and_(again, pc.is_in(seen["image_id"], value_set=_flat(planned["image_id"]))),
        pc.and_(transient, pc.is_in(seen["uri"], value_set=_flat(planned["uri"]))),
    )
    failed_uris = seen["uri"].filter(outdated)
    retried = pc.is_in(planned["uri"], value_set=_flat(failed_uris))
    settled_uris = seen["uri"].filter(pc.invert(outdated))
    changed = pc.and_(pc.invert(retried), pc.is_in(planned["uri"], value_set=_flat(settled_uris)))
    retried_count, changed_count = pc.sum(retried).as_py() or 0, pc.sum(changed).as_py() or 0
    return Plan(
        file=plan_file,
        todo=planned.num_rows,
        todo_bytes=pc.sum(planned["size_bytes"]).as_py() or 0,
        listed=columns.num_rows,
        listed_bytes=pc.sum(columns["size_bytes"]).as_py() or 0,
        skipped=skipped,
        done=columns.num_rows - planned.num_rows,
        new=planned.num_rows - changed_count - retried_count,
        changed=changed_count,
        retried=retried_count,
        outdated=tuple(seen["image_id"].filter(outdated).to_pylist()),
    )


def nothing_seen() -> pa.Table:
    """Return what `Table.done` returns for a table without rows."""
    return pa.table({name: pa.array([], pa.string()) for name in ("image_id", "uri", "status", "stage")})


def left_over(plan_file: Path, table: Table, run_id: str, target: Path) -> int:
    """Write the planned images that the run has not committed to `target`; return how many there are."""
    committed = _flat(table.rows(["image_id"], run_id=run_id)["image_id"])
    return _filter_file(
        plan_file, target, lambda batch, _: pc.invert(pc.is_in(batch["image_id"], value_set=committed))
    )


def _filter_file(source: Path, target: Path, keep: Callable[[pa.RecordBatch, int], pa.Array]) -> int:
    """Copy the rows for which `keep(batch, number of its first row)` is true; return how many there are."""
    count = start = 0
    waiting = PLAN_ROW.empty_table()  # few rows of many groups: a reader wants them together
    with pq.ParquetWriter(target, PLAN_ROW, compression="zstd") as writer:
        for batch in pq.ParquetFile(source).iter_batches(ROWS_PER_GROUP):
            kept = pa.Table.from_batches([batch.filter(keep(batch, start))], PLAN_ROW)
            start += batch.num_rows
            count += kept.num_rows
            waiting = pa.concat_tables([waiting, kept])
            if waiting.num_rows >= ROWS_PER_GROUP:
                writer.write_table(waiting.slice(0, ROWS_PER_GROUP))
                waiting = waiting.slice(ROWS_PER_GROUP)
        if waiting.num_rows:
            writer.write_table(waiting)
    return count


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks().cast(pa.string())


def _first_of_each(ids: pa.Array) -> pa.Array:
    """Return True where a value stands for the first time."""
    rows = pa.table({"id": ids, "row": pa.array(range(len(ids)), pa.int64())})
    first = rows.group_by("id").aggregate([("row", "min")])["row_min"]
    return pc.is_in(rows["row"], value_set=first.combine_chunks()).combine_chunks()


# ---------------------------------------------------------------- list


def image_pages(source: SourceConfig, config: StorageConfig) -> Pages:
    """Yield the images of the source page by page, each with the number of objects that were passed over.

    Raises StorageError if the source cannot be listed.
    """
    if _is_manifest(source.uri):
        for page in _manifest(source.uri, config):
            yield page, 0
        return
    wanted = _matcher(source)
    for page in listing.list_objects(source.uri, config):
        images = [item for item in page if wanted(item.uri)]
        yield images, len(page) - len(images)


def _write_listing(
    source: SourceConfig, config: StorageConfig, target: Path, progress: Callable[[int], None]
) -> int:
    """Write every image of the source to `target` and return how many objects were passed over."""
    kept = skipped = 0
    with pq.ParquetWriter(target, PLAN_ROW, compression="zstd") as writer:
        waiting: list[ObjectInfo] = []
        for images, others in image_pages(source, config):
            skipped += others
            kept += len(images)
            waiting += images
            if len(waiting) >= ROWS_PER_GROUP:
                writer.write_batch(_batch(waiting))
                waiting = []
            progress(kept)
        if waiting:
            writer.write_batch(_batch(waiting))
    return skipped


def _batch(objects: Iterable[ObjectInfo]) -> pa.RecordBatch:
    rows = [(image_id(o.uri, o.etag), o.uri, o.etag, o.size, o.last_modified) for o in objects]
    columns = list(zip(*rows, strict=True))
    return pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, PLAN_ROW, strict=True)],
        schema=PLAN_ROW,
    )


def _matcher(source: SourceConfig) -> Callable[[str], bool]:
    """Return whether a URI is wanted. A glob with a slash is held against the path below the source,
    one without against the last part of the name; case does not count."""
    root = storage.canonical(source.uri) + "/"

    def compiled(globs: Iterable[str]) -> Callable[[str], bool]:
        names = [fnmatch.translate(glob.lower()) for glob in globs if "/" not in glob]
        paths = [fnmatch.translate(glob.lower()) for glob in globs if "/" in glob]
        name = re.compile("|".join(names)).match if names else None
        path = re.compile("|".join(paths)).match if paths else None

        def matches(below: str) -> bool:
            return bool((name and name(below.rpartition("/")[2])) or (path and path(below)))

        return matches

    include, exclude = compiled(source.include), compiled(source.exclude)

    def wanted(uri: str) -> bool:
        below = (uri.removeprefix(root) if uri.startswith(root) else uri.rpartition("/")[2]).lower()
        return include(below) and not exclude(below)

    return wanted


# ---------------------------------------------------------------- manifests


def _is_manifest(uri: str) -> bool:
    return uri.lower().endswith(MANIFESTS)


def _manifest(uri: str, config: StorageConfig) -> Iterator[list[ObjectInfo]]:
    """Yield the objects that a manifest names: one URI a line, or a table with a column `uri`.

    A table may carry `etag` and `size_bytes` too; otherwise the store is asked. An object that cannot be
    found stays in the plan, and becomes a failed row when it is fetched.
    """
    uri = storage.canonical(uri)
    try:
        data = storage.read(uri, config)
    except FileNotFoundError as error:
        raise StorageError(f"{uri}: there is no such manifest: check its address") from error
    try:
        table = _manifest_table(uri, data)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise ConfigError(
            f"{uri}: not readable as a manifest: {' '.join(str(error).split())[:200]}"
        ) from error
    if "uri" not in table.column_names:
        found = " ".join(", ".join(table.column_names).split())[:200]  # a file of another kind has any names
        raise ConfigError(f"{uri}: a manifest needs a column 'uri', found: {found}")
    if twice := [name for name in MANIFEST_TYPES if table.column_names.count(name) > 1]:
        raise ConfigError(f"{uri}: a manifest needs one column {twice[0]!r}, it has more")
    known = {"etag", "size_bytes"} <= set(table.column_names)
    for batch in table.to_batches(max_chunksize=4096):
        uris = [_object_uri(value, uri) for value in batch["uri"].to_pylist()]
        if known:
            etags, sizes = batch["etag"].to_pylist(), batch["size_bytes"].to_pylist()
            yield [ObjectInfo(u, e or "", s or 0, None) for u, e, s in zip(uris, etags, sizes, strict=True)]
        else:
            stats = listing.stat_many(uris, config)
            yield [found or ObjectInfo(u, "", 0, None) for u, found in zip(uris, stats, strict=True)]


def _manifest_table(uri: str, data: bytes) -> pa.Table:
    if uri.lower().endswith(".parquet"):
        table = pq.read_table(pa.BufferReader(data))
    elif uri.lower().endswith(".csv"):  # typed, lest an ETag of digits is read as a number
        options = pyarrow.csv.ConvertOptions(column_types=MANIFEST_TYPES)
        quoted = pyarrow.csv.ParseOptions(newlines_in_values=True)  # a name may be more than a line
        table = pyarrow.csv.read_csv(io.BytesIO(data), parse_options=quoted, convert_options=options)
    else:
        lines = [line.strip("\r") for line in data.decode("utf-8-sig").split("\n")]
        table = pa.table({"uri": pa.array([line for line in lines if line.strip()], pa.string())})
    for index, name in enumerate(table.column_names):
        if name in MANIFEST_TYPES:
            table = table.set_column(index, name, table.column(index).cast(MANIFEST_TYPES[name]))
    return table


def _object_uri(value: str | None, manifest: str) -> str:
    if not value:
        raise ConfigError(f"{manifest}: has a row without a URI")
    return value if "://" in value else f"file://{storage.expanded(value).absolute()}"
