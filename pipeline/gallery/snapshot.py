"""The rows of a table at one time: in the order that somebody asks for, one by one, and as a whole."""

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config import Recipe
from pipeline.gallery.keys import Key
from pipeline.gallery.narrow import NARROW, ROW_BITS, ReadFile
from pipeline.query import Query
from pipeline.table import Table

ORDERS_BYTES: Final = 256 << 20  # of orders that are kept, 8 a row
PLACES: Final = 50_000  # of rows that were shown, by their keys

Order = NDArray[np.int64]  # places of rows


class Snapshot:
    """The rows of a table at one time. It does not change: pages of it follow each other."""

    def __init__(
        self, table: Table, files: Mapping[int, ReadFile], recipes: Mapping[str, Recipe], version: int
    ) -> None:
        self.version = version
        self.files, self.recipes = files, recipes
        rows = pa.concat_tables([NARROW.empty_table(), *(file.rows for file in files.values())])
        prefix = os.path.commonprefix([uri for file in files.values() for uri in file.uris])  # noqa: RUF071 - of text
        self.count: int = rows.num_rows
        self._lock = threading.Lock()
        classes = {key: recipe.classes for key, recipe in recipes.items()}
        self._query = Query(table, rows, classes, prefix)
        self._orders: OrderedDict[tuple[str, str], Order] = OrderedDict()
        self._places: OrderedDict[Key, int] = OrderedDict()

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

    def classes(self, recipe: str) -> tuple[str, ...]:
        """Return the names of a recipe's classes; none if its runs' folders are gone."""
        return self.recipes[recipe].classes if recipe in self.recipes else ()

    def close(self) -> None:
        """Let go of the rows."""
        with self._lock:
            self._query.close()

    def pairs(self, runs: tuple[str, str], where: str | None, by_difference: bool) -> pa.Table:
        """Return the places of the images that two runs have, as `Query.pairs` does."""
        with self._lock:
            return self._query.pairs(runs, where, by_difference)

    def runs(self) -> list[dict[str, Any]]:
        """Return run_id, recipe, model, rows, ok, and when the first row was finished, newest first."""
        runs: dict[tuple[str, str], dict[str, Any]] = {}
        for count in (one for file in self.files.values() for one in file.counts):
            run = runs.setdefault((count["run_id"], count["recipe"]), {**count, "rows": 0, "ok": 0})
            run["rows"] += count["rows"]
            run["ok"] += count["rows"] if count["status"] == "ok" else 0
            run["first"] = min(run["first"], count["first"])
        return sorted(runs.values(), key=lambda run: (run["run_id"], run["recipe"]), reverse=True)

    def sample(self, recipe: str) -> int | None:
        """Return the place of some mask of a recipe; None without any."""
        for number, file in self.files.items():
            if any(one["recipe"] == recipe and one["status"] == "ok" for one in file.counts):
                fits = pc.and_(pc.equal(file.rows["recipe"], recipe), pc.equal(file.rows["status"], "ok"))
                return (number << ROW_BITS) + int(pc.index(fits, True).as_py())
        return None

    def columns(self, order: Order, names: Sequence[str]) -> pa.Table:
        """Return columns of the narrow rows at some places, in their order; much faster than one by one."""
        by_file = np.argsort(order, kind="stable")
        numbers = order[by_file] >> ROW_BITS
        parts = [NARROW.empty_table().select(names)]
        for mine in np.split(by_file, np.flatnonzero(np.diff(numbers)) + 1) if len(order) else ():
            rows = self._file(int(order[mine[0]])).rows.select(names)
            parts.append(rows.take(pa.array(order[mine] & ((1 << ROW_BITS) - 1))))
        return pa.concat_tables(parts).take(pa.array(np.argsort(by_file)))

    def _file(self, place: int) -> ReadFile:
        return self.files[place >> ROW_BITS]
