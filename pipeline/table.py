"""The table: parts, commits, resume, retention. The only file that knows deltalake.

Two fences guard the table, each an application transaction of the Delta log (protocol: "Transaction
Identifiers"): RUN for what a run appends, REWRITE for whatever removes files. A writer reads a fence's
version when it opens the table and moves it with each of its commits; where another writer moved it
meanwhile, the log refuses the commit. Parts that were never committed are invisible, and `compact`
removes them. Where it must fear that one of them is about to be committed, it moves RUN first.
"""

import contextlib
import functools
import json
import math
import operator
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.errors import ConcurrentRunError, TableError
from pipeline.explain import explain
from pipeline.schema import FILE_ROW, PARTITIONS, ROW

RUN: Final = "masklake-run"
REWRITE: Final = "masklake-rewrite"
RUNS_FOLDER: Final = "_runs"  # Delta ignores folders that begin with an underscore
COMPACT_BYTES: Final = 256 << 20  # a compacted file's size
GROUP_BYTES: Final = 8 << 20  # of rows of a file that are read together, to see one of them
COMMIT_TRIES: Final = 3  # of one commit, while the store does not answer
READ_TRIES: Final = 5  # of the log and of rows, as long as they take less than `storage.timeout` together
RECENT: Final = 20  # commits among which one's own is looked for, whose answer was lost
COMMITTED_HOURS: Final = 24  # after which nobody commits a part any more: it takes a run seconds
DELETIONS: Final = 16  # at once
REQUEST_RETRIES: Final = 10  # of one request, within `storage.timeout`
AFTER_COMMIT: Final = PostCommitHookProperties(cleanup_expired_logs=False)  # `compact` does that
PARQUET: Final[dict[str, Any]] = {  # how a part is written
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": ["recipe", "model", "etag"],
    "write_statistics": ["image_id", "uri", "recipe", "finished_at", "confidence", "width", "height"],
}
STATISTICS: Final = ("image_id", "recipe")  # columns whose range per file lets readers skip files

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One Parquet file, written once, visible only once committed. Travels from writer to driver."""

    path: str  # below the table
    run_id: str
    status: str
    size: int  # bytes
    rows: int
    statistics: str  # JSON, as the Delta log wants it

    @property
    def partition(self) -> dict[str, str | None]:
        """Return the partition values, in the order of the table's partition columns."""
        return {"run_id": self.run_id, "status": self.status}


class File(NamedTuple):
    """One committed file."""

    path: str  # below the table
    size: int  # bytes
    run_id: str
    status: str


