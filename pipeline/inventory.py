"""LIST: the images of a source, be it a prefix, a folder, one address or a manifest, as rows of a file."""

import fnmatch
import hashlib
import io
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import listing, storage
from pipeline.config import SourceConfig, StorageConfig
from pipeline.errors import ConfigError, StorageError
from pipeline.listing import ObjectInfo
from pipeline.schema import PLAN_ROW

MANIFESTS = (".parquet", ".csv", ".txt")
MANIFEST_TYPES = {"uri": pa.string(), "etag": pa.string(), "size_bytes": pa.int64()}  # columns that are read
Pages = Generator[tuple[list[ObjectInfo], int], None, None]
ROWS_PER_GROUP = 65_536  # of listing and plan: bounds the memory of who writes and reads them


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


# ---------------------------------------------------------------- list


def image_pages(source: SourceConfig, config: StorageConfig) -> Pages:
    """Yield the images of the source page by page, each with the number of objects that were passed over.

    Raises StorageError if the source cannot be listed.
    """
    if is_manifest(source.uri):
        for page in _manifest(source.uri, config):
            yield page, 0
        return
    wanted = _matcher(source)
    for page in listing.list_objects(source.uri, config):
        images = [item for item in page if wanted(item.uri)]
        yield images, len(page) - len(images)


def write_listing(
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


def is_manifest(uri: str) -> bool:
    """Return whether an address names a list of images, by its ending."""
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
