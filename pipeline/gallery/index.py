"""The narrow rows of a table, read once for each data file, and put in order as they are asked for.

Data files never change, so a table that grew costs what is new. Rows lie in files without a name that are mapped
into memory (some 300 bytes a row): the system takes the memory back when others need it, and the space when we
end. While a large table is read for the first time, what is there already is shown: the newest runs first.
"""

import contextlib
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import Recipe
from pipeline.errors import MasklakeError, StorageError
from pipeline.explain import explain
from pipeline.gallery.keys import Key
from pipeline.gallery.narrow import NARROW, ROW_BITS, read_narrow
from pipeline.query import Query
from pipeline.runs import recipes_of
from pipeline.table import Table

GROUP_ROWS: Final = 1 << 17  # that share a file of ours; fewer stay in memory
ORDERS_BYTES: Final = 256 << 20  # of orders that are kept, 8 a row
PLACES: Final = 50_000  # of rows that were shown, by their keys
PATIENCE: Final = 0.7  # seconds to wait for the whole of a table, before a part of it is shown

Order = NDArray[np.int64]


class Snapshot:
    """The rows of a table at one time. It does not change: pages of it follow each other."""

    def __init__(
        self, table: Table, files: Mapping[int, "ReadFile"], recipes: Mapping[str, Recipe], version: int, total: int
    ) -> None:
        self.version = version
        self.files, self.recipes = files, recipes
        self.reading = (len(files), total) if len(files) < total else None  # files of files; None: it is all
        rows = pa.concat_tables([NARROW.empty_table(), *(file.rows for file in files.values())])
        self.count: int = rows.num_rows
        self._lock = threading.Lock()
        self._query = Query(table, rows, {key: recipe.classes for key, recipe in recipes.items()})
        self._orders: OrderedDict[tuple[str, str], Order] = OrderedDict()
        self._places: OrderedDict[Key, int] = OrderedDict()
        self._runs: list[dict[str, Any]] | None = None

    def order(self, where: str | None, sort: str) -> Order:
        """Return the places of the rows that fulfil a condition, by a column (`-`: largest first).

        Raises ConfigError for a condition or a column with an error.
        """
        asked = (where or "", sort)
        with self._lock:
            if asked in self._orders:
                self._orders.move_to_end(asked)
                return self._orders[asked]
            column = (sort.removeprefix("-"), sort.startswith("-"))
            found: Order = self._query.rows(["place"], where=where, order=[column])["place"].to_numpy()
            self._orders[asked] = found
            while len(self._orders) > 1 and sum(one.nbytes for one in self._orders.values()) > ORDERS_BYTES:
                self._orders.popitem(last=False)
        return found

    def at(self, place: int) -> dict[str, Any]:
        """Return the narrow row at a place."""
        row: dict[str, Any] = self._file(place).rows.slice(place & ((1 << ROW_BITS) - 1), 1).to_pylist()[0]
        key = Key(row["image_id"], row["run_id"], row["recipe"])
        with self._lock:
            self._places[key] = place
            if len(self._places) > PLACES:
                self._places.popitem(last=False)
        return {"key": str(key), "name": row["uri"].rpartition("/")[2], **row}

    def place_of(self, key: Key) -> int | None:
        """Return where the row of a key is."""
        with self._lock:
            if key in self._places:
                return self._places[key]
            named = zip(Key._fields, key, strict=True)
            where = " and ".join(f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in named)
            found = self._query.rows(["place"], where=where, limit=1)["place"].to_pylist()
        return found[0] if found else None

    def whole(self, place: int, columns: Sequence[str]) -> dict[str, Any]:
        """Return columns of the row at a place that the narrow rows do not have, from the table's own file.

        Raises StorageError if the file is gone, since the table was compacted: a new snapshot has another.
        """
        return self._file(place).row(place & ((1 << ROW_BITS) - 1), columns)

    def pairs(self, runs: tuple[str, str], where: str | None, by_difference: bool) -> pa.Table:
        """Return the places of the images that two runs have, as `Query.pairs` does."""
        with self._lock:
            return self._query.pairs(runs, where, by_difference)

    def runs(self) -> list[dict[str, Any]]:
        """Return what the rows say of each run, newest first."""
        with self._lock:
            if self._runs is None:
                self._runs = self._query.count_by_run()
            return self._runs

    def names_and_keys(self, order: Order) -> Iterator[tuple[str, str, str]]:
        """Yield image_id, run_id and uri of rows."""
        for place in order.tolist():
            rows, row = self._file(place).rows, place & ((1 << ROW_BITS) - 1)
            yield rows["image_id"][row].as_py(), rows["run_id"][row].as_py(), rows["uri"][row].as_py()

    def _file(self, place: int) -> "ReadFile":
        return self.files[place >> ROW_BITS]


