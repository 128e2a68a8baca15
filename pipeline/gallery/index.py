"""The newest rows of a table, read once for each data file.

Data files never change, so a table that grew costs what is new. Rows lie in files without a name that are
mapped into memory (some 300 bytes a row): the system takes the memory back when others need it, and the space
when we end. While a large table is read for the first time, what is read is shown: the newest runs first.
"""

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.errors import MasklakeError, StorageError
from pipeline.explain import explain
from pipeline.gallery.narrow import NARROW, ReadFile, read_narrow
from pipeline.gallery.snapshot import Snapshot
from pipeline.runs import recipes_of
from pipeline.table import Table

GROUP_ROWS: Final = 1 << 17  # that share a file of ours; fewer stay in memory
PATIENCE: Final = 0.25  # seconds of reading after which a part of the table is shown
FIRST: Final = 2.0  # seconds to wait for that part, if a file is large or far away
LOOKED: Final = 0.3  # seconds after a request in which reading rests between files: who looks comes first
REST: Final = 2  # times as long as a file took
PUBLISH: Final = 1.0  # seconds between two parts that are shown


class Index:
    """Keeps the newest snapshot of a table."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._lock = threading.Lock()  # of what follows
        self._files: dict[int, ReadFile] = {}
        self._next = 0
        self._version = 0
        self._snapshot = Snapshot(table, {}, {}, 0)
        self._reader: threading.Thread | None = None
        self._began = 0.0  # when it did
        self._shown = threading.Event()  # there is a snapshot, or a problem
        self._total = 0
        self._asked = 0.0  # when rows were asked for last
        self._problem: MasklakeError | None = None

    @property
    def reading(self) -> dict[str, int] | None:
        """How many of the table's files are read, while it is read: what is shown is a part, or older."""
        if self._reader is None or not self._reader.is_alive():
            return None
        return {"done": min(len(self._snapshot.files), self._total - 1), "total": self._total}

    def refresh(self) -> None:
        """Begin to read what is new in the table. Raises TableError, StorageError."""
        with self._lock:
            if self._reader is not None and self._reader.is_alive():
                return
            fragments = {one.path: one for one in self._table.dataset().get_fragments()}
            known = {file.path for file in self._files.values()}
            if self._problem is None and self._version and known == set(fragments):
                return
            self._problem = None
            self._version += 1
            self._total = len(fragments)
            self._began = time.monotonic()
            self._reader = threading.Thread(target=self._read, args=(fragments,), daemon=True, name="index")
            self._reader.start()

    def snapshot(self) -> Snapshot:
        """Return the newest rows: all of them, unless that takes long. Raises what went wrong in reading."""
        if (reader := self._reader) is not None:
            reader.join(max(0.0, self._began + PATIENCE - time.monotonic()))
            self._shown.wait(FIRST)
        self._asked = time.monotonic()
        if self._problem is not None:
            raise self._problem
        return self._snapshot

    def close(self) -> None:
        """Let go of the rows, once what is being read is read."""
        if self._reader is not None:
            self._reader.join()
        self._snapshot.close()

    def _read(self, fragments: Mapping[str, ds.ParquetFileFragment]) -> None:
        try:
            recipes = recipes_of(self._table)
            first = not self._files
            kept = {number: file for number, file in self._files.items() if file.path in fragments}
            known = {file.path for file in kept.values()}
            new = sorted((path for path in fragments if path not in known), reverse=True)
            published = 0.0
            for read in self._groups([fragments[path] for path in new]):
                kept = {**kept, **read}
                if first and len(kept) < len(fragments) and time.monotonic() - published > PUBLISH:
                    self._snapshot = Snapshot(self._table, kept, recipes, self._version)
                    self._shown.set()
                    published = time.monotonic()
            self._snapshot = Snapshot(self._table, kept, recipes, self._version)
            self._files = kept
        except MasklakeError as error:
            self._problem = error
        except FileNotFoundError:
            self._problem = StorageError(
                f"{self._table.uri}: its files were rewritten meanwhile: reload the page"
            )
        except Exception as error:  # whatever a store's library or a strange file leads to: the page says it
            self._problem = explain(error, self._table.uri)
        finally:
            self._shown.set()

    def _groups(self, fragments: Sequence[ds.ParquetFileFragment]) -> Iterator[dict[int, ReadFile]]:
        """Yield files with their rows: the first one alone, so that something is there to be shown."""
        group: list[tuple[int, ds.ParquetFileFragment, pa.Table]] = []
        for index, fragment in enumerate(fragments):
            started = time.monotonic()
            group.append((self._next, fragment, read_narrow(fragment, self._next)))
            self._next += 1
            if (now := time.monotonic()) - self._asked < LOOKED:
                time.sleep(REST * (now - started))
            held = sum(rows.num_rows for _, _, rows in group)
            if index == 0 or held >= GROUP_ROWS:
                yield self._kept(group)
                group = []
        yield self._kept(group)

    def _kept(self, group: Sequence[tuple[int, ds.ParquetFileFragment, pa.Table]]) -> dict[int, ReadFile]:
        rows = pa.concat_tables([NARROW.empty_table(), *(rows for _, _, rows in group)])
        if rows.num_rows >= GROUP_ROWS:
            rows = _mapped(rows)
        files, start = {}, 0
        for number, fragment, own in group:
            files[number] = ReadFile(fragment, rows.slice(start, own.num_rows), self._table.uri)
            start += own.num_rows
        return files


def _mapped(rows: pa.Table) -> pa.Table:
    """Return the same rows, in a file that has no name any more and is mapped into memory."""
    with tempfile.NamedTemporaryFile(prefix="masklake-view-", suffix=".arrow", delete=False) as file:
        name = file.name
    try:
        with pa.OSFile(name, "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
            writer.write_table(rows.unify_dictionaries())
        return pa.ipc.open_file(pa.memory_map(name)).read_all()
    finally:
        with contextlib.suppress(OSError):
            Path(name).unlink()
