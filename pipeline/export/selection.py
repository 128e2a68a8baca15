"""Which rows an export takes: masks that fulfil the condition, one an object, whose classes agree."""

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from pipeline.errors import ConfigError, TableError
from pipeline.query import Query

COLUMNS: Final = ("image_id", "uri", "name", "etag", "size_bytes", "width", "height", "mask", "class_pixels",
                  "confidence", "recipe", "model", "run_id", "finished_at", "classes")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rows to export. Held in memory: a few hashes a row, never masks."""

    where: str
    keys: frozenset[bytes]
    classes: tuple[str, ...]  # empty: the table does not tell
    recipes: tuple[str, ...]
    older: int  # rows left out, since a newer one has the same URI


def key_of(row: dict[str, Any]) -> bytes:
    """Return what tells this row from all others."""
    return hashlib.blake2b(
        f"{row['image_id']}\0{row['recipe']}\0{row['run_id']}".encode(), digest_size=16
    ).digest()


def select(
    query: Query, *, where: str | None, run_id: str | None, recipe: str | None, limit: int | None
) -> Selection:
    """Return the rows to export: of each URI the newest. `limit` takes a sample that is always the same.

    Raises ConfigError for a condition with an error, and where recipes disagree on the classes; TableError
    where nothing is left.
    """
    if where is not None:
        query.check(where)
    runs = query.table.runs_with_rows()
    if run_id is not None and run_id not in runs:
        known = f"the newest are: {', '.join(runs[-5:])}" if runs else "it has none"
        raise TableError(f"{query.table.uri} has no rows of run {run_id!r}; {known}")
    full = "status = 'ok'"
    for column, value in (("run_id", run_id), ("recipe", recipe)):
        if value is not None:
            quoted = value.replace("'", "''")
            full += f" and {column} = '{quoted}'"
    if where is not None:
        full += f" and ({where}\n)"
    newest: dict[bytes, tuple[Any, str, bytes]] = {}
    classes: dict[str, tuple[str, ...]] = {}
    rows = 0
    asked = ["uri", "image_id", "run_id", "recipe", "finished_at", "classes"]
    for batch in query.batches(asked, where=full):
        for row in batch.to_pylist():
            rows += 1
            classes[row["recipe"]] = tuple(row["classes"] or ())
            place = hashlib.blake2b(row["uri"].encode(), digest_size=16).digest()
            mine = (row["finished_at"], row["run_id"], key_of(row))
            if place not in newest or mine > newest[place]:
                newest[place] = mine
    if not rows:
        raise TableError(_nothing(query, full != "status = 'ok'"))
    if len(set(classes.values())) > 1:
        told = "; ".join(
            f"--recipe {name}: {', '.join(names) or 'unnamed'}" for name, names in classes.items()
        )
        raise ConfigError(f"the rows are of {len(classes)} recipes whose classes differ, choose one: {told}")
    keys = sorted(key for _, _, key in newest.values())
    return Selection(
        where=full,
        keys=frozenset(keys[:limit]),
        classes=next(iter(classes.values())),
        recipes=tuple(sorted(classes)),
        older=rows - len(newest),
    )


def _nothing(query: Query, filtered: bool) -> str:
    uri = query.table.uri
    masks, failed = query.count("status = 'ok'"), query.count("status = 'failed'")
    if filtered and masks:
        return f"{uri}: none of its {masks:,} masks fulfils the condition: mend --where, --run or --recipe"
    if failed:
        return f"{uri} has no mask to export, all its {failed:,} images failed: masklake failures {uri}"
    return f"{uri} has no rows yet: fill it with masklake segment"