class ReadFile:
    """A data file of the table, and its narrow rows."""

    def __init__(self, fragment: ds.ParquetFileFragment, rows: pa.Table, uri: str) -> None:
        self.path: str = fragment.path
        self.rows = rows
        self._filesystem = fragment.filesystem
        self._uri = uri

    def row(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        """Return columns of one row; what is read is the group of rows that it is in."""
        try:
            with self._filesystem.open_input_file(self.path) as opened:
                file = pq.ParquetFile(opened)
                for group in range(file.num_row_groups):
                    if number < (held := file.metadata.row_group(group).num_rows):
                        read = file.read_row_group(group, columns=list(columns))
                        found: dict[str, Any] = read.slice(number, 1).to_pylist()[0]
                        return found
                    number -= held
        except FileNotFoundError as error:
            raise StorageError(f"{self._uri}: its files were rewritten meanwhile: reload the page") from error
        except (OSError, ValueError) as error:
            raise explain(error, self._uri) from error
        raise StorageError(f"{self._uri}: {self.path} has fewer rows than it had")


class Index:
    """Keeps the newest snapshot of a table."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._lock = threading.Lock()  # of what follows
        self._files: dict[int, ReadFile] = {}
        self._next = 0
        self._version = 0
        self._snapshot = Snapshot(table, {}, {}, 0, 1)
        self._reader: threading.Thread | None = None
        self._problem: MasklakeError | None = None

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
            self._reader = threading.Thread(target=self._read, args=(fragments,), daemon=True, name="index")
            self._reader.start()

    def snapshot(self) -> Snapshot:
        """Return the newest rows: all of them, unless that takes long. Raises what went wrong in reading."""
        if (reader := self._reader) is not None:
            reader.join(PATIENCE)
        if self._problem is not None:
            raise self._problem
        return self._snapshot

    def _read(self, fragments: Mapping[str, ds.ParquetFileFragment]) -> None:
        try:
            recipes = recipes_of(self._table)
            first = not self._files
            kept = {number: file for number, file in self._files.items() if file.path in fragments}
            known = {file.path for file in kept.values()}
            new = sorted((path for path in fragments if path not in known), reverse=True)
            for read in self._groups([fragments[path] for path in new]):
                kept = {**kept, **read}
                if first and len(kept) < len(fragments):
                    self._snapshot = Snapshot(self._table, kept, recipes, self._version, len(fragments))
            self._snapshot = Snapshot(self._table, kept, recipes, self._version, len(fragments))
            self._files = kept
        except MasklakeError as error:
            self._problem = error
        except FileNotFoundError:
            self._problem = StorageError(f"{self._table.uri}: its files were rewritten meanwhile: reload the page")
        except Exception as error:  # whatever a store's library or a strange file leads to: the page says it
            self._problem = explain(error, self._table.uri)

    def _groups(self, fragments: Sequence[ds.ParquetFileFragment]) -> Iterator[dict[int, ReadFile]]:
        """Yield files with their rows: the first one alone, so that something is there to be shown."""
        group: list[tuple[int, ds.ParquetFileFragment, pa.Table]] = []
        for index, fragment in enumerate(fragments):
            group.append((self._next, fragment, read_narrow(fragment, self._next)))
            self._next += 1
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