def write_part(rows: pa.Table, table_uri: str, storage_config: StorageConfig) -> Part:
    """Write rows of one run and status as one new file below the table, and return what a commit needs.

    `rows` has the columns of ROW. Nobody sees the file before `Table.commit`.
    """
    run_id, status = (rows[name][0].as_py() for name in PARTITIONS)
    path = f"run_id={run_id}/status={status}/part-{uuid.uuid4().hex}.parquet"
    sink = pa.BufferOutputStream()
    group = max(1, GROUP_BYTES * rows.num_rows // max(1, rows.nbytes))
    pq.write_table(rows.select(FILE_ROW.names).cast(FILE_ROW), sink, row_group_size=group, **PARQUET)
    data = sink.getvalue().to_pybytes()
    storage.write(f"{table_uri}/{path}", data, storage_config)
    ranges = {name: pc.min_max(rows[name]).as_py() for name in STATISTICS}
    statistics = {
        "numRecords": rows.num_rows,
        "minValues": {name: ends["min"] for name, ends in ranges.items()},
        "maxValues": {name: ends["max"] for name, ends in ranges.items()},
    }
    return Part(
        path=path,
        run_id=run_id,
        status=status,
        size=len(data),
        rows=rows.num_rows,
        statistics=json.dumps(statistics),
    )


def open_dataset(uri: str, storage_config: StorageConfig) -> ds.Dataset:
    """Return the newest version of any Delta table, whoever wrote it. Raises TableError, StorageError."""
    uri = storage.canonical(uri)
    return _patiently(uri, storage_config, lambda: _dataset(_open_delta(uri, storage_config)))


class Table:
    """A Delta Lake table of masks, and the fences that this process holds on it."""

    def __init__(self, uri: str, delta: DeltaTable, storage_config: StorageConfig) -> None:
        self.uri = uri
        self._delta = delta
        self._storage = storage_config
        self._fences = {name: delta.transaction_version(name) or 0 for name in (RUN, REWRITE)}

    # ------------------------------------------------------------ open

    @classmethod
    def exists(cls, uri: str, storage_config: StorageConfig) -> bool:
        """Return whether a table is there. Raises TableError if something else is."""
        uri = storage.canonical(uri)
        names = storage.names_under(uri, storage_config)
        if "_delta_log" in names:
            return True
        if strange := [name for name in names if not name.startswith(("_", "."))]:
            raise TableError(
                f"{uri} holds something that is not a masklake table ({strange[0]}, …): name an empty place"
            )
        return False

    @classmethod
    def open(cls, uri: str, storage_config: StorageConfig) -> Self:
        """Return the table at `uri`. Raises TableError if there is none, or it has other columns."""
        uri = storage.canonical(uri)
        if not cls.exists(uri, storage_config):
            raise TableError(
                f"there is no table at {uri}: check the address, or make one with masklake segment"
            )
        table = _patiently(
            uri, storage_config, lambda: cls(uri, _open_delta(uri, storage_config), storage_config)
        )
        table._check_schema()
        return table

    @classmethod
    def open_or_create(cls, uri: str, storage_config: StorageConfig) -> Self:
        """Return the table at `uri`, made empty if there is none."""
        uri = storage.canonical(uri)
        if uri.startswith("file://") and "%" in uri:
            raise TableError(f"{uri}: delta-rs cannot read a table in a local folder with % in its name")
        if not cls.exists(uri, storage_config):
            _patiently(uri, storage_config, lambda: _create(uri, storage_config))
        return cls.open(uri, storage_config)

    def _check_schema(self) -> None:
        here = {field.name: field.type for field in pa.schema(self._delta.schema())}
        expected = {field.name: field.type for field in pa.schema(Schema.from_arrow(ROW))}
        wrong = [f"{name} is missing" for name in expected if name not in here]
        wrong += [f"{name} is unknown" for name in here if name not in expected]
        wrong += [
            f"{name} is {here[name]}, not {kind}"
            for name, kind in expected.items()
            if here.get(name, kind) != kind
        ]
        if wrong:
            raise TableError(
                f"{self.uri} is a Delta table of another schema ({', '.join(wrong)}): "
                "name another place for the masks"
            )
        partitions = tuple(self._delta.metadata().partition_columns)
        if partitions != PARTITIONS:
            raise TableError(
                f"{self.uri} is partitioned by {partitions}, expected {PARTITIONS}: name another place"
            )

    # ------------------------------------------------------------ write

    def commit(self, parts: Sequence[Part]) -> None:
        """Make the parts visible, all of them or none, in one transaction.

        Raises ConcurrentRunError if another run committed since this one opened the table, and StorageError
        if the store does not answer; the parts stay invisible then, and their images are done again.
        """
        now = _now_ms()
        self._write(RUN, [_add(part, now, data_change=True) for part in parts], parts[0].run_id)

    def delete_failures(self, image_ids: Sequence[str], recipe: str) -> int:
        """Delete the failed rows of these images under a recipe, all of them or none; return how many."""
        if not image_ids:
            return 0
        self._next(REWRITE)  # brings the newest files
        wanted = pa.array(image_ids, pa.string())
        olds: list[File] = []
        news: list[Part] = []
        deleted = 0
        for file in self._files():
            if file.status != "failed":
                continue
            rows = self._read([file])
            gone = pc.and_(pc.is_in(rows["image_id"], value_set=wanted), pc.equal(rows["recipe"], recipe))
            if count := pc.sum(gone).as_py():
                deleted += count
                olds.append(file)
                if count < rows.num_rows:
                    news.append(write_part(rows.filter(pc.invert(gone)), self.uri, self._storage))
        if olds:
            self._replace(olds, news, data_change=True)
        return deleted

    def drop_run(self, run_id: str) -> int:
        """Delete every row of a run, and return how many there were. Raises TableError if it has none."""
        self._next(REWRITE)  # brings the newest files
        files = self._files()
        known = sorted({file.run_id for file in files}, reverse=True)
        if run_id not in known:
            newest = f"the newest are: {', '.join(known[:5])}" if known else "it has none"
            raise TableError(f"{self.uri} has no rows of run {run_id!r}; {newest}")
        rows: int = self.rows(["run_id"], run_id=run_id).num_rows
        self._replace([file for file in files if file.run_id == run_id], [], data_change=True)
        return rows

    def compact(self, retention_hours: int) -> tuple[int, int]:
        """Merge small files within each partition, then remove files that no version of that age needs, and
        what the log keeps no longer.

        Returns (files before, files after).
        """
        self._next(REWRITE)  # brings the newest files: vacuum must not take them for orphans
        before = self.file_count
        for group in self._small_files():
            self._replace(group, [write_part(self._read(group), self.uri, self._storage)], data_change=False)
        self._next(REWRITE)
        after = self.file_count
        if retention_hours < COMMITTED_HOURS:
            self._remove_young(retention_hours)
        else:
            self._vacuum(retention_hours, dry_run=False)
        self._tidy_log()
        return before, after

    def _tidy_log(self) -> None:
        """Write a checkpoint of the log, and remove entries before it that are older than its retention.

        Commits do not: to find such entries, each would list the whole log.
        """
        try:
            self._delta.create_checkpoint()
            self._delta.cleanup_metadata()
        except (DeltaError, OSError) as error:
            raise explain(error, self.uri) from error

    def _remove_young(self, retention_hours: int) -> None:
        """Remove what is not needed though it may be the uncommitted part of a run that is under way.

        What is to go is listed, then both fences are moved, and what is no part of the table even now goes.
        Who had written any of it cannot commit any more; who begins now writes other files.
        """
        listed = self._vacuum(retention_hours, dry_run=True)
        if not listed:
            return
        self._write(REWRITE, [])
        for attempt in range(COMMIT_TRIES):
            self._fences[RUN] = self._version(RUN)
            try:
                self._write(RUN, [])
                break
            except ConcurrentRunError:  # the run committed at this very moment
                if attempt == COMMIT_TRIES - 1:
                    raise
        gone = listed & self._vacuum(retention_hours, dry_run=True)
        with ThreadPoolExecutor(DELETIONS) as pool:
            list(pool.map(lambda path: storage.delete(f"{self.uri}/{path}", self._storage), gone))

    def _vacuum(self, retention_hours: int, *, dry_run: bool) -> set[str]:
        """Remove, or only list, files that no version of that age needs."""
        try:
            paths = self._delta.vacuum(
                retention_hours=retention_hours, dry_run=dry_run, enforce_retention_duration=False, full=True
            )
        except (DeltaError, OSError) as error:
            raise explain(error, self.uri) from error
        return set(paths)

    def _small_files(self) -> Iterator[list[File]]:
        """Yield groups of files in one partition that together fill one file."""
        partitions: dict[tuple[str, str], list[File]] = {}
        for file in self._files():
            if file.size < COMPACT_BYTES // 2:
                partitions.setdefault((file.run_id, file.status), []).append(file)
        for files in partitions.values():
            group: list[File] = []
            held = 0
            for file in files:
                if held + file.size > COMPACT_BYTES:
                    if len(group) > 1:
                        yield group
                    group, held = [], 0
                group.append(file)
                held += file.size
            if len(group) > 1:
                yield group

    def _files(self) -> list[File]:
        """Return the files of the table, as last brought here, in the order of their paths."""
        adds = pa.table(self._delta.get_add_actions(flatten=True))
        names = ("path", "size_bytes", "partition.run_id", "partition.status")
        return sorted(File(*values) for values in zip(*(adds[n].to_pylist() for n in names), strict=True))

    def _read(self, files: Sequence[File]) -> pa.Table:
        """Return all rows of some files of one partition, with the columns of ROW."""
        tables = []
        for file in files:
            try:
                data = storage.read(f"{self.uri}/{file.path}", self._storage)
            except FileNotFoundError as error:  # another command replaced it, and removed it since
                raise self._conflict(REWRITE) from error
            table = pq.ParquetFile(pa.BufferReader(data)).read()
            for name in PARTITIONS:
                values = pa.array([getattr(file, name)] * table.num_rows, pa.string())
                table = table.append_column(name, values)
            tables.append(table.select(ROW.names).cast(ROW))  # a foreign writer may use other types
        return pa.concat_tables(tables)

    def _replace(self, olds: Sequence[File], news: Sequence[Part], *, data_change: bool) -> None:
        """Put new files in the place of old ones in one transaction, which moves the REWRITE fence.

        delta-rs's own delete and optimize are not used: what they rewrite has lost the schema metadata by
        which `datasets` knows the mask column as an image.
        """
        now = _now_ms()
        removes = [
            RemoveAction(
                old.path,
                data_change,
                now,
                size=old.size,
                partition_values={"run_id": old.run_id, "status": old.status},
            )
            for old in olds
        ]
        self._write(REWRITE, [*removes, *(_add(new, now, data_change=data_change) for new in news)])

    def _write(self, fence: str, actions: Sequence[AddAction | RemoveAction], run_id: str = "") -> None:
        """Write one entry of the log, which moves a fence.

        An error does not tell whether the store took it: that is looked up by the entry's own mark, also
        where the log refuses it, since a client that repeats a request by itself meets what it has written.
        """
        mark = uuid.uuid4().hex
        for attempt in range(COMMIT_TRIES):
            target = self._next(fence)
            try:
                self._delta.create_write_transaction(
                    list(actions),
                    mode="append",
                    schema=self._delta.schema(),
                    partition_by=list(PARTITIONS),
                    commit_properties=self._properties(fence, target, run_id, mark),
                    post_commithook_properties=AFTER_COMMIT,
                )
            except CommitFailedError as error:
                if not self._is_there(mark):
                    raise self._conflict(fence) from error
                break
            except (DeltaError, OSError) as error:
                if self._is_there(mark):
                    break
                if attempt == COMMIT_TRIES - 1:
                    raise explain(error, self.uri) from error
            else:
                break
        self._fences[fence] = target

    def _is_there(self, mark: str) -> bool:
        """Return whether one of the newest entries of the log bears this mark."""
        self._version(RUN)  # brings the newest version
        return any(entry.get("mark") == mark for entry in self.versions(RECENT))

    def _next(self, fence: str) -> int:
        """Return the version to which this process may move a fence. Raises ConcurrentRunError if moved."""
        if self._version(fence) != self._fences[fence]:
            raise self._conflict(fence)
        return self._fences[fence] + 1

    def _version(self, fence: str) -> int:
        """Return the newest version of a fence, and bring the newest version of the table."""

        def read() -> int:
            self._delta.update_incremental()
            return self._delta.transaction_version(fence) or 0

        return _patiently(self.uri, self._storage, read)

    def check_alone(self) -> None:
        """Raise ConcurrentRunError if another run has committed since this process opened the table."""
        self._next(RUN)

    def _properties(self, fence: str, version: int, run_id: str, mark: str) -> CommitProperties:
        return CommitProperties(
            custom_metadata={"run_id": run_id, "engine": "masklake", "mark": mark},
            app_transactions=[Transaction(fence, version)],
        )

    def _conflict(self, fence: str) -> ConcurrentRunError:
        if fence == RUN:
            text = (
                "another run is writing to it, or masklake compact removed young files; this one stops, "
                "and its uncommitted images are done again by the same command"
            )
        else:
            text = "its files were rewritten by another command meanwhile: run this one again"
        return ConcurrentRunError(f"{self.uri}: {text}")

    # ------------------------------------------------------------ read

    def rows(
        self,
        columns: Sequence[str] | dict[str, ds.Expression],
        *,
        run_id: str | None = None,
        where: ds.Expression | None = None,
    ) -> pa.Table:
        """Return columns of the committed rows, of one run or of all."""
        return self._scanned(lambda scanner: scanner.to_table(), columns, run_id, where)

    def some_rows(self, columns: Sequence[str], *, run_id: str, status: str, share: float = 1.0) -> pa.Table:
        """Return columns of a share, 0 to 1, of a run's rows of one status: those of whole files.

        The files come in the order of their names, which are random: it is a fair lot of the run, and the
        same one as long as the files are. Rows of one file were neighbours in the plan.
        """
        files = [("run_id", "=", run_id), ("status", "=", status)]

        def scan() -> pa.Table:
            self._delta.update_incremental()
            dataset = _dataset(self._delta, files)
            found = sorted(dataset.get_fragments(), key=lambda one: str(one.path).rpartition("/")[2])
            some = found[: math.ceil(share * len(found))]
            if some:
                dataset = ds.FileSystemDataset(some, dataset.schema, some[0].format, some[0].filesystem)
            return dataset.scanner(columns=list(columns), cache_metadata=False).to_table()

        return _patiently(self.uri, self._storage, scan)

    def save(
        self,
        columns: Sequence[str] | dict[str, ds.Expression],
        file: Path,
        *,
        run_id: str | None = None,
        where: ds.Expression | None = None,
    ) -> None:
        """Write what `rows` returns to a local Parquet file, a portion at a time: it may be of any size."""

        def write(scanner: ds.Scanner) -> None:
            with pq.ParquetWriter(file, scanner.projected_schema, compression="zstd") as writer:
                for batch in scanner.to_batches():
                    writer.write_batch(batch)

        self._scanned(write, columns, run_id, where)

    def dataset(self) -> ds.Dataset:
        """Return the newest committed rows, to be read by others; nothing is read yet."""

        def newest() -> ds.Dataset:
            self._delta.update_incremental()
            return _dataset(self._delta)

        return _patiently(self.uri, self._storage, newest)

    def _scanned(
        self,
        read: Callable[[ds.Scanner], T],
        columns: Sequence[str] | dict[str, ds.Expression],
        run_id: str | None,
        where: ds.Expression | None,
    ) -> T:
        """Return what `read` makes of the newest rows, which it may have to do again from the start."""
        files = [("run_id", "=", run_id)] if run_id else None
        chosen = columns if isinstance(columns, dict) else list(columns)

        def scan() -> T:
            self._delta.update_incremental()
            dataset = _dataset(self._delta, files)
            # What a file says of its columns is of no use once it is read, and much where files are many.
            return read(dataset.scanner(columns=chosen, filter=where, cache_metadata=False))

        return _patiently(self.uri, self._storage, scan)

    def save_seen(self, recipe: str, file: Path) -> Path:
        """Write image_id, uri, status and error stage of a recipe's rows to a local file; return it."""
        columns = {
            "image_id": ds.field("image_id"),
            "uri": ds.field("uri"),
            "status": ds.field("status"),
            "stage": ds.field("error", "stage"),
        }
        self.save(columns, file, where=ds.field("recipe") == recipe)
        return file

    def versions(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest commits, newest first: version, timestamp (ms), operation, run_id."""
        newest: list[dict[str, Any]] = _patiently(self.uri, self._storage, lambda: self._delta.history(limit))
        return newest[:limit]  # it may give more

    @property
    def file_count(self) -> int:
        """Number of data files in the newest version."""
        files: list[str] = self._delta.file_uris()
        return len(files)

    # ------------------------------------------------------------ what is kept of a run

    def write_run_file(self, run_id: str, name: str, data: bytes) -> str:
        """Write `<table>/_runs/<run_id>/<name>` and return its URI."""
        uri = f"{self.uri}/{RUNS_FOLDER}/{run_id}/{name}"
        storage.write(uri, data, self._storage)
        return uri

    def copy_run_file(self, run_id: str, name: str, file: Path) -> str:
        """Copy a local file to `<table>/_runs/<run_id>/<name>` and return its URI."""
        uri = f"{self.uri}/{RUNS_FOLDER}/{run_id}/{name}"
        storage.upload(file, uri, self._storage)
        return uri

    def read_run_file(self, run_id: str, name: str) -> bytes | None:
        """Return the content of a run's file, or None if there is none."""
        try:
            return storage.read(f"{self.uri}/{RUNS_FOLDER}/{run_id}/{name}", self._storage)
        except FileNotFoundError:
            return None

    def runs_with_rows(self) -> list[str]:
        """Return the ids of all runs that have rows in the table, oldest first."""
        self._next(REWRITE)  # brings the newest files
        return sorted({file.run_id for file in self._files()})

    def run_ids(self) -> list[str]:
        """Return the ids of all runs that left a folder, oldest first."""
        names = storage.names_under(f"{self.uri}/{RUNS_FOLDER}", self._storage)
        return [name for name in names if not name.startswith(("_", "."))]  # a flow's lease, and its lock


def _open_delta(uri: str, config: StorageConfig) -> DeltaTable:
    return DeltaTable(_delta_uri(uri), storage_options=_delta_options(uri, config))


def _dataset(delta: DeltaTable, files: list[tuple[str, str, Any]] | None = None) -> ds.Dataset:
    """Return the rows of a table, or of those of its files that a predicate on partitions chooses.

    Where the log has no range of a column, delta-rs tells Arrow that all its values are null, and filters on
    it find nothing (delta-rs #3173): of what it says of files, only the partitions are kept.
    """
    told = delta.to_pyarrow_dataset(file_pruning_predicate=files)
    names = delta.metadata().partition_columns
    fragments = []
    for fragment in told.get_fragments():
        values = ds.get_partition_keys(fragment.partition_expression)
        known = [
            ds.field(name).is_null() if values[name] is None else ds.field(name) == values[name]
            for name in names
            if name in values
        ]
        where = functools.reduce(operator.and_, known, ds.scalar(True))
        fragments.append(
            told.format.make_fragment(fragment.path, filesystem=told.filesystem, partition_expression=where)
        )
    return ds.FileSystemDataset(fragments, told.schema, told.format, told.filesystem)


def _create(uri: str, config: StorageConfig) -> None:
    with contextlib.suppress(CommitFailedError):  # another command made it first: the same table
        DeltaTable.create(
            _delta_uri(uri),
            schema=ROW,
            mode="ignore",
            partition_by=list(PARTITIONS),
            name="masklake",
            description="Masks and attention statistics, one row for each image and recipe",
            storage_options=_delta_options(uri, config),
        )


def _patiently(uri: str, config: StorageConfig, call: Callable[[], T]) -> T:
    """Return what `call` returns, which may be done twice; tried again after errors that may pass.

    delta-rs does not repeat a request whose answer was cut. And a compact may have replaced, and removed, a
    file that is read: the newest version of the table has another. Raises TableError, StorageError.
    """

    def may_pass(error: Exception) -> bool:
        known = isinstance(error, DeltaError | OSError | ValueError) and not isinstance(
            error, TableNotFoundError
        )
        return known and (explain(error, uri).transient or isinstance(error, FileNotFoundError))

    try:
        return storage.patiently(call, config, may_pass, READ_TRIES)
    except TableNotFoundError as error:
        raise TableError(f"{uri}: its _delta_log holds no readable table") from error
    except (DeltaError, OSError, ValueError) as error:
        raise explain(error, uri) from error


def _add(part: Part, now_ms: int, *, data_change: bool) -> AddAction:
    return AddAction(part.path, part.size, part.partition, now_ms, data_change, part.statistics)


def _now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


def _delta_uri(uri: str) -> str:
    return storage.split(uri)[1] if uri.startswith("file://") else uri


def _delta_options(uri: str, config: StorageConfig) -> dict[str, str]:
    """Return delta-rs's storage options; it reads credentials from the usual environment variables."""
    if not uri.startswith("s3"):
        return {}
    options = {
        "connect_timeout": f"{min(10.0, config.timeout):g}s",
        "timeout": f"{config.timeout / 2:g}s",  # of one request, so that there is time for another
        "max_retries": str(REQUEST_RETRIES),
        "retry_timeout": f"{config.timeout:g}s",  # after which a request is not tried again; default: 180 s
    }
    endpoint = storage.endpoint(config)
    if endpoint:
        options["AWS_ENDPOINT_URL"] = endpoint
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        options["AWS_REGION"] = region
        if endpoint.startswith("http://"):
            options["AWS_ALLOW_HTTP"] = "true"
    if config.anonymous:
        options["AWS_SKIP_SIGNATURE"] = "true"
    return options
