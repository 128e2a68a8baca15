"""What the gallery holds of a table: its rows to ask, its images, its networks."""

import threading
from collections.abc import Iterator
from typing import Any

from pipeline.config import StorageConfig
from pipeline.gallery.keys import Key
from pipeline.query import Query
from pipeline.table import Table

SHOWN = ("image_id", "run_id", "recipe", "uri", "name", "status", "confidence", "entropy", "distance", "width",
         "height", "class_pixels", "classes", "stage", "reason", "message", "finished_at")  # fmt: skip


class Gallery:
    """A table to look at."""

    def __init__(self, table: Table, storage_config: StorageConfig, registry: str | None) -> None:
        self.table = table
        self.storage = storage_config
        self.registry = registry
        self.lock = threading.Lock()
        self.query = Query(table)

    def page(self, where: str | None, sort: str, limit: int, offset: int) -> tuple[int, list[dict[str, Any]]]:
        """Return the number of rows that fulfil a condition, and some of them."""
        order = [(sort.removeprefix("-"), sort.startswith("-"))]
        with self.lock:
            count = self.query.count(where)
            rows = self.query.rows(SHOWN, where=where, order=order, limit=limit, offset=offset).to_pylist()
        return count, [shown(row) for row in rows]

    def row(self, key: Key, columns: tuple[str, ...]) -> dict[str, Any] | None:
        """Return columns of one row."""
        text = " and ".join(
            f"{name} = '{value.replace(chr(39), chr(39) * 2)}'"
            for name, value in zip(key._fields, key, strict=True)
        )
        with self.lock:
            found = self.query.rows(columns, where=text, limit=1).to_pylist()
        return found[0] if found else None

    def all(self, where: str | None) -> Iterator[dict[str, Any]]:
        """Yield image_id, run_id and uri of rows that fulfil a condition."""
        with self.lock:
            for batch in self.query.batches(("image_id", "run_id", "uri"), where=where):
                yield from batch.to_pylist()


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as the page gets it."""
    pixels, names = row.pop("class_pixels"), row.pop("classes")
    total = sum(pixels or ()) or 1
    error = {"stage": row.pop("stage"), "type": row.pop("reason"), "message": row.pop("message")}
    return {
        "key": str(Key(row["image_id"], row["run_id"], row["recipe"])),
        **row,
        "shares": {name: n / total for name, n in zip(names or (), pixels or (), strict=False)},
        "error": error if row["status"] != "ok" else None,
        "finished_at": row["finished_at"] and row["finished_at"].isoformat(),
    }
